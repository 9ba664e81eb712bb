package router

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/aura360/eventbus/bus/driver"
	"github.com/aura360/eventbus/events"
	"github.com/aura360/eventbus/middleware"
)

// Handle registers fn for the events of type T, under a name that is unique in
// the group: it says in metrics, traces and the poison queue who failed. T is
// the event's struct or a pointer to it. At most one HandlerConfig.
//
// A type has one handler in a group; whoever else wants the same events uses
// another group. Mistakes are reported by Run, all at once.
func Handle[T events.Event](r *Router, name string, fn func(context.Context, T) error, cfg ...HandlerConfig) {
	h := register[T](r, name, cfg)
	if h == nil {
		return
	}
	h.call = func(msg *message.Message) ([]*message.Message, error) {
		ctx := msg.Context()
		e, ok := middleware.DeliveryFrom(ctx).Event.(T)
		if !ok {
			return nil, replaced(name)
		}
		return nil, fn(ctx, e)
	}
}

// register returns the handler of T's events, without the function to call, or
// nil when there is something to complain about.
func register[T events.Event](r *Router, name string, cfg []HandlerConfig) *handler {
	def, err := events.DefinitionFor[T]()
	if err != nil {
		r.errs = append(r.errs, fmt.Errorf("handler %q: %w", name, err))
		return nil
	}
	h := r.newHandler(name, cfg)
	if h == nil {
		return nil
	}
	t := r.topicFor(def.Topic)
	if other := t.typed[def.Type]; other != nil {
		r.errs = append(r.errs, fmt.Errorf(
			"handler %q: type %s is handled by %q in group %s already: handle it there, or use another group",
			name, def.Type, other.name, r.group))
		return nil
	}
	h.eventType = def.Type
	h.decode = func(msg *message.Message) (any, error) { return events.Decode[T](msg.Metadata, msg.Payload) }
	t.typed[def.Type] = h
	return h
}

// replaced is the error of a message that is not the one that was decoded.
func replaced(name string) error {
	return middleware.Permanent(fmt.Errorf("handler %s: the message was replaced by middleware", name))
}

// HandleRaw registers fn for the messages of a topic that no typed handler of
// this router takes: as they are, not decoded, tombstones (nil payload)
// included. It has the same retries, duplicates dropped and poison queue. One
// per topic. At most one HandlerConfig.
func HandleRaw(r *Router, name, topic string, fn func(context.Context, *message.Message) error, cfg ...HandlerConfig) {
	h := r.newHandler(name, cfg)
	if h == nil {
		return
	}
	t := r.topicFor(topic)
	if t.raw != nil {
		r.errs = append(r.errs, fmt.Errorf(
			"handler %q: topic %s has the raw handler %q in group %s already: use another group",
			name, topic, t.raw.name, r.group))
		return
	}
	h.call = func(msg *message.Message) ([]*message.Message, error) { return nil, fn(msg.Context(), msg) }
	t.raw = h
}

// handler is one registered function with its part of the chain.
type handler struct {
	name      string
	eventType string // "" for a raw handler
	cfg       HandlerConfig
	decode    func(*message.Message) (any, error) // nil for a raw handler
	call      message.HandlerFunc                 // the function itself
	chain     message.HandlerFunc                 // what stands around it
	batch     *collector                          // of a batch handler
}

