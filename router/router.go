package router

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/aura360/eventbus/bus"
	"github.com/aura360/eventbus/bus/driver"
	"github.com/aura360/eventbus/internal/wlog"
	"github.com/aura360/eventbus/middleware"
)

// Config changes what a router does by default. The zero value is right for
// most.
type Config struct {
	// MaxInFlight bounds the messages being handled or waiting to be, 1 to 10000.
	// Defaults to the bus's.
	MaxInFlight int
	// DrainTimeout is how long Run waits for running handlers when it stops.
	// Defaults to the bus's (30 s).
	DrainTimeout time.Duration
	// Retry is how handlers are tried. Empty fields default to the bus's: 5
	// tries, pauses below 100 ms doubling to 10 s.
	Retry middleware.RetryPolicy
	// Delays is how long a message waits for its second, third and further rounds
	// of tries once those of Retry have failed: up to 10 rising durations of whole
	// milliseconds from 1 ms to 24 h; middleware.NoDelays() for none. Defaults to
	// the bus's (5 s, 1 min, 10 min).
	Delays middleware.Delays
	// Timeout of one try of a handler. Defaults to the bus's (none).
	Timeout time.Duration
	// Outer stands around everything that happens to a message once it is
	// measured: it sees each delivered message once, before it is decoded.
	Outer []message.HandlerMiddleware
	// Inner stands right around the handler: it sees every try.
	Inner []message.HandlerMiddleware
	// Without leaves pieces out of the chain; see middleware.SubscribePieces.
	Without []middleware.Piece
	// Marks is where handled events are remembered. Defaults to the bus's memory.
	Marks middleware.Marks
}

// HandlerConfig changes what the router does for one handler.
type HandlerConfig struct {
	// Retry and Timeout override the router's where they are not empty.
	Retry   middleware.RetryPolicy
	Timeout time.Duration
	// Delays overrides the router's where it is not nil.
	Delays middleware.Delays
	// Ordered makes later events of a key wait while one of them waits for a
	// delayed retry. Otherwise they pass it. The stock adapters hold up its whole
	// partition; see middleware.Delay.
	Ordered bool
	// Concurrency is how many messages this handler takes at once, at most.
	// Defaults to no bound of its own.
	Concurrency int
	// PerSecond throttles this handler: tries per second on average, with bursts
	// of Burst (defaults to 1). Defaults to no throttle.
	PerSecond float64
	Burst     int
	// Breaker pauses this handler, with its messages waiting, while it keeps
	// failing. Defaults to none.
	Breaker *middleware.BreakerConfig
	// Inner stands right around this handler, inside the router's Inner.
	Inner []message.HandlerMiddleware
}

// Permanent marks an error that trying again cannot mend: the message goes to
// the poison queue at once. nil stays nil.
func Permanent(err error) error { return middleware.Permanent(err) }

// RetryAfter marks an error that is worth another try after d, in place of the
// router's own pause. Where there are delayed retries and d is longer than
// Retry.Max, the message waits for one of those, no shorter than d, and holds up
// nothing meanwhile. nil stays nil.
func RetryAfter(d time.Duration, err error) error { return middleware.RetryAfter(d, err) }

// Router runs the handlers of one consumer group. Add handlers first, then Run
// it once.
type Router struct {
	bus    *bus.Bus
	parts  bus.Parts
	group  string
	cfg    Config
	log    *slog.Logger // names the group; the middleware names it by itself
	wm     *message.Router
	topics map[string]*topicHandlers
	tiers  map[string]*tier // by retry topic; made by build
	crews  map[string]*crew // by the UUIDs of their tickets; not changed once Watermill's router runs
	names  map[string]bool
	errs   []error // what Handle had to complain about; Run returns it

	stopping chan struct{} // closed when Run begins to stop

	mu       sync.Mutex
	built    bool
	buildErr error
}

