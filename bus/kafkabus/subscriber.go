package kafkabus

import (
	"context"
	"errors"
	"fmt"
	"time"

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
	watch *watch
	wire  *wire
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
	w := newWire(context.Background(), b.cfg)
	w.joinTimeout = b.cfg.MaxPollInterval + b.cfg.SocketTimeout
	v := newWatch(b.cfg.Log.With("backend", name, "topic", topic, "group", group))
	sub, err := kafka.NewSubscriber(kafka.SubscriberConfig{
		Brokers:               b.addrs,
		Unmarshaler:           marshaler{},
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
	return &stock{sub, v, w}, nil
}

// findTopic makes sure that a topic is there: the stock subscriber would try to
// join its group again and again without a pause.
func (b *Backend) findTopic(ctx context.Context, topic string) error {
	if b.cfg.Provision.Create {
		return b.ensure(ctx, driver.TopicSpec{Name: topic})
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
