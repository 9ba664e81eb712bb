// Package bustest tests event handlers in memory: synchronously, with no clock
// and no port.
//
//	func TestAggregation(t *testing.T) {
//		h := bustest.New(t)
//		router.Handle(h.Router("vectordb"), "aggregate-context", svc.AggregateContext)
//		h.Publish(aura360.MoodCreated{
//			Base: events.Base{UserID: "user-123"},
//			Data: aura360.Mood{Score: 7},
//		})
//		got := bustest.One[aura360.ContextAggregated](h)
//		...
//	}
//
// Publish returns when everything that followed from it has been handled, also
// what the handlers published themselves. Handlers run behind the real chain:
// encoding, retries (without their pauses), duplicates dropped, poison queue. What
// waits for a delayed retry is tried again after everything else, the shortest
// delay first, without waiting for the clock. Batch handlers are called when
// nothing else is left to do (their messages wait on goroutines of their own, of
// which one runs at a time). When the test fails, what was published and what each handler did is printed.
//
// Options make the harness unfriendly in the ways that real brokers are, so
// that an application can see whether its own handlers stand it.
package bustest

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/aura360/eventbus/bus"
	"github.com/aura360/eventbus/bus/driver"
	"github.com/aura360/eventbus/events"
	"github.com/aura360/eventbus/middleware"
	"github.com/aura360/eventbus/router"
)

// Options make life harder for the handlers under test. The zero value is a
// broker and a process that never fail.
type Options struct {
	// Duplicate puts every event into its topic twice, with the same id, as a
	// publisher does that did not hear the broker's answer. The bus drops the
	// copy: handlers see each event once.
	Duplicate bool
	// Redeliver delivers every event once more after everything else, to a
	// process that no longer remembers it: handlers see each event twice, the
	// second time late. A handler that stands it is idempotent.
	Redeliver bool
	// Crash ends the process between the handler's return and the ack, once for
	// every event and group: the handler runs again, in the next process, before
	// any later event. What it published the first time stays published.
	Crash bool
	// Reorder delivers events in a random order, except that those of one key
	// stay in theirs: what a broker promises, and no more.
	Reorder bool
	// Seed for Reorder. The same seed gives the same order. Defaults to 1.
	Seed uint64
}

// maxDeliveries ends a test whose handlers keep publishing to each other.
const maxDeliveries = 100_000

// Harness is a bus for one test. It is not safe for concurrent use; what
// handlers publish, from any goroutine that ends before they return, is fine.
type Harness struct {
	t       testing.TB
	opts    Options
	bus     *bus.Bus
	broker  *broker
	marks   *marks
	rng     *rand.Rand
	routers []*router.Router // by group name

	log       []string // what happened, for a test that fails
	running   bool
	delivered int
	clock     time.Duration // passes only when everything waits for a delayed retry
}

// New returns a harness that lives as long as the test. At most one Options.
func New(t testing.TB, opts ...Options) *Harness {
	t.Helper()
	h := &Harness{t: t, marks: newMarks(), broker: &broker{}}
	if len(opts) > 0 {
		h.opts = opts[0]
	}
	if h.opts.Seed == 0 {
		h.opts.Seed = 1
	}
	h.rng = rand.New(rand.NewPCG(h.opts.Seed, 0))
	b, err := bus.OpenWith(context.Background(), bus.Config{
		ServiceName: "bustest",
		Logger:      slog.New(slog.DiscardHandler),
	}, h.broker)
	if err != nil {
		t.Fatalf("bustest: %v", err)
	}
	h.bus = b
	t.Cleanup(func() {
		if err := b.Close(); err != nil {
			t.Errorf("bustest: %v", err)
		}
		if t.Failed() {
			t.Log(h.Transcript())
		}
	})
	return h
}

// Bus returns the harness's bus, for code under test that holds one. What it
// publishes outside of Publish is handled at the next Run.
func (h *Harness) Bus() *bus.Bus { return h.bus }

// Context returns a context on which the harness's bus rides, so that
// bus.Publish with it publishes here.
func (h *Harness) Context() context.Context { return bus.NewContext(context.Background(), h.bus) }

// Router returns the router of a consumer group, always the same for one name.
// Register handlers on it before the first Publish. The Config counts only at
// the first call; its Marks and Retry.Sleep are the harness's own.
func (h *Harness) Router(group string, cfg ...router.Config) *router.Router {
	h.t.Helper()
	for _, r := range h.routers {
		if r.Group() == group {
			return r
		}
	}
	var c router.Config
	if len(cfg) > 0 {
		c = cfg[0]
	}
	c.Marks = h.marks
	c.Retry.Sleep = func(ctx context.Context, _ time.Duration) error { return ctx.Err() }
	c.Outer = append([]message.HandlerMiddleware{h.record}, c.Outer...)
	r, err := router.New(h.bus, group, c)
	if err != nil {
		h.t.Fatalf("bustest: %v", err)
	}
	h.routers = append(h.routers, r)
	slices.SortFunc(h.routers, func(a, b *router.Router) int { return strings.Compare(a.Group(), b.Group()) })
	return r
}

// Publish publishes the events, one after the other, and returns when all that
// follows from them has been handled. A publish that fails ends the test.
func (h *Harness) Publish(evs ...events.Event) {
	h.t.Helper()
	for _, e := range evs {
		if err := h.bus.Publish(h.Context(), e); err != nil {
			h.t.Fatalf("bustest: %v", err)
		}
	}
	h.Run()
}