// New returns a router for a consumer group: each group gets every event of the
// topics it subscribes to, the processes of one group share them. The group's
// name is 1 to 100 characters of a-z A-Z 0-9 . _ -. At most one Config.
func New(b *bus.Bus, group string, cfg ...Config) (*Router, error) {
	if len(cfg) > 1 {
		return nil, fmt.Errorf("router.New(%q): want at most one Config, got %d", group, len(cfg))
	}
	r := &Router{
		bus: b, parts: b.Parts(), group: group,
		topics: map[string]*topicHandlers{}, crews: map[string]*crew{}, names: map[string]bool{},
		stopping: make(chan struct{}),
	}
	if len(cfg) == 1 {
		r.cfg = cfg[0]
	}
	if err := r.complete(); err != nil {
		return nil, fmt.Errorf("router.New(%q): %w", group, err)
	}
	r.log = r.parts.Log.With("group", group)
	wm, err := message.NewRouter(message.RouterConfig{
		// Watermill's own bound must never fire before ours: it would cut short
		// handlers that we are still waiting for. A handler that ignores its context is left behind then.
		CloseTimeout: r.cfg.DrainTimeout + 5*time.Second,
	}, wlog.New(r.log))
	if err != nil {
		return nil, fmt.Errorf("router.New(%q): %w", group, err)
	}
	wm.AddMiddleware(r.lead) // the first one is the outermost
	r.wm = wm
	return r, nil
}

// complete fills the defaults and returns everything that is wrong.
func (r *Router) complete() error {
	c, d := &r.cfg, r.parts.Config
	var errs []error
	bad := func(is bool, format string, a ...any) {
		if is {
			errs = append(errs, fmt.Errorf(format, a...))
		}
	}
	bad(r.group == "", "the group's name is empty")
	if c.MaxInFlight == 0 {
		c.MaxInFlight = d.MaxInFlight
	}
	bad(c.MaxInFlight < 1 || c.MaxInFlight > 10_000, "MaxInFlight %d: want 1 to 10000", c.MaxInFlight)
	if c.DrainTimeout == 0 {
		c.DrainTimeout = d.DrainTimeout
	}
	bad(c.DrainTimeout < 0 || c.Timeout < 0, "a timeout is negative")
	bad(negative(c.Retry), "a duration of Retry is negative")
	if c.Timeout == 0 {
		c.Timeout = d.HandlerTimeout
	}
	if c.Delays == nil {
		c.Delays = d.RetryDelays
	}
	bad(c.Delays.Check() != nil, "Delays %v: want %s", c.Delays, middleware.DelaysWanted)
	if c.Marks == nil {
		c.Marks = r.parts.Marks
	}
	c.Retry = overlay(c.Retry, middleware.RetryPolicy{
		MaxAttempts: d.RetryMaxAttempts, Initial: d.RetryInitialInterval, Max: d.RetryMaxInterval,
	})
	for _, p := range c.Without {
		bad(!slices.Contains(middleware.SubscribePieces, p), "without %q: want some of %v", p, middleware.SubscribePieces)
	}
	return errors.Join(errs...)
}

// negative tells whether a policy has a pause that makes no sense. A negative
// count or bound of time means no limit.
func negative(p middleware.RetryPolicy) bool { return p.Initial < 0 || p.Max < 0 || p.MaxAfter < 0 }

// overlay fills p's empty fields from def.
func overlay(p, def middleware.RetryPolicy) middleware.RetryPolicy {
	if p.MaxAttempts == 0 {
		p.MaxAttempts = def.MaxAttempts
	}
	if p.Initial == 0 {
		p.Initial = def.Initial
	}
	if p.Max == 0 {
		p.Max = def.Max
	}
	if p.MaxElapsed == 0 {
		p.MaxElapsed = def.MaxElapsed
	}
	if p.MaxAfter == 0 {
		p.MaxAfter = def.MaxAfter
	}
	if p.AttemptTimeout == 0 {
		p.AttemptTimeout = def.AttemptTimeout
	}
	if p.Sleep == nil {
		p.Sleep = def.Sleep
	}
	return p
}

// Group returns the consumer group's name.
func (r *Router) Group() string { return r.group }

// Watermill returns the router underneath: add middleware (outermost of all) or
// handlers of your own before Run. Run and stop it only through this Router.
// Subscriber decorators see the messages of handlers added there, not of those
// added here: these come to long-lived workers by a shorter way.
func (r *Router) Watermill() *message.Router { return r.wm }

// Running is closed when every subscription has been asked for.
func (r *Router) Running() <-chan struct{} { return r.wm.Running() }

