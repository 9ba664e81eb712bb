package kafkabus

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/IBM/sarama"
	"github.com/ThreeDotsLabs/watermill-kafka/v3/pkg/kafka"
	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/aura360/eventbus/bus/driver"
	"github.com/aura360/eventbus/internal/relay"
)

// subscriber is a relay over stock subscribers, one per topic.
type subscriber struct {
	driver.Subscriber
	b *Backend
}

// Subscriber implements driver.Backend.
func (b *Backend) Subscriber(group string, opts driver.SubscriberOptions) (driver.Subscriber, error) {
	if group == "" {
		return nil, errors.New("kafka: subscriber: no group")
	}
	if opts.MaxInFlight < 0 || opts.MaxInFlight > 10000 {
		return nil, fmt.Errorf("kafka: subscriber of %s: MaxInFlight %d: want 1 to 10000", group, opts.MaxInFlight)
	}
	s := &subscriber{b: b, Subscriber: relay.New(relay.Config{
		Backend: name,
		Group:   group,
		Log:     b.cfg.Log,
		Open: func(ctx context.Context, topic string) (message.Subscriber, error) {
			return b.openStock(ctx, topic, group, opts.Instance)
		},
		CheckTopic: checkTopic,
		Prepare:    asRead,
	})}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return nil, fmt.Errorf("kafka: subscriber of %s: %w", group, driver.ErrClosed)
	}
	b.subs[s] = struct{}{}
	return s, nil
}

// Close implements driver.Subscriber.
func (s *subscriber) Close() error {
	err := s.Subscriber.Close()
	s.b.mu.Lock()
	delete(s.b.subs, s)
	s.b.mu.Unlock()
	return err
}

// stock is a stock subscriber to one topic, with what watches over it.
type stock struct {
	*kafka.Subscriber
	watch   *watch
	wire    *wire
	records *inHand
}

// Subscribe implements message.Subscriber.
func (s *stock) Subscribe(ctx context.Context, topic string) (<-chan *message.Message, error) {
	return s.Subscriber.Subscribe(context.WithValue(ctx, inHandKey{}, s.records), topic)
}

// inHand is an unmarshaler that remembers the record that each partition has in
// hand. The stock subscriber redelivers a copy of what the consumer did to the
// message; the next consumer is to get the message as it was.
type inHand struct {
	marshaler
	mu   sync.Mutex
	last map[int32]*record
}

type record struct {
	*sarama.ConsumerMessage
	delivered bool
}

type inHandKey struct{}

// Unmarshal implements kafka.Unmarshaler.
func (h *inHand) Unmarshal(rec *sarama.ConsumerMessage) (*message.Message, error) {
	h.mu.Lock()
	h.last[rec.Partition] = &record{ConsumerMessage: rec}
	h.mu.Unlock()
	return h.marshaler.Unmarshal(rec)
}

// asRead makes a redelivered message what it was when it was read.
func asRead(msg *message.Message) {
	h, _ := msg.Context().Value(inHandKey{}).(*inHand)
	partition, ok := kafka.MessagePartitionFromCtx(msg.Context())
	offset, ok2 := kafka.MessagePartitionOffsetFromCtx(msg.Context())
	if h == nil || !ok || !ok2 {
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	rec := h.last[partition]
	if rec == nil || rec.Offset != offset {
		return
	}
	if rec.delivered {
		was, _ := h.marshaler.Unmarshal(rec.ConsumerMessage)
		msg.UUID, msg.Metadata, msg.Payload = was.UUID, was.Metadata, was.Payload
	}
	rec.delivered = true
}

// topicTimeout bounds the look at a topic before it is subscribed to.
const topicTimeout = 30 * time.Second

// openStock makes a stock subscriber. It does not dial: the stock one does when
// it subscribes, and on its own from then on.
func (b *Backend) openStock(ctx context.Context, topic, group, instance string) (message.Subscriber, error) {
	ctx, cancel := context.WithTimeout(ctx, topicTimeout)
	defer cancel()
	if err := b.findTopic(ctx, topic); err != nil {
		return nil, err
	}
	noTopicMetrics(topic)
	w := newWire(context.Background(), b.cfg)
	w.joinTimeout = b.cfg.MaxPollInterval + b.cfg.SocketTimeout
	v := newWatch(b.cfg.Log.With("backend", name, "topic", topic, "group", group), func() {
		ctx, cancel := context.WithTimeout(w.life, topicTimeout)
		defer cancel()
		b.topics.forget(topic)
		_ = b.findTopic(ctx, topic) // joining the group says whether it is there
	})
	records := &inHand{last: make(map[int32]*record)}
	sub, err := kafka.NewSubscriber(kafka.SubscriberConfig{
		Brokers:               b.addrs,
		Unmarshaler:           records,
		OverwriteSaramaConfig: b.consumerConfig(w, instance),
		ConsumerGroup:         group,
		NackResendSleep:       relay.NackResendSleep,
		ReconnectRetrySleep:   minConnectPause, // slept out; watch adds what grows
		Tracer:                v,
	}, v)
	if err != nil {
		w.abort()
		return nil, err
	}
	return &stock{sub, v, w, records}, nil
}

// findTopic makes sure that a topic is there: the stock subscriber would try to
// join its group again and again without a pause.
func (b *Backend) findTopic(ctx context.Context, topic string) error {
	if b.cfg.Provision.Create {
		return b.ensure(ctx, b.topics.spec(topic))
	}
	exists, err := ask(ctx, b.admin, func(s *session) (bool, error) { return s.exists(topic) })
	if err != nil {
		return fmt.Errorf("look for topic %s: %w", topic, err)
	}
	if !exists {
		return missingTopic(topic, errors.New("waiting for it"))
	}
	return nil
}

// Condition tells the relay whether the group's session is up.
func (s *stock) Condition() error { return s.watch.condition() }

// closeGrace is how long Close lets the stock subscriber commit what is marked
// and leave the group, so that the others need not wait for its session to time
// out.
const closeGrace = 5 * time.Second

// Close ends the session: the marked offsets are committed, the group is left.
// Where the broker does not answer, the connections are cut.
func (s *stock) Close() error {
	s.watch.stop()
	closed := make(chan error, 1)
	go func() { closed <- s.Subscriber.Close() }()
	t := time.NewTimer(closeGrace)
	defer t.Stop()
	var err error
	select {
	case err = <-closed:
	case <-t.C:
		s.wire.abort()
		err = <-closed
	}
	s.wire.abort()
	return err
}
