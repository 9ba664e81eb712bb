package bustest

import (
	"context"
	"errors"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/aura360/eventbus/bus/driver"
	"github.com/aura360/eventbus/middleware"
	"github.com/aura360/eventbus/router"
)

// published is one message in its topic.
type published struct {
	topic string
	msg   *message.Message
}

// delivery is one message on its way to one group.
type delivery struct {
	router *router.Router
	topic  string
	msg    *message.Message

	// Of one that waits for a delayed retry:
	due     time.Duration // on the harness's clock
	delay   time.Duration
	inPlace bool // later ones of its key wait behind it
}

// lane is what stays in order.
type lane struct{ group, topic, key string }

func (d *delivery) lane() lane { return lane{d.router.Group(), d.topic, driver.Key(d.msg)} }

// settling is the context of a message: it hears how long the message is put off.
type settling struct {
	context.Context
	later time.Duration
}

func (s *settling) Value(key any) any {
	if driver.IsSettleKey(key) {
		return s
	}
	return s.Context.Value(key)
}

// Settled implements driver.Settler: Deliver's error tells as much.
func (*settling) Settled(bool) {}

// SettledLater implements driver.Deferrer.
func (s *settling) SettledLater(d time.Duration) { s.later = d }

// broker is a backend that delivers only when the harness asks for it.
type broker struct {
	mu      sync.Mutex
	closed  bool
	fresh   []published // not yet given to the groups
	history []published // everything ever published
	waiting []*delivery // in the order of publishing
	parked  []*delivery // for a delayed retry, soonest first
}

func (*broker) Name() string { return "memory" }

func (*broker) Capabilities() driver.Capabilities {
	return driver.Capabilities{Groups: true, OrderedPerKey: true}
}

func (*broker) Ping(context.Context) error { return nil }

func (b *broker) Publish(ctx context.Context, topic string, msgs ...*message.Message) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return driver.Fail(b.Name(), topic, len(msgs), driver.Rejected, driver.ErrClosed)
	}
	if err := ctx.Err(); err != nil {
		return driver.Fail(b.Name(), topic, len(msgs), driver.Rejected, err)
	}
	for _, m := range msgs {
		p := published{topic: topic, msg: m.Copy()}
		b.fresh, b.history = append(b.fresh, p), append(b.history, p)
	}
	return nil
}

var errNoSubscriber = errors.New("bustest delivers by itself: register handlers on Harness.Router and do not Run it")

func (*broker) Subscriber(string, driver.SubscriberOptions) (driver.Subscriber, error) {
	return nil, errNoSubscriber
}

func (b *broker) Close(context.Context) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.closed = true
	return nil
}

func (b *broker) take() []published {
	b.mu.Lock()
	defer b.mu.Unlock()
	out := b.fresh
	b.fresh = nil
	return out
}

// all returns everything that was published, in order.
func (b *broker) all() []published {
	b.mu.Lock()
	defer b.mu.Unlock()
	return append([]published(nil), b.history...)
}

func (b *broker) queue(d *delivery)        { b.waiting = append(b.waiting, d) }
func (b *broker) requeue(done []*delivery) { b.waiting = append(b.waiting, done...) }

// park keeps d until all that does not wait for the clock is done.
func (b *broker) park(d *delivery) {
	i := len(b.parked)
	for i > 0 && b.parked[i-1].due > d.due {
		i--
	}
	b.parked = slices.Insert(b.parked, i, d)
}

// batches reports whether d is for a batch handler.
func (d *delivery) batches() bool { return d.router.Batches(d.topic, d.msg) }

// release takes the delivery that is due first or, for a batch handler, all that
// are then.
func (b *broker) release() []*delivery {
	if len(b.parked) == 0 {
		return nil
	}
	first := b.parked[0]
	if !first.batches() {
		b.parked = b.parked[1:]
		return []*delivery{first}
	}
	var out []*delivery
	b.parked, out = together(b.parked, first, func(d *delivery) bool { return d.due == first.due }, map[lane]bool{})
	return out
}

// next takes the delivery whose turn it is: the oldest or, reordering, a random
// one among those that no older one of the same group and key waits before.
// Those for a batch handler come when there are no others, all at once.
func (b *broker) next(reorder bool, rng *rand.Rand) []*delivery {
	parked := map[lane]bool{}
	for _, d := range b.parked {
		if d.inPlace {
			parked[d.lane()] = true
		}
	}
	taken := maps.Clone(parked)
	var free []int
	var batch *delivery // the first for a batch handler
	for i, d := range b.waiting {
		l := d.lane()
		if l.key == "" || !taken[l] {
			if d.batches() {
				if batch == nil {
					batch = d
				}
			} else if free = append(free, i); !reorder {
				break
			}
		}
		taken[l] = true
	}
	switch {
	case len(free) > 0:
		at := free[0]
		if reorder {
			at = free[rng.IntN(len(free))]
		}
		d := b.waiting[at]
		b.waiting = append(b.waiting[:at], b.waiting[at+1:]...)
		return []*delivery{d}
	case batch != nil:
		var out []*delivery
		b.waiting, out = together(b.waiting, batch, func(*delivery) bool { return true }, parked)
		return out
	}
	return nil
}

// together splits list into what is delivered with first, which is for a batch
// handler, and the rest: at most one of a key, none of those taken.
func together(list []*delivery, first *delivery, match func(*delivery) bool, taken map[lane]bool) (rest, out []*delivery) {
	copies := map[string]bool{} // of messages without a key: one would wait for the other's mark
	for _, d := range list {
		l := d.lane()
		free := l.key == "" && !copies[d.msg.UUID] || l.key != "" && !taken[l]
		if free && d.router == first.router && d.topic == first.topic && match(d) && d.batches() {
			out = append(out, d)
		} else {
			rest = append(rest, d)
		}
		taken[l], copies[d.msg.UUID] = true, true
	}
	return rest, out
}

// marks remembers handled events until the process "crashes".
type marks struct {
	current atomic.Pointer[middleware.MemoryMarks]
}

func newMarks() *marks {
	m := &marks{}
	m.forget()
	return m
}

// forget is what a crash does to the memory store.
func (m *marks) forget() {
	m.current.Store(middleware.NewMemoryMarks(middleware.MemoryMarksConfig{MaxEntries: maxDeliveries}))
}

func (m *marks) Claim(ctx context.Context, key middleware.MarkKey, body uint64) (middleware.Claim, error) {
	return m.current.Load().Claim(ctx, key, body)
}

func (m *marks) Renew(ctx context.Context, key middleware.MarkKey, token uint64) error {
	return m.current.Load().Renew(ctx, key, token)
}

func (m *marks) Done(ctx context.Context, key middleware.MarkKey, token uint64) error {
	return m.current.Load().Done(ctx, key, token)
}

func (m *marks) Release(ctx context.Context, key middleware.MarkKey, token uint64) error {
	return m.current.Load().Release(ctx, key, token)
}

func (m *marks) Lease() time.Duration { return m.current.Load().Lease() }
