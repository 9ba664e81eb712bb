package bustest

import (
	"context"
	"errors"
	"math/rand/v2"
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
}

// broker is a backend that delivers only when the harness asks for it.
type broker struct {
	mu      sync.Mutex
	closed  bool
	fresh   []published // not yet given to the groups
	history []published // everything ever published
	waiting []*delivery // in the order of publishing
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

// next takes the delivery whose turn it is: the oldest or, reordering, a random
// one among those that no older one of the same group and key waits before.
func (b *broker) next(reorder bool, rng *rand.Rand) *delivery {
	if len(b.waiting) == 0 {
		return nil
	}
	at := 0
	if reorder {
		type lane struct{ group, topic, key string }
		taken := map[lane]bool{}
		var free []int
		for i, d := range b.waiting {
			key := driver.Key(d.msg)
			l := lane{d.router.Group(), d.topic, key}
			if key == "" || !taken[l] {
				free = append(free, i)
			}
			taken[l] = true
		}
		at = free[rng.IntN(len(free))]
	}
	d := b.waiting[at]
	b.waiting = append(b.waiting[:at], b.waiting[at+1:]...)
	return d
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