// Run handles everything that waits, and returns when nothing does. Publish
// calls it; call it after publishing through Bus or Context.
func (h *Harness) Run() {
	h.t.Helper()
	if h.running {
		return // a handler of ours published: the loop below gets there
	}
	h.running = true
	defer func() { h.running = false }()
	var done []*delivery
	for late := false; ; {
		h.fetch()
		ds := h.broker.next(h.opts.Reorder, h.rng)
		switch {
		case len(ds) > 0:
			h.deliver(ds)
			if !late {
				done = append(done, ds...)
			}
		case h.elapse():
		case h.opts.Redeliver && !late && len(done) > 0:
			late = true
			h.note("every event is delivered once more, to a process that forgot them")
			h.marks.forget()
			h.broker.requeue(done)
		default:
			return
		}
	}
}

// elapse makes time pass until the first parked message is due, and delivers it.
func (h *Harness) elapse() bool {
	h.t.Helper()
	ds := h.broker.release()
	if len(ds) == 0 {
		return false
	}
	h.clock = max(h.clock, ds[0].due)
	h.note("after %v:", ds[0].delay)
	h.deliver(ds)
	return true
}

// fetch makes a delivery of each new message for each group that reads its topic.
func (h *Harness) fetch() {
	for _, m := range h.broker.take() {
		h.note("published %s to %s", describe(m.msg), m.topic)
		copies := 1
		if h.opts.Duplicate && !strings.HasPrefix(m.topic, poisonPrefix) {
			copies = 2
		}
		for _, r := range h.routers {
			if delay, ok := r.RetryTopics()[m.topic]; ok {
				h.broker.park(&delivery{router: r, topic: m.topic, msg: m.msg, due: h.clock + delay, delay: delay})
			}
			if !slices.Contains(r.Topics(), m.topic) {
				continue
			}
			for range copies {
				h.broker.queue(&delivery{router: r, topic: m.topic, msg: m.msg})
			}
		}
	}
}

// deliver gives messages to their group, again until they are acked: one, or
// several for a batch handler.
func (h *Harness) deliver(ds []*delivery) {
	h.t.Helper()
	if h.opts.Crash {
		h.attempt(ds) // what became of them dies with the process
		h.note("  %s crashes before the ack, and starts again", ds[0].router.Group())
		h.marks.forget()
	}
	var left []*delivery
	var err error
	for range 3 {
		left = nil
		for i, r := range h.attempt(ds) {
			switch d := ds[i]; {
			case r.err == nil:
			case r.later > 0:
				again := *d
				again.due, again.delay, again.inPlace = h.clock+r.later, r.later, true
				h.broker.park(&again)
			default:
				left, err = append(left, d), r.err
			}
		}
		if ds = left; len(ds) == 0 {
			return
		}
	}
	h.t.Fatalf("bustest: group %s leaves %s unacked, three times over: %v", ds[0].router.Group(), describe(ds[0].msg), err)
}

// result is what became of a delivery: err when it was left unacked, with later
// when its handler put it off.
type result struct {
	err   error
	later time.Duration
}

func (h *Harness) attempt(ds []*delivery) []result {
	h.t.Helper()
	if h.delivered += len(ds); h.delivered > maxDeliveries {
		h.t.Fatalf("bustest: %d deliveries in one test: do handlers publish to each other for ever?", maxDeliveries)
	}
	ctxs, msgs := make([]*settling, len(ds)), make([]*message.Message, len(ds))
	for i, d := range ds {
		ctxs[i], msgs[i] = &settling{Context: h.Context()}, d.msg.Copy()
		msgs[i].SetContext(ctxs[i])
	}
	r, topic := ds[0].router, ds[0].topic
	var errs []error
	if ds[0].batches() {
		errs = r.DeliverAll(topic, msgs...)
	} else {
		errs = []error{r.Deliver(topic, msgs[0])}
	}
	out := make([]result, len(ds))
	for i, ctx := range ctxs {
		out[i] = result{errs[i], ctx.later}
	}
	return out
}

// record notes what became of each message.
func (h *Harness) record(next message.HandlerFunc) message.HandlerFunc {
	return func(msg *message.Message) ([]*message.Message, error) {
		out, err := next(msg)
		d := middleware.DeliveryFrom(msg.Context())
		outcome := string(d.Outcome)
		parked := d.Outcome == middleware.OutcomeParked
		switch {
		case err != nil && !parked:
			outcome = "unacked"
		case outcome == "":
			outcome = string(middleware.OutcomeHandled)
		}
		line := fmt.Sprintf("  %s/%s: %s %s", d.Group, orDash(d.Handler), outcome, describe(msg))
		if d.Attempt > 1 {
			line += fmt.Sprintf(", %d tries", d.Attempt)
		}
		if d.Reason != "" {
			line += fmt.Sprintf(", reason %s", d.Reason)
		}
		if err != nil && !parked {
			line += fmt.Sprintf(": %v", err)
		}
		h.note("%s", line)
		return out, err
	}
}

func (h *Harness) note(format string, a ...any) { h.log = append(h.log, fmt.Sprintf(format, a...)) }

// Transcript returns what was published and what each handler did, in order.
func (h *Harness) Transcript() string {
	return "what happened on the bus:\n" + strings.Join(h.log, "\n")
}

func describe(msg *message.Message) string {
	return fmt.Sprintf("%s %s", orDash(msg.Metadata[events.HeaderEventType]), clip(msg.Payload))
}

func clip(body []byte) string {
	if len(body) > 300 {
		return string(body[:300]) + "..."
	}
	return string(body)
}

func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

var _ driver.Backend = (*broker)(nil)
