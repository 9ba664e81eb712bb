package bus

import (
	"context"
	"errors"
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

// poisonQueue writes to the poison topics.
type poisonQueue struct{ own *ownTopics }

// put is the middleware.PoisonSink of the subscribe chain: nil means that the
// poison queue has msg. A message the broker finds too large is kept cut.
func (q *poisonQueue) put(ctx context.Context, msg *message.Message, info middleware.PoisonInfo) error {
	// A message that is being given up must not be lost because its handler's
	// time is up: only the bounds below hold.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), q.own.bus.cfg.PublishTimeout)
	defer cancel()
	b := q.own.bus
	spec := driver.TopicSpec{
		Name: b.PoisonTopic(info.Group), Partitions: 1, Retention: poisonRetention, MaxMessageBytes: poisonMaxBytes + 1<<20,
	}
	info.Backend, info.Host = b.backend.Name(), q.own.host
	err := q.own.put(ctx, spec, middleware.PoisonMessage(msg, info, poisonMaxBytes))
	if errors.Is(err, driver.ErrPermanent) && len(msg.Payload) > poisonCutBytes {
		err = q.own.put(ctx, spec, middleware.PoisonMessage(msg, info, poisonCutBytes))
	}
	return err
}

// putUnpublishable keeps what the broker refuses for ever on the way out, in
// the queue of the publishing service.
func (q *poisonQueue) putUnpublishable(ctx context.Context, msg *message.Message, info middleware.PoisonInfo) error {
	info.Group = topicName(q.own.bus.cfg.ServiceName)
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
