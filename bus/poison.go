package bus

import (
	"context"
	"errors"
	"os"
	"sync"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/aura360/eventbus/bus/driver"
	"github.com/aura360/eventbus/middleware"
)

// The poison queue keeps what nobody could handle for 30 days, whole up to
// 32 MiB where the broker lets us.
const (
	poisonRetention = 30 * 24 * time.Hour
	poisonMaxBytes  = 32 << 20
	// What a broker with Kafka's default limit of 1 MiB takes for sure, headers
	// included.
	poisonCutBytes = 768 << 10
)

// PoisonTopic is the topic that holds what group could not handle.
func (b *Bus) PoisonTopic(group string) string { return b.cfg.Namespace + ".poison." + group }

// poisonQueue writes to the poison topics. Each is created before its first
// message, and again after a failure, also where creating topics is turned off.
type poisonQueue struct {
	bus     *Bus
	mu      sync.Mutex
	ensured map[string]bool
	publish middleware.PublishFunc
	host    string
}

// ensure creates the group's poison topic once.
func (q *poisonQueue) ensure(ctx context.Context, topic string) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.publish == nil {
		b := q.bus
		q.publish = middleware.ChainPublish(b.backend.Publish,
			middleware.MetricsPublish(b.metrics, b.tracing.System),
			middleware.RetryPublish(b.publishRetry()))
		q.host, _ = os.Hostname()
	}
	p, ok := q.bus.backend.(driver.Provisioner)
	if !ok || q.ensured[topic] {
		return nil
	}
	err := p.EnsureTopic(ctx, driver.TopicSpec{
		Name: topic, Partitions: 1, Retention: poisonRetention, MaxMessageBytes: poisonMaxBytes + 1<<20,
	})
	if err != nil {
		return err
	}
	if q.ensured == nil {
		q.ensured = map[string]bool{}
	}
	q.ensured[topic] = true
	return nil
}

// forget makes the next message see to it that the topic is there: somebody may
// have deleted it.
func (q *poisonQueue) forget(topic string) {
	q.mu.Lock()
	defer q.mu.Unlock()
	delete(q.ensured, topic)
}

// put is the middleware.PoisonSink of the subscribe chain: nil means that the
// poison queue has msg. A message the broker finds too large is kept cut.
func (q *poisonQueue) put(ctx context.Context, msg *message.Message, info middleware.PoisonInfo) error {
	// A message that is being given up must not be lost because its handler's
	// time is up: only the bounds below hold.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), q.bus.cfg.PublishTimeout)
	defer cancel()
	topic := q.bus.PoisonTopic(info.Group)
	if err := q.ensure(ctx, topic); err != nil {
		return err
	}
	info.Backend, info.Host = q.bus.backend.Name(), q.host
	err := q.publish(ctx, topic, middleware.PoisonMessage(msg, info, poisonMaxBytes))
	if errors.Is(err, driver.ErrPermanent) && len(msg.Payload) > poisonCutBytes {
		err = q.publish(ctx, topic, middleware.PoisonMessage(msg, info, poisonCutBytes))
	}
	if err != nil {
		q.forget(topic)
	}
	return err
}

// putUnpublishable keeps what the broker refuses for ever on the way out, in
// the queue of the publishing service.
func (q *poisonQueue) putUnpublishable(ctx context.Context, msg *message.Message, info middleware.PoisonInfo) error {
	info.Group = topicName(q.bus.cfg.ServiceName)
	return q.put(ctx, msg, info)
}

// topicName makes s fit for a topic's name.
func topicName(s string) string {
	out := []byte(s)
	for i, c := range out {
		ok := c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '.' || c == '_' || c == '-'
		if !ok {
			out[i] = '-'
		}
	}
	return string(out[:min(len(out), 100)])
}
