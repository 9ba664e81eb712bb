package drivertest

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/ThreeDotsLabs/watermill/message"
	"go.uber.org/goleak"

	"github.com/aura360/eventbus/bus/driver"
)

var closeCases = []testCase{
	{name: "UnackedComesBackAfterClose", run: unackedComesBack},
	{name: "CancelClosesTheChannel", run: cancelClosesTheChannel},
	{name: "CloseTwice", run: closeTwice},
	{name: "LateAckSettlesNothing", run: lateAck},
	{name: "BackendCloseClosesSubscribers", run: backendClose},
	{name: "DrainWaitsForWhatIsInFlight", run: drainWaits},
	{name: "DrainAcksCount", run: drainAcksCount},
	{name: "DrainGivesBackTheRest", run: drainGivesBack},
	{name: "DrainIsBounded", run: drainIsBounded},
	{name: "DrainIsIdempotent", run: drainIsIdempotent},
	{name: "NoLeaks", run: noLeaks, alone: true},
}

// drained stops c so that its acks have reached the broker.
func (e *env) drained(c *consumer) {
	e.Helper()
	if err := c.sub.Drain(e.ctx()); err != nil {
		e.Errorf("Drain: %v", err)
	}
	c.close()
}

// nothingLeft requires that the group has settled everything: new messages, on
// enough keys to reach every partition, are the first to come.
func (e *env) nothingLeft(b driver.Backend, topic, group string) {
	e.Helper()
	var fences []*message.Message
	for i := range 20 {
		fences = append(fences, msg(fmt.Sprintf("fence-%d", i), fmt.Sprintf("fence %d", i)))
	}
	e.publish(b, topic, fences...)
	e.consume(b, topic, group, driver.SubscriberOptions{}).wantSet(payloads(fences)...)
}

// unackedComesBack: what a subscriber had in its hands goes to the next one, in
// order.
func unackedComesBack(e *env) {
	b, topic, group := e.open(), e.topic(), e.group()
	msgs := series("key", 4)
	e.publish(b, topic, msgs...)
	c := e.consume(b, topic, group, driver.SubscriberOptions{})
	c.want("key 0")
	if m := c.next(); string(m.Payload) != "key 1" {
		e.Fatalf("received %q, want %q", m.Payload, "key 1")
	}
	c.close()
	c.closed()
	// The ack before may have been lost with the subscriber; the rest may not.
	c = e.consume(b, topic, group, driver.SubscriberOptions{})
	got := c.take(3)
	if got[0] == "key 0" {
		got = append(got[1:], c.take(1)...)
	}
	if want := payloads(msgs)[1:]; !slices.Equal(got, want) {
		e.Errorf("received %q, want %q", got, want)
	}
}

// cancelClosesTheChannel: as Close does, for one subscription.
func cancelClosesTheChannel(e *env) {
	b, topic, group := e.open(), e.topic(), e.group()
	e.publish(b, topic, msg("key", "one"))
	c := e.consume(b, topic, group, driver.SubscriberOptions{})
	m := c.next()
	c.cancel()
	c.closed()
	e.within("the message's context ends", m.Context().Done())
	m.Ack()
	e.consume(b, topic, group, driver.SubscriberOptions{}).want("one")
}

func closeTwice(e *env) {
	b, topic := e.open(), e.topic()
	c := e.consume(b, topic, e.group(), driver.SubscriberOptions{})
	c.close()
	c.close()
	c.closed()
	if _, err := c.sub.Subscribe(e.ctx(), topic); !errors.Is(err, driver.ErrClosed) {
		e.Errorf("Subscribe after Close: error %v, want ErrClosed", err)
	}
	if err := c.sub.Drain(e.ctx()); err != nil {
		e.Errorf("Drain after Close, with nothing in flight: %v", err)
	}
}

// lateAck: an ack to a closed subscriber does not settle the delivery that
// somebody else has.
func lateAck(e *env) {
	b, topic, group := e.open(), e.topic(), e.group()
	e.publish(b, topic, msg("key", "one"))
	c := e.consume(b, topic, group, driver.SubscriberOptions{DirectSettle: true})
	late := c.next()
	c.close()
	c = e.consume(b, topic, group, driver.SubscriberOptions{DirectSettle: true})
	held := c.next()
	driver.Settle(late, true)
	if err := held.Context().Err(); err != nil {
		e.Errorf("the context of the second delivery: %v", err)
	}
	c.close()
	c = e.consume(b, topic, group, driver.SubscriberOptions{})
	c.want("one")
}

// backendClose: closing a backend closes its subscribers.
func backendClose(e *env) {
	b, topic, group := e.open(), e.topic(), e.group()
	e.publish(b, topic, msg("key", "one"))
	c := e.consume(b, topic, group, driver.SubscriberOptions{})
	m := c.next()
	if err := b.Close(e.ctx()); err != nil {
		e.Errorf("Backend.Close: %v", err)
	}
	c.closed()
	e.within("the message's context ends", m.Context().Done())
	e.consume(e.open(), topic, group, driver.SubscriberOptions{}).want("one")
}

