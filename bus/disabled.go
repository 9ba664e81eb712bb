package bus

import (
	"context"
	"log/slog"
	"sync"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/aura360/eventbus/bus/driver"
	"github.com/aura360/eventbus/events"
)

// disabled is the backend that discards: publishes are logged (and counted, by
// the publish chain) and dropped; subscribers take nothing, so that what waits
// in a broker waits on.
type disabled struct {
	log    *slog.Logger
	mu     sync.Mutex
	closed bool
	subs   map[*disabledSubscriber]struct{}
}

func newDisabled(log *slog.Logger) *disabled {
	return &disabled{log: log, subs: map[*disabledSubscriber]struct{}{}}
}

func (*disabled) Name() string                      { return Disabled }
func (*disabled) Capabilities() driver.Capabilities { return driver.Capabilities{Discards: true} }
func (*disabled) Ping(context.Context) error        { return nil }

func (d *disabled) Publish(_ context.Context, topic string, msgs ...*message.Message) error {
	d.mu.Lock()
	closed := d.closed
	d.mu.Unlock()
	if closed {
		return driver.Fail(Disabled, topic, len(msgs), driver.Rejected, driver.ErrClosed)
	}
	for _, m := range msgs {
		d.log.Info("event discarded: messaging is disabled", "topic", topic,
			"event_type", m.Metadata[events.HeaderEventType], "event_id", m.Metadata[events.HeaderEventID])
	}
	return nil
}

func (d *disabled) Subscriber(string, driver.SubscriberOptions) (driver.Subscriber, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return nil, driver.ErrClosed
	}
	s := &disabledSubscriber{backend: d, done: make(chan struct{}), topics: map[string]struct{}{}}
	d.subs[s] = struct{}{}
	return s, nil
}

func (d *disabled) Close(context.Context) error {
	d.mu.Lock()
	d.closed = true
	subs := d.subs
	d.subs = map[*disabledSubscriber]struct{}{}
	d.mu.Unlock()
	for s := range subs {
		if err := s.Close(); err != nil {
			return err
		}
	}
	return nil
}

// disabledSubscriber's channels never deliver; they are closed like any other's.
type disabledSubscriber struct {
	backend *disabled
	mu      sync.Mutex
	topics  map[string]struct{}
	stopped bool
	done    chan struct{} // closed by Drain and Close
	wg      sync.WaitGroup
}

func (s *disabledSubscriber) Subscribe(ctx context.Context, topic string) (<-chan *message.Message, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stopped {
		return nil, driver.ErrClosed
	}
	s.topics[topic] = struct{}{}
	out := make(chan *message.Message)
	s.wg.Go(func() {
		defer close(out)
		select {
		case <-ctx.Done():
		case <-s.done:
		}
	})
	return out, nil
}

func (s *disabledSubscriber) Drain(context.Context) error {
	s.mu.Lock()
	if !s.stopped {
		s.stopped = true
		close(s.done)
	}
	s.mu.Unlock()
	s.wg.Wait()
	return nil
}

func (s *disabledSubscriber) Close() error {
	err := s.Drain(context.Background())
	s.backend.mu.Lock()
	delete(s.backend.subs, s)
	s.backend.mu.Unlock()
	return err
}

func (s *disabledSubscriber) State() map[string]driver.SubscriptionState {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := make(map[string]driver.SubscriptionState, len(s.topics))
	for t := range s.topics {
		out[t] = driver.SubscriptionState{LastError: "messaging is disabled: nothing is consumed"}
	}
	return out
}
