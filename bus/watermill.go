package bus

import (
	"context"
	"errors"
	"sync"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/aura360/eventbus/bus/driver"
)

// Publisher returns the bus as a plain Watermill publisher: messages go through
// the publish chain as they are, without event metadata. The context of the
// first message bounds the call. The partition key is the metadata field
// events.HeaderKey. Its Close does nothing: the bus is closed with Close.
func (b *Bus) Publisher() message.Publisher { return publisher{b} }

type publisher struct{ bus *Bus }

func (p publisher) Publish(topic string, msgs ...*message.Message) error {
	if len(msgs) == 0 {
		return nil
	}
	b := p.bus
	if !b.inUse.begin() {
		return driver.Fail(b.backend.Name(), topic, len(msgs), driver.Rejected, ErrClosed)
	}
	defer b.inUse.end()
	return b.sendRaw(msgs[0].Context(), topic, msgs...)
}

func (publisher) Close() error { return nil }

// Subscriber returns a plain Watermill subscriber for a consumer group: the
// messages come as they are on the wire, without the subscribe chain; ack or
// nack each. Close it, or let the bus's Close do so.
func (b *Bus) Subscriber(group string) message.Subscriber {
	s, err := b.Subscribe(group, driver.SubscriberOptions{})
	if err != nil {
		return failedSubscriber{err}
	}
	return s
}

// failedSubscriber tells on use why it could not be made: Subscriber has no
// error to return.
type failedSubscriber struct{ err error }

func (s failedSubscriber) Subscribe(context.Context, string) (<-chan *message.Message, error) {
	return nil, s.err
}
func (failedSubscriber) Close() error { return nil }

// Subscribe returns a subscriber of the backend itself for a group, with what
// Watermill's interface lacks: draining and state. Empty options are filled
// from the configuration. Package router stands on it.
func (b *Bus) Subscribe(group string, opts driver.SubscriberOptions) (driver.Subscriber, error) {
	if !namePattern.MatchString(group) {
		return nil, invalid("consumer group", group, "1 to 100 characters of a-z A-Z 0-9 . _ -")
	}
	if b.inUse.closed() {
		return nil, ErrClosed
	}
	if opts.Instance == "" {
		opts.Instance = b.instance
	}
	if opts.MaxInFlight == 0 {
		opts.MaxInFlight = b.cfg.MaxInFlight
	}
	inner, err := b.backend.Subscriber(group, opts)
	if err != nil {
		return nil, err
	}
	s := &subscription{Subscriber: inner, bus: b, group: group}
	b.subsMu.Lock()
	b.subs[s] = struct{}{}
	b.subsMu.Unlock()
	return s, nil
}

// subscription is a driver's subscriber that the bus knows of while it is open.
type subscription struct {
	driver.Subscriber
	bus   *Bus
	group string
	once  sync.Once
	err   error
}

func (s *subscription) Close() error {
	s.once.Do(func() {
		s.err = s.Subscriber.Close()
		s.bus.subsMu.Lock()
		delete(s.bus.subs, s)
		s.bus.subsMu.Unlock()
	})
	if errors.Is(s.err, driver.ErrClosed) {
		return nil
	}
	return s.err
}