func (r *Router) newHandler(name string, cfg []HandlerConfig) *handler {
	bad := func(format string, a ...any) *handler {
		r.errs = append(r.errs, fmt.Errorf("handler %q: %s", name, fmt.Sprintf(format, a...)))
		return nil
	}
	switch {
	case name == "" || len(name) > 100:
		return bad("want a name of 1 to 100 bytes")
	case r.names[name]:
		return bad("the name is taken in group %s", r.group)
	case len(cfg) > 1:
		return bad("want at most one HandlerConfig, got %d", len(cfg))
	}
	h := &handler{name: name}
	if len(cfg) == 1 {
		h.cfg = cfg[0]
	}
	before := len(r.errs)
	c := &h.cfg
	if c.Timeout < 0 || c.Concurrency < 0 || c.PerSecond < 0 || c.Burst < 0 || math.IsNaN(c.PerSecond) || negative(c.Retry) {
		bad("a timeout, concurrency, rate or pause is negative")
	}
	if c.Delays == nil {
		c.Delays = r.cfg.Delays
	}
	if c.Delays.Check() != nil {
		bad("Delays %v: want %s", c.Delays, middleware.DelaysWanted)
	}
	if len(r.errs) > before {
		return nil
	}
	r.names[name] = true
	return h
}

// topicHandlers takes every message of one topic to where it belongs.
type topicHandlers struct {
	router  *Router
	topic   string
	backend string
	typed   map[string]*handler // by event type
	raw     *handler            // nil: types nobody handles are ignored

	outer message.HandlerFunc // guard, trace, metrics, then dispatch
}

var errNoHandler = errors.New("no handler")

// build puts the chains together; their order is in docs/architecture.md.
func (t *topicHandlers) build() {
	r := t.router
	t.outer = wrap(t.dispatch, r.with(middleware.PieceMetrics, middleware.Measure(r.parts.Metrics, r.parts.Tracing.System)), r.cfg.Outer)
	t.outer = wrap(t.outer, []message.HandlerMiddleware{middleware.Guard(r.parts.Log)},
		r.with(middleware.PieceTrace, middleware.Trace(r.parts.Tracing)))
	for _, h := range t.typed {
		h.chain = t.chainOf(h)
	}
	if t.raw != nil {
		t.raw.chain = t.chainOf(t.raw)
	}
}

// chainOf is the part of the chain that belongs to one handler.
func (t *topicHandlers) chainOf(h *handler) message.HandlerFunc {
	r := t.router
	retry := overlay(h.cfg.Retry, r.cfg.Retry)
	delay, delayed := r.delayOf(h)
	if delayed && retry.MaxAfter == 0 {
		retry.MaxAfter = retry.Max
	}
	timeout := h.cfg.Timeout
	if timeout == 0 {
		timeout = r.cfg.Timeout
	}
	var limits []message.HandlerMiddleware
	if h.cfg.Breaker != nil {
		b := *h.cfg.Breaker
		if b.Name == "" {
			b.Name = h.name
		}
		limits = append(limits, middleware.CircuitBreaker(b))
	}
	if h.cfg.PerSecond > 0 {
		limits = append(limits, middleware.Throttle(h.cfg.PerSecond, max(h.cfg.Burst, 1)))
	}
	concurrency := h.cfg.Concurrency
	if h.batch != nil {
		h.batch.limit(timeout, concurrency)
		timeout, concurrency = 0, 0
	}
	if concurrency > 0 {
		limits = append(limits, middleware.Concurrency(concurrency))
	}
	if timeout > 0 {
		limits = append(limits, middleware.Timeout(timeout))
	}
	return wrap(h.call,
		r.with(middleware.PieceDeduplicate, middleware.Deduplicate(r.cfg.Marks, r.parts.Log)),
		r.with(middleware.PiecePoison, middleware.Poison(r.parts.Poison, r.parts.Log)),
		r.with(middleware.PieceDelay, delay),
		r.with(middleware.PieceRetry, middleware.Retry(retry, r.parts.Log)),
		limits,
		r.with(middleware.PieceRecover, middleware.Recover()),
		r.cfg.Inner, h.cfg.Inner)
}

// with returns the piece, or nothing when it is left out.
func (r *Router) with(name middleware.Piece, m message.HandlerMiddleware) []message.HandlerMiddleware {
	if r.without(name) {
		return nil
	}
	return []message.HandlerMiddleware{m}
}

func (r *Router) without(name middleware.Piece) bool { return slices.Contains(r.cfg.Without, name) }