// drainWaits: the channel is closed at once, Drain returns when the last message
// is settled, and until then the messages' contexts live.
func drainWaits(e *env) {
	b, topic, group := e.open(), e.topic(), e.group()
	e.publish(b, topic, series("key", 3)...)
	c := e.consume(b, topic, group, driver.SubscriberOptions{})
	m := c.next()
	drained := make(chan error, 1)
	ctx := e.ctx()
	go func() { drained <- c.sub.Drain(ctx) }()
	c.closed()
	select {
	case err := <-drained:
		e.Errorf("Drain returned while a message was in flight: %v", err)
	default:
	}
	if err := m.Context().Err(); err != nil {
		e.Errorf("the context of a message in flight: %v", err)
	}
	m.Ack()
	select {
	case err := <-drained:
		if err != nil {
			e.Errorf("Drain: %v", err)
		}
	case <-ctx.Done():
		e.Fatal("Drain did not return after the last ack")
	}
	c.close()
	e.consume(b, topic, group, driver.SubscriberOptions{}).want("key 1", "key 2")
}

// drainAcksCount: after a drain nothing that was acked comes again.
func drainAcksCount(e *env) {
	b, topic, group := e.open(), e.topic(), e.group()
	var msgs []*message.Message
	for i := range 50 {
		msgs = append(msgs, msg(fmt.Sprintf("key-%d", i%10), fmt.Sprintf("message %d", i)))
	}
	e.publish(b, topic, msgs...)
	c := e.consume(b, topic, group, driver.SubscriberOptions{})
	c.wantSet(payloads(msgs)...)
	e.drained(c)
	e.nothingLeft(b, topic, group)
}

// drainGivesBack: messages that were fetched and never taken out of the channel
// come to the next subscriber, those that were nacked too, and those acked
// during the drain do not.
func drainGivesBack(e *env) {
	b, topic, group := e.open(), e.topic(), e.group()
	var msgs []*message.Message
	for i := range 40 {
		msgs = append(msgs, msg(fmt.Sprintf("key-%d", i), fmt.Sprintf("message %d", i)))
	}
	e.publish(b, topic, msgs...)
	c := e.consume(b, topic, group, driver.SubscriberOptions{})
	acked, nacked := c.next(), (*message.Message)(nil)
	if e.caps.ParallelKeys {
		nacked = c.next()
	}
	ctx := e.ctx()
	drained := make(chan error, 1)
	go func() { drained <- c.sub.Drain(ctx) }()
	left := map[string]bool{}
	for _, m := range msgs {
		left[string(m.Payload)] = true
	}
	// What still comes out while the channel closes was delivered.
	for _, m := range c.closed() {
		delete(left, string(m.Payload))
		m.Ack()
	}
	acked.Ack()
	delete(left, string(acked.Payload))
	if nacked != nil {
		nacked.Nack()
	}
	if err := <-drained; err != nil {
		e.Errorf("Drain: %v", err)
	}
	c.close()
	var want []string
	for p := range left {
		want = append(want, p)
	}
	c = e.consume(b, topic, group, driver.SubscriberOptions{})
	c.wantSet(want...)
	e.drained(c)
	e.nothingLeft(b, topic, group)
}

// drainIsBounded: a message that nobody settles does not hold it up for ever,
// and is not lost.
func drainIsBounded(e *env) {
	b, topic, group := e.open(), e.topic(), e.group()
	e.publish(b, topic, msg("key", "stuck"))
	c := e.consume(b, topic, group, driver.SubscriberOptions{})
	c.next()
	why := errors.New("patience has ended")
	ctx, cancel := context.WithTimeoutCause(context.Background(), e.h.Quiet, why)
	defer cancel()
	if err := c.sub.Drain(ctx); err == nil {
		e.Error("Drain returned nil though a message was in flight")
	}
	c.closed()
	c.close()
	e.consume(b, topic, group, driver.SubscriberOptions{}).want("stuck")
}

// drainIsIdempotent: also concurrently, and before and after Close.
func drainIsIdempotent(e *env) {
	b, topic, group := e.open(), e.topic(), e.group()
	e.publish(b, topic, series("key", 2)...)
	c := e.consume(b, topic, group, driver.SubscriberOptions{})
	m := c.next()
	drained := make(chan error, 3)
	ctx := e.ctx()
	for range 3 {
		go func() { drained <- c.sub.Drain(ctx) }()
	}
	c.closed()
	m.Ack()
	for range 3 {
		if err := <-drained; err != nil {
			e.Errorf("Drain: %v", err)
		}
	}
	if err := c.sub.Drain(ctx); err != nil {
		e.Errorf("Drain again: %v", err)
	}
	if _, err := c.sub.Subscribe(ctx, topic); !errors.Is(err, driver.ErrClosed) {
		e.Errorf("Subscribe after Drain: error %v, want ErrClosed", err)
	}
	c.close()
	if err := c.sub.Drain(ctx); err != nil {
		e.Errorf("Drain after Close: %v", err)
	}
	e.consume(b, topic, group, driver.SubscriberOptions{}).want("key 1")
}

// noLeaks: after Close no goroutine of the backend is left, whatever was in
// flight.
func noLeaks(e *env) {
	before := goleak.IgnoreCurrent()
	b, topic := e.h.Open(e.TB), e.topic()
	e.publish(b, topic, series("key", 3)...)
	e.publish(b, topic, series("", 3)...)
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	for _, direct := range []bool{true, false} {
		sub, err := b.Subscriber(e.group(), driver.SubscriberOptions{DirectSettle: direct})
		if err != nil {
			e.Fatal(err)
		}
		ch, err := sub.Subscribe(ctx, topic)
		if err != nil {
			e.Fatal(err)
		}
		c := &consumer{env: e, sub: sub, ch: ch}
		driver.Settle(c.next(), true)
		driver.Settle(c.next(), false)
		c.next()
	}
	closeBackend(e.TB, b)
	// Some end after a pause.
	e.eventually("after Close no goroutine is left", func() (bool, string) {
		err := goleak.Find(before)
		return err == nil, fmt.Sprint(err)
	})
}
