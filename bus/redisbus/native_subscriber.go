package redisbus

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/ThreeDotsLabs/watermill"
	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/aura360/eventbus/bus/driver"
)

// Subscriber implements driver.Backend. Each subscription to a topic is a member
// of the group, and owns some of the topic's partitions alone.
func (n *Native) Subscriber(group string, opts driver.SubscriberOptions) (driver.Subscriber, error) {
	if group == "" {
		return nil, fmt.Errorf("redis: subscriber: %w: no group", driver.ErrPermanent)
	}
	if opts.MaxInFlight < 0 || opts.MaxInFlight > 10_000 {
		return nil, fmt.Errorf("redis: subscriber: %w: MaxInFlight %d: want 1 to 10000", driver.ErrPermanent, opts.MaxInFlight)
	}
	if opts.Instance == "" {
		opts.Instance = watermill.NewShortUUID()
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.closed {
		return nil, fmt.Errorf("redis: subscriber: %w", driver.ErrClosed)
	}
	s := &consuming{n: n, group: group, opts: opts}
	n.subs[s] = struct{}{}
	return s, nil
}

// consuming is the native driver.Subscriber: a consumer per subscription.
type consuming struct {
	n     *Native
	group string
	opts  driver.SubscriberOptions

	mu        sync.Mutex // guards all below
	stopped   bool
	consumers []*consumer
	closing   sync.WaitGroup // consumers whose context ended
}

// Subscribe implements driver.Subscriber.
func (s *consuming) Subscribe(ctx context.Context, topic string) (<-chan *message.Message, error) {
	if err := checkTopic(topic); err != nil {
		return nil, s.n.fail("subscribe", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stopped {
		return nil, s.n.fail("subscribe to "+topic, driver.ErrClosed)
	}
	c := s.n.consume(ctx, s.group, topic, s.opts)
	s.consumers = append(s.consumers, c)
	if ctx.Done() != nil {
		s.closing.Go(func() {
			select {
			case <-ctx.Done():
			case <-c.retired: // from now on Drain or Close decides
				return
			}
			c.close()
			s.mu.Lock()
			defer s.mu.Unlock()
			s.consumers = slices.DeleteFunc(s.consumers, func(o *consumer) bool { return o == c })
		})
	}
	return c.stream.Messages(), nil
}

// Drain implements driver.Subscriber.
func (s *consuming) Drain(ctx context.Context) error {
	return s.n.fail("drain", s.each(func(c *consumer) error { return c.drain(ctx) }))
}

// Close implements driver.Subscriber.
func (s *consuming) Close() error {
	_ = s.each(func(c *consumer) error { // it does not fail
		c.close()
		return nil
	})
	s.closing.Wait()
	s.n.mu.Lock()
	defer s.n.mu.Unlock()
	delete(s.n.subs, s)
	return nil
}

// cut implements nativeSubscriber.
func (s *consuming) cut() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range s.consumers {
		c.cut()
	}
}

// each ends Subscribe and runs f on all consumers at the same time.
func (s *consuming) each(f func(*consumer) error) error {
	s.mu.Lock()
	s.stopped = true
	cs := slices.Clone(s.consumers)
	s.mu.Unlock()
	errs := make([]error, len(cs))
	var running sync.WaitGroup
	for i, c := range cs {
		c.retire() // all channels at once
		running.Go(func() { errs[i] = f(c) })
	}
	running.Wait()
	return errors.Join(errs...)
}

// State implements driver.Subscriber.
func (s *consuming) State() map[string]driver.SubscriptionState {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := make(map[string]driver.SubscriptionState, len(s.consumers))
	for _, c := range s.consumers {
		st := c.state()
		if before, ok := out[c.topic]; ok { // subscribed twice: both must be well
			st.Connected = st.Connected && before.Connected
			st.Resubscribed += before.Resubscribed
			if st.LastError == "" {
				st.LastError = before.LastError
			}
		}
		out[c.topic] = st
	}
	return out
}