// wrap puts pieces around f, the first outermost.
func wrap(f message.HandlerFunc, pieces ...[]message.HandlerMiddleware) message.HandlerFunc {
	all := slices.Concat(pieces...)
	for _, m := range slices.Backward(all) {
		f = m(f)
	}
	return f
}

// handle takes what the topic delivers through the chain.
func (t *topicHandlers) handle(msg *message.Message) error {
	middleware.Begin(msg, t.backend, t.router.group, t.topic)
	return t.run(msg)
}

// run takes a delivery through the chain.
func (t *topicHandlers) run(msg *message.Message) error {
	out, err := t.outer(msg)
	if err == nil && len(out) > 0 {
		msg.Ack() // what the user's middleware returned goes nowhere; Guard waits for this
	}
	return err
}

// dispatch finds out what the message is and whom it is for.
func (t *topicHandlers) dispatch(msg *message.Message) ([]*message.Message, error) {
	d := middleware.DeliveryFrom(msg.Context())
	if reason, bad := msg.Metadata[events.HeaderMalformed]; bad {
		return t.poison(d, &events.Error{Reason: events.ReasonMalformed, Err: errors.New(reason)})
	}
	if target := msg.Metadata[events.HeaderTargetGroup]; target != "" && target != t.router.group {
		d.Outcome = middleware.OutcomeIgnored // redriven to another group
		return nil, nil
	}
	h, err := t.find(d)
	switch {
	case errors.Is(err, errNoHandler):
		d.Outcome = middleware.OutcomeIgnored
		return nil, nil
	case err != nil:
		return t.poison(d, err)
	}
	d.Handler = h.name
	if h.decode != nil {
		if d.Event, err = h.decode(msg); err != nil {
			return t.poison(d, err)
		}
	}
	return h.chain(msg)
}

// find returns the handler for a message. A type that nobody here handles is
// normal on a shared topic and during a rolling upgrade.
func (t *topicHandlers) find(d *middleware.Delivery) (*handler, error) {
	msg := d.Msg
	if d.Step > 0 { // a delayed retry: it names its handler
		return t.named(d)
	}
	if msg.Payload == nil { // a tombstone: nothing to decode
		if t.raw != nil {
			return t.raw, nil
		}
		return nil, errNoHandler
	}
	typ, err := events.TypeOf(msg.Metadata, msg.Payload)
	if err == nil {
		if _, known := events.Lookup(typ); known {
			d.EventType = typ
		}
		if h := t.typed[typ]; h != nil {
			return h, nil
		}
	}
	switch {
	case t.raw != nil:
		return t.raw, nil
	case err != nil:
		return nil, err
	}
	return nil, errNoHandler
}

// poison gives up a message that no handler can be blamed for.
func (t *topicHandlers) poison(d *middleware.Delivery, err error) ([]*message.Message, error) {
	failed := func(*message.Message) ([]*message.Message, error) { return nil, err }
	return wrap(failed, t.router.with(middleware.PiecePoison, middleware.Poison(t.router.parts.Poison, t.router.parts.Log)))(d.Msg)
}

// Deliver takes one message through the chain and its handler, on the calling
// goroutine, and acks or nacks it as the outcome is. It is for test harnesses
// and consumers that bring messages by other ways than Run; package bustest
// stands on it. The first call ends the registering of handlers, as Run does,
// and Run can not be called any more. A message of one of RetryTopics is taken
// as due.
func (r *Router) Deliver(topic string, msg *message.Message) error {
	if err := r.build(true); err != nil {
		return err
	}
	var err error
	if t := r.topics[topic]; t != nil {
		err = t.handle(msg)
	} else if t := r.tiers[topic]; t != nil {
		err = t.resume(msg)
	} else {
		return fmt.Errorf("router %s: no handler for topic %s", r.group, topic)
	}
	driver.Settle(msg, err == nil)
	return err
}