// errDrain is the cause that handlers see when they outlast the drain timeout.
var errDrain = errors.New("router stopped: the handler did not finish within the drain timeout")

// Run subscribes and handles until ctx ends. It then stops fetching, lets
// running handlers finish with a context that is still alive, sees their acks
// through, and returns nil. A handler that is not done within DrainTimeout
// finds its context cancelled; its message is handled again later, and Run
// returns an error. Run also returns an error, without handling anything, when
// a handler was registered wrongly. It can be called once.
func (r *Router) Run(ctx context.Context) error {
	if err := r.build(false); err != nil {
		return err
	}
	sub, err := r.bus.Subscribe(r.group, driver.SubscriberOptions{
		MaxInFlight: r.cfg.MaxInFlight, DirectSettle: true,
	})
	if err != nil {
		return fmt.Errorf("router %s: %w", r.group, err)
	}
	// Handlers live on this context: it carries what ctx carries and the bus, and
	// outlives ctx for as long as the drain lasts.
	base, cancel := context.WithCancelCause(bus.NewContext(context.WithoutCancel(ctx), r.bus))
	defer cancel(nil)
	// Watermill's router is told to stop by a context of its own. That alone ends
	// nothing: it waits for its channels to close, which Drain brings about.
	told, tell := context.WithCancel(base)
	defer tell()
	add := func(topic string, sub driver.Subscriber, handle message.NoPublishHandlerFunc) {
		c := r.newCrew(base, topic, sub)
		r.crews[c.ticket.UUID] = c
		r.wm.AddConsumerHandler(r.group+"/"+topic, topic, c, handle)
	}
	for topic, t := range r.topics {
		add(topic, sub, t.handle)
	}
	for topic, t := range r.tiers {
		add(topic, dueSubscriber{sub, t, told}, t.resume)
	}
	ran := make(chan error, 1)
	go func() { ran <- r.wm.Run(told) }()

	select {
	case err := <-ran: // never started, or every subscription ended by itself
		close(r.stopping)
		return errors.Join(err, sub.Close())
	case <-ctx.Done():
	}
	r.log.Info("router stopping: waiting for running handlers", "timeout", r.cfg.DrainTimeout.String())
	tell()
	close(r.stopping)
	// Drain first, cancel last. Watermill's own Close cancels the contexts of
	// running handlers first, and their messages come again.
	drain, stopDrain := context.WithTimeoutCause(context.Background(), r.cfg.DrainTimeout, errDrain)
	defer stopDrain()
	if err = sub.Drain(drain); err != nil {
		err = fmt.Errorf("router %s: %w; what was not done is handled again: %w", r.group, errDrain, err)
		cancel(errDrain)
		for _, c := range r.crews {
			c.close() // a handler that ignores its context has until Watermill's bound
		}
	}
	return errors.Join(err, sub.Close(), <-ran)
}

// build checks the registrations and puts the chains together, once. A second
// call is an error unless again; then it returns what the first did.
func (r *Router) build(again bool) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case !r.built:
		r.built = true
		r.buildErr = r.buildOnce()
	case !again:
		return fmt.Errorf("router %s: it has run already; make a new one", r.group)
	}
	return r.buildErr
}

func (r *Router) buildOnce() error {
	if len(r.errs) > 0 {
		return fmt.Errorf("router %s: %w", r.group, errors.Join(r.errs...))
	}
	if len(r.topics) == 0 && len(r.wm.Handlers()) == 0 {
		return fmt.Errorf("router %s: no handlers: add some with router.Handle", r.group)
	}
	for _, t := range r.topics {
		t.build()
	}
	r.buildTiers()
	return nil
}

// topicFor returns what handles a topic, making it when it is the first.
func (r *Router) topicFor(topic string) *topicHandlers {
	t := r.topics[topic]
	if t == nil {
		t = &topicHandlers{router: r, topic: topic, backend: r.parts.Backend.Name(), typed: map[string]*handler{}}
		r.topics[topic] = t
	}
	return t
}

// Topics returns the topics that the router subscribes to, sorted.
func (r *Router) Topics() []string {
	out := make([]string, 0, len(r.topics))
	for t := range r.topics {
		out = append(out, t)
	}
	slices.Sort(out)
	return out
}
