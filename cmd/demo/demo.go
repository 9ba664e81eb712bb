package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"slices"
	"sync/atomic"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"golang.org/x/sync/errgroup"

	"github.com/aura360/eventbus/bus"
	"github.com/aura360/eventbus/bus/driver"
	"github.com/aura360/eventbus/events"
	"github.com/aura360/eventbus/middleware"
	"github.com/aura360/eventbus/router"
)

// demo is one run.
type demo struct {
	opts    options
	cfg     bus.Config
	bus     *bus.Bus
	ledger  *ledger
	journal *journal
	api     *api
	store   *vectorStore
	routers []*router.Router
	listen  net.Listener // nil without an API
	input   *input       // nil unless the traffic comes from a file
	traffic *traffic

	audit   *driver.Audit // what the server's settings mean, nil when it has none
	unset   bool          // MESSAGING_BACKEND was not set
	talk    talk
	backlog atomic.Int64 // messages that waited for our groups before the traffic began
	phase   atomic.Pointer[string]
	started atomic.Pointer[time.Time] // when the traffic began
	gaveUp  string                    // why the wait for consumers ended early; "" when it did not
	done    chan struct{}             // closed when the run is over

	// Two contexts, because there are two ways to stop: users ends the traffic,
	// and everything that was accepted is still handled; all ends that too.
	all, users       context.Context
	endAll, endUsers context.CancelFunc
}

// open makes everything and starts nothing.
func open(o options, stdin io.Reader, j *journal) (*demo, error) {
	unset := os.Getenv("MESSAGING_BACKEND") == ""
	if unset {
		if err := os.Setenv("MESSAGING_BACKEND", bus.Memory); err != nil {
			return nil, err
		}
	}
	cfg, err := bus.ConfigFromEnv()
	if err != nil {
		return nil, err
	}
	if cfg.Backend == bus.Disabled {
		return nil, errors.New("MESSAGING_BACKEND=disabled discards every event: want memory, redis or kafka")
	}
	d := &demo{
		opts: o, journal: j, ledger: newLedger(), store: newVectorStore(), unset: unset, done: make(chan struct{}),
	}
	if os.Getenv("SERVICE_NAME") == "" {
		cfg.ServiceName = "aura360-demo"
	}
	cfg.Logger = j.logger()
	cfg.PublishMiddleware = []middleware.Publish{d.ledger.publishing}
	d.cfg = cfg
	d.setPhase("connecting")
	d.all, d.endAll = context.WithCancel(context.Background())
	d.users, d.endUsers = context.WithCancel(d.all)
	if d.bus, err = bus.Open(d.all, cfg); err != nil {
		return nil, err
	}
	d.api = &api{bus: d.bus, replies: newReplies()}
	if err := d.build(stdin); err != nil {
		return nil, errors.Join(err, d.bus.Close())
	}
	return d, nil
}

func (d *demo) build(stdin io.Reader) error {
	o := d.opts
	var err error
	if d.routers, err = d.consumers(); err != nil {
		return err
	}
	d.traffic = &traffic{length: o.length, send: d.send}
	switch o.input {
	case "":
		d.traffic.source = newGenerator(o.seed, o.rate, o.users)
		if o.rate == 0 {
			d.traffic.source = nobody{d.users, o.length}
		}
	default:
		in := &input{name: o.input, rate: o.rate, report: d.journal.note, lines: bufio.NewReader(stdin)}
		if o.input != "-" {
			f, err := os.Open(o.input)
			if err != nil {
				return err
			}
			in.lines = bufio.NewReader(f)
		}
		d.input, d.traffic.source = in, in
	}
	if o.addr != "" {
		var lc net.ListenConfig
		d.listen, err = lc.Listen(d.all, "tcp", o.addr)
	}
	return err
}

// consumers makes the platform's four consumer groups.
func (d *demo) consumers() ([]*router.Router, error) {
	var all []*router.Router
	group := func(name string, register func(*router.Router)) error {
		r, err := router.New(d.bus, name, router.Config{
			Outer: []message.HandlerMiddleware{d.ledger.delivering},
			Inner: append(slices.Clone(d.opts.inner), d.ledger.handling),
		})
		if err != nil {
			return err
		}
		register(r)
		all = append(all, r)
		return nil
	}
	aggregator, vectors, agent := newAggregator(), vectorizer{d.store}, guardian{d.store}
	err := errors.Join(
		group("vectordb-context-aggregator", func(r *router.Router) {
			handle(d.ledger, r, "aggregate-mood", aggregator.Mood)
			handle(d.ledger, r, "aggregate-activity", aggregator.Activity)
		}),
		group("vectordb-vectorization", func(r *router.Router) {
			handle(d.ledger, r, "vectorize", vectors.Vectorize)
			handle(d.ledger, r, "store", vectors.Store)
		}),
		group("agents-guardian", func(r *router.Router) {
			handle(d.ledger, r, "answer", agent.Answer)
		}),
		group("agents-guardian-responses", func(r *router.Router) {
			handle(d.ledger, r, "reply", d.api.replies.Whole)
			handle(d.ledger, r, "reply-chunk", d.api.replies.Chunk)
		}),
	)
	return all, err
}

