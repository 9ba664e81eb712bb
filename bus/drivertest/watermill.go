package drivertest

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/ThreeDotsLabs/watermill/pubsub/tests"

	"github.com/aura360/eventbus/bus/driver"
	"github.com/aura360/eventbus/events"
)

// RunWatermill runs Watermill's own suite, github.com/ThreeDotsLabs/watermill/pubsub/tests,
// on clients that h opens. Say in features what the backend promises there.
//
// The suite's messages have no keys, and where it is about order it means the
// order of messages with equal payloads. So in those tests the payload becomes
// the key; in the others messages have none.
func RunWatermill(t *testing.T, h Harness, features tests.Features) {
	t.Helper()
	group := func(t *testing.T, group string) (message.Publisher, message.Subscriber) {
		return newWatermillPair(t, h, group)
	}
	tests.TestPubSub(t, features, func(t *testing.T) (message.Publisher, message.Subscriber) {
		// The suite wants members of one group that no other test shares.
		return group(t, "wm-"+run+"-"+strings.NewReplacer("/", "-", "#", "-").Replace(t.Name()))
	}, group)
}

// watermillPair is a publisher and a subscriber on one client, which is closed
// with the second of them.
type watermillPair struct {
	t       testing.TB
	backend driver.Backend
	byValue bool // the payload is the key

	mu   sync.Mutex
	open int
}

func newWatermillPair(t testing.TB, h Harness, group string) (message.Publisher, message.Subscriber) {
	t.Helper()
	p := &watermillPair{
		t:       t,
		backend: h.Open(t),
		byValue: strings.Contains(t.Name(), "/TestPublishSubscribeInOrder/") || strings.Contains(t.Name(), "/TestNoAck/"),
		open:    2,
	}
	sub, err := p.backend.Subscriber(group, driver.SubscriberOptions{})
	if err != nil {
		t.Fatal(err)
	}
	half := &watermillPublisher{watermillPair: p}
	other := &watermillSubscriber{Subscriber: sub, pair: p}
	// The suite forgets some of them.
	t.Cleanup(func() {
		if err := errors.Join(half.Close(), other.Close()); err != nil {
			t.Errorf("Close: %v", err)
		}
	})
	return half, other
}

// close is called by either half, once.
func (p *watermillPair) close() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.open--; p.open > 0 {
		return nil
	}
	return p.backend.Close(context.Background())
}

type watermillPublisher struct {
	*watermillPair
	once sync.Once
}

// Publish implements message.Publisher.
func (p *watermillPublisher) Publish(topic string, msgs ...*message.Message) error {
	if p.byValue {
		msgs = slices.Clone(msgs)
		for i, m := range msgs {
			msgs[i] = m.Copy()
			msgs[i].Metadata[events.HeaderKey] = string(m.Payload)
		}
	}
	return p.backend.Publish(context.Background(), topic, msgs...)
}

// Close implements message.Publisher.
func (p *watermillPublisher) Close() (err error) {
	p.once.Do(func() { err = p.close() })
	return err
}

type watermillSubscriber struct {
	driver.Subscriber
	pair *watermillPair
	once sync.Once
}

// Close implements message.Subscriber.
func (s *watermillSubscriber) Close() error {
	err := s.Subscriber.Close()
	s.once.Do(func() {
		if e := s.pair.close(); err == nil {
			err = e
		}
	})
	return err
}
