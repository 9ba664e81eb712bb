package kafkabus

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/aura360/eventbus/bus/driver"
	"github.com/aura360/eventbus/internal/delivery"
)

// nativeSubscriber is one member of the group, and one client, for all topics. (A
// topic that is subscribed to twice is consumed by a second member.)
type nativeSubscriber struct {
	n     *Native
	group string
	opts  driver.SubscriberOptions

	mu      sync.Mutex // guards below
	stopped bool       // drained or closed
	members []*member
	subs    []*subscription

	closing sync.Once
	err     error // of closing
}

var _ driver.Subscriber = (*nativeSubscriber)(nil)

// Subscriber implements driver.Backend.
func (n *Native) Subscriber(group string, opts driver.SubscriberOptions) (driver.Subscriber, error) {
	if group == "" {
		return nil, errors.New("kafka: subscriber: no group")
	}
	if opts.MaxInFlight < 0 || opts.MaxInFlight > 10000 {
		return nil, fmt.Errorf("kafka: subscriber of %s: MaxInFlight %d: want 1 to 10000", group, opts.MaxInFlight)
	}
	s := &nativeSubscriber{n: n, group: group, opts: opts}
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.closed {
		return nil, fmt.Errorf("kafka: subscriber of %s: %w", group, driver.ErrClosed)
	}
	n.subs[s] = struct{}{}
	return s, nil
}

// Subscribe implements driver.Subscriber.
func (s *nativeSubscriber) Subscribe(ctx context.Context, topic string) (<-chan *message.Message, error) {
	if err := checkTopic(topic); err != nil {
		return nil, fmt.Errorf("kafka: subscribe to %q: %w: %w", topic, driver.ErrPermanent, err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stopped {
		return nil, fmt.Errorf("kafka: subscribe to %s: %w", topic, driver.ErrClosed)
	}
	var m *member
	for _, other := range s.members {
		if other.free(topic) {
			m = other
			break
		}
	}
	if m == nil {
		var err error
		if m, err = s.n.newMember(s.group, s.opts); err != nil {
			return nil, fmt.Errorf("kafka: subscribe to %s: %w", topic, err)
		}
		s.members = append(s.members, m)
	}
	sub := m.subscribe(ctx, topic)
	s.subs = append(s.subs, sub)
	return sub.stream.Messages(), nil
}

// State implements driver.Subscriber.
func (s *nativeSubscriber) State() map[string]driver.SubscriptionState {
	s.mu.Lock()
	subs := s.subs
	s.mu.Unlock()
	states := make(map[string]driver.SubscriptionState)
	for _, sub := range subs {
		st := sub.state()
		if old, ok := states[sub.topic]; ok {
			st.Connected = st.Connected || old.Connected
			st.Resubscribed += old.Resubscribed
			if st.LastError == "" {
				st.LastError = old.LastError
			}
		}
		states[sub.topic] = st
	}
	return states
}

// stop lets no more subscriptions begin, and returns what there is.
func (s *nativeSubscriber) stop() ([]*member, []*subscription) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.stopped = true
	return s.members, s.subs
}

// Drain implements driver.Subscriber.
func (s *nativeSubscriber) Drain(ctx context.Context) error {
	members, subs := s.stop()
	for _, sub := range subs {
		sub.stream.Retire()
	}
	for _, m := range members {
		m.stopPolling()
	}
	for _, sub := range subs {
		select {
		case <-sub.stream.Settled():
		case <-ctx.Done():
			left := 0
			for _, sub := range subs {
				left += sub.stream.InFlight()
			}
			if left > 0 {
				return fmt.Errorf("kafka: drain: %d messages neither acked nor nacked: %w", left, context.Cause(ctx))
			}
		}
	}
	for _, m := range members {
		if err := m.flush(ctx); err != nil {
			return fmt.Errorf("kafka: drain: commit: %w", err)
		}
	}
	return nil
}

// Close implements driver.Subscriber.
func (s *nativeSubscriber) Close() error {
	s.closing.Do(func() {
		members, subs := s.stop()
		for _, sub := range subs {
			sub.stream.Close()
		}
		errs := make([]error, len(members))
		var wg sync.WaitGroup
		for i, m := range members {
			wg.Go(func() { errs[i] = m.close() })
		}
		wg.Wait()
		s.err = errors.Join(errs...)
		s.n.mu.Lock()
		delete(s.n.subs, s)
		s.n.mu.Unlock()
	})
	return s.err
}

// subscription is one topic of a member.
type subscription struct {
	m      *member
	topic  string
	stream *delivery.Stream[*fetched]

	mu      sync.Mutex // guards below
	joined  bool       // the group knows that this member wants the topic
	trouble bool       // the topic cannot be read now
	found   bool       // the topic was found, and is read since
	missing bool       // it is not there, or may not be looked at
	restart int
	last    string
	id      topicID // once the topic was found
	ended   bool
}

// fetched is one record.
type fetched struct {
	claim   *claim
	offset  int64
	fields  string // see readRecord
	payload []byte
}

func (f *fetched) message() *message.Message { return newMessage(f.fields, f.payload) }

func (s *subscription) state() driver.SubscriptionState {
	up := s.m.up(time.Now())
	s.mu.Lock()
	defer s.mu.Unlock()
	return driver.SubscriptionState{
		Connected:    up && s.joined && !s.trouble && !s.ended,
		Resubscribed: s.restart,
		LastError:    s.last,
	}
}

func (s *subscription) topicID() topicID {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.id
}

// note notes something that went wrong and is over.
func (s *subscription) note(err error) {
	s.mu.Lock()
	s.last = err.Error()
	s.mu.Unlock()
	s.m.n.cfg.Log.Warn("subscription had trouble", "backend", name, "topic", s.topic, "group", s.m.group, "error", err.Error())
}

// failed notes why the topic cannot be read. The same reason again and again is
// logged once.
func (s *subscription) failed(err error, again bool) {
	s.mu.Lock()
	text := err.Error()
	repeated := s.trouble && s.last == text
	s.trouble, s.last = true, text
	if again {
		s.restart++
	}
	s.mu.Unlock()
	if !repeated {
		s.m.n.cfg.Log.Warn("subscription has trouble", "backend", name, "topic", s.topic, "group", s.m.group, "error", text)
	}
}

// well notes that the topic can be read.
func (s *subscription) well() {
	s.mu.Lock()
	was := s.trouble
	s.trouble = false
	s.mu.Unlock()
	if was {
		s.m.n.cfg.Log.Info("subscription reads again", "backend", name, "topic", s.topic, "group", s.m.group)
	}
}
