// Package bustest tests event handlers in memory: synchronously, with no clock,
// no port and no goroutine of its own.
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
// encoding, retries (without their pauses), duplicates dropped, poison queue.
// When the test fails, what was published and what each handler did is printed.
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
		d := h.broker.next(h.opts.Reorder, h.rng)
		switch {
		case d != nil:
			h.deliver(d)
			if !late {
				done = append(done, d)
			}
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

// fetch makes a delivery of each new message for each group that reads its topic.
func (h *Harness) fetch() {
	for _, m := range h.broker.take() {
		h.note("published %s to %s", describe(m.msg), m.topic)
		copies := 1
		if h.opts.Duplicate && !strings.HasPrefix(m.topic, poisonPrefix) {
			copies = 2
		}
		for _, r := range h.routers {
			if !slices.Contains(r.Topics(), m.topic) {
				continue
			}
			for range copies {
				h.broker.queue(&delivery{router: r, topic: m.topic, msg: m.msg})
			}
		}
	}
}

// deliver gives one message to its group, again until it is acked.
func (h *Harness) deliver(d *delivery) {
	h.t.Helper()
	if h.opts.Crash {
		_ = h.attempt(d) // what became of it dies with the process
		h.note("  %s crashes before the ack, and starts again", d.router.Group())
		h.marks.forget()
	}
	var err error
	for range 3 {
		if err = h.attempt(d); err == nil {
			return
		}
	}
	h.t.Fatalf("bustest: group %s leaves %s unacked, three times over: %v", d.router.Group(), describe(d.msg), err)
}

func (h *Harness) attempt(d *delivery) error {
	h.t.Helper()
	if h.delivered++; h.delivered > maxDeliveries {
		h.t.Fatalf("bustest: %d deliveries in one test: do handlers publish to each other for ever?", maxDeliveries)
	}
	msg := d.msg.Copy()
	msg.SetContext(h.Context())
	return d.router.Deliver(d.topic, msg)
}

// record notes what became of each message.
func (h *Harness) record(next message.HandlerFunc) message.HandlerFunc {
	return func(msg *message.Message) ([]*message.Message, error) {
		out, err := next(msg)
		d := middleware.DeliveryFrom(msg.Context())
		outcome := string(d.Outcome)
		switch {
		case err != nil:
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
		if err != nil {
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
