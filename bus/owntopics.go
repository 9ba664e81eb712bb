package bus

import (
	"context"
	"os"
	"sync"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/aura360/eventbus/bus/driver"
	"github.com/aura360/eventbus/middleware"
)

// ownTopics writes to the topics that the bus keeps for itself. Each is created
// before its first message, and again after a failure, also where creating
// topics is turned off.
type ownTopics struct {
	bus     *Bus
	publish middleware.PublishFunc
	host    string

	mu      sync.Mutex
	ensured map[string]bool // guarded by mu
}

func newOwnTopics(b *Bus) *ownTopics {
	host, _ := os.Hostname()
	return &ownTopics{bus: b, host: host, ensured: map[string]bool{}, publish: middleware.ChainPublish(b.backend.Publish,
		middleware.MetricsPublish(b.metrics, b.tracing.System),
		middleware.RetryPublish(b.publishRetry()))}
}

// ensure creates the topic once.
func (o *ownTopics) ensure(ctx context.Context, spec driver.TopicSpec) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	p, ok := o.bus.backend.(driver.Provisioner)
	if !ok || o.ensured[spec.Name] {
		return nil
	}
	if err := p.EnsureTopic(ctx, spec); err != nil {
		return err
	}
	o.ensured[spec.Name] = true
	return nil
}

// put publishes msg to the topic; nil means that it is there.
func (o *ownTopics) put(ctx context.Context, spec driver.TopicSpec, msg *message.Message) error {
	if err := o.ensure(ctx, spec); err != nil {
		return err
	}
	err := o.publish(ctx, spec.Name, msg)
	if err != nil {
		// Somebody may have deleted it: the next message sees to it.
		o.mu.Lock()
		defer o.mu.Unlock()
		delete(o.ensured, spec.Name)
	}
	return err
}

// A message in a retry topic waits for a day at most; the rest is for consumers
// that are away.
const retryRetention = 30 * 24 * time.Hour

// RetryTopic is the topic in which messages wait that group's handlers failed
// on, for delay.
func (b *Bus) RetryTopic(group string, delay time.Duration) string {
	return b.cfg.Namespace + ".retry." + group + "." + middleware.DelayName(delay)
}

// retryTopics writes to the retry topics, of which a group has one for each delay.
type retryTopics struct{ own *ownTopics }

// ensure creates the topic, also where creating topics is turned off. It is
// bounded by ctx.
func (t retryTopics) ensure(ctx context.Context, group string, delay time.Duration) error {
	return t.own.ensure(ctx, t.spec(group, delay))
}

func (t retryTopics) spec(group string, delay time.Duration) driver.TopicSpec {
	return driver.TopicSpec{
		Name: t.own.bus.RetryTopic(group, delay), Retention: retryRetention, MaxMessageBytes: poisonMaxBytes + 1<<20,
	}
}

// put is the middleware.DelaySink of the subscribe chain.
func (t retryTopics) put(ctx context.Context, group string, delay time.Duration, msg *message.Message) error {
	// As for poison: a handler whose time is up must not lose its message's turn.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), t.own.bus.cfg.PublishTimeout)
	defer cancel()
	return t.own.put(ctx, t.spec(group, delay), msg)
}