// handle is router.Handle, and tells the ledger whom to expect.
func handle[T events.Event](l *ledger, r *router.Router, name string, fn func(context.Context, T) error) {
	router.Handle(r, name, fn)
	if def, err := events.DefinitionFor[T](); err == nil { // else Run reports it
		l.expect(def.Type, r.Group())
	}
}

// run connects, lets the users act, waits until what they did is settled, and
// stops everything in the order in which nothing is lost: those who publish
// before those who consume, and the bus last.
func (d *demo) run() (err error) {
	defer close(d.done)
	defer func() { err = errors.Join(err, d.bus.Close()) }()
	if err := d.reach(); err != nil {
		return err
	}
	consumers, ctx := errgroup.WithContext(d.all)
	defer context.AfterFunc(ctx, d.endUsers)() // a router that fails ends the run
	for _, r := range d.routers {
		consumers.Go(func() error { return r.Run(ctx) })
	}
	d.connect(ctx)
	closeAPI := d.serve()

	d.begin()
	d.traffic.run(ctx, d.users)
	d.setPhase("settling")
	err = closeAPI(ctx)
	d.settle(ctx)
	d.talk.waiting.Wait()

	d.setPhase("stopping")
	d.endAll()
	return errors.Join(err, consumers.Wait())
}

// stop ends the users' part, and what they did is settled; a second one gives
// that up too.
func (d *demo) stop() {
	if d.users.Err() != nil {
		d.endAll()
	}
	d.endUsers()
}

func (d *demo) setPhase(s string) { d.phase.Store(&s) }

func (d *demo) begin() {
	now := time.Now()
	d.started.Store(&now)
	d.setPhase("running")
}

// reach asks whether the broker answers, so that there is one clear line rather
// than a run of timeouts.
func (d *demo) reach() error {
	for deadline := time.Now().Add(5 * time.Second); ; {
		h := d.bus.Health(d.users)
		switch {
		case h.Status != bus.StatusDown:
			d.audit = h.Server
			return nil
		case time.Now().Before(deadline) && wait(d.users, 250*time.Millisecond):
			continue
		}
		if d.users.Err() != nil {
			return fmt.Errorf("stopped before %s answered", d.where())
		}
		return fmt.Errorf("%s does not answer: %s (to start one here: scripts/brokers up && eval \"$(scripts/brokers env)\")",
			d.where(), h.Error)
	}
}

// where names the broker without its secrets.
func (d *demo) where() string {
	switch d.cfg.Backend {
	case bus.Kafka:
		return "kafka at " + d.cfg.Kafka.BootstrapServers
	case bus.Redis:
		if u, err := url.Parse(d.cfg.Redis.URL.Reveal()); err == nil {
			return "redis at " + u.Host
		}
	}
	return d.cfg.Backend
}

// connect waits until every consumer reads, for 15 s at most: a slow one only
// makes the first events look late.
func (d *demo) connect(ctx context.Context) {
	topics := map[[2]string]bool{} // by group; there are retry topics beside them
	for _, r := range d.routers {
		for _, t := range r.Topics() {
			topics[[2]string{r.Group(), t}] = true
		}
	}
	for deadline := time.Now().Add(15 * time.Second); time.Now().Before(deadline); {
		h := d.bus.Health(ctx)
		backlog, there := int64(0), 0
		for _, s := range h.Subscriptions {
			if topics[[2]string{s.Group, s.Topic}] {
				there++
			}
			if s.Lag != nil {
				backlog += *s.Lag
			}
		}
		d.backlog.Store(backlog)
		if h.Status == bus.StatusOK && there == len(topics) || !wait(ctx, 100*time.Millisecond) {
			return
		}
	}
}

// serve starts the API. The function it returns stops taking requests, and
// waits for those under way.
func (d *demo) serve() func(context.Context) error {
	if d.listen == nil {
		return func(context.Context) error { return nil }
	}
	server := &http.Server{Handler: d.api.handler(), ReadHeaderTimeout: 10 * time.Second}
	served := make(chan error, 1)
	go func() { served <- server.Serve(d.listen) }()
	return func(ctx context.Context) error {
		ctx, cancel := context.WithTimeout(ctx, maxWait+2*time.Second)
		defer cancel()
		err := server.Shutdown(ctx)
		if err != nil {
			err = errors.Join(err, server.Close())
		}
		if e := <-served; !errors.Is(e, http.ErrServerClosed) {
			err = errors.Join(err, e)
		}
		return err
	}
}

// settle waits until every group has dealt with what was accepted, and for half
// a second more in which a copy would show. It gives up when nothing happens.
func (d *demo) settle(ctx context.Context) {
	const step, calm = 50 * time.Millisecond, 500 * time.Millisecond
	last, changed := d.ledger.pulse().settled, time.Now()
	for wait(ctx, step) {
		p := d.ledger.pulse()
		if p.settled != last || p.inFlight > 0 {
			last, changed = p.settled, time.Now()
		}
		since := time.Since(changed)
		switch {
		case p.quiet() && since > calm:
			return
		case since > d.opts.settle:
			d.gaveUp = fmt.Sprintf("nothing happened for %v", d.opts.settle)
			return
		}
	}
	d.gaveUp = "it was stopped"
}
