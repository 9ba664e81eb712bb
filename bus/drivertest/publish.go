package drivertest

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/aura360/eventbus/bus/driver"
	"github.com/aura360/eventbus/events"
)

var publishCases = []testCase{
	{name: "RoundTrip", run: roundTrip},
	{name: "MessagesAreCopies", run: messagesAreCopies},
	{name: "BatchOrder", run: batchOrder},
	{name: "ConcurrentPublishers", run: concurrentPublishers},
	{name: "PublishCancelled", run: publishCancelled},
	{name: "PublishAfterClose", run: publishAfterClose},
	{name: "PublishBadTopic", run: publishBadTopic},
	{name: "Oversize", run: oversize, needs: func(c driver.Capabilities) string {
		if c.MaxMessageBytes == 0 {
			return "no limit to the size of a message of its own"
		}
		return ""
	}},
	{name: "EnsureTopic", run: ensureTopic},
	{name: "Ping", run: ping},
}

// roundTrip: what is delivered is what was published: UUID, payload whatever its
// bytes, all metadata, the key.
func roundTrip(e *env) {
	b, topic := e.open(), e.topic()
	binary := make([]byte, 256)
	for i := range binary {
		binary[i] = byte(i)
	}
	many := msg("user-1", "many headers")
	for i := range 40 {
		many.Metadata[fmt.Sprintf("header_%d", i)] = strings.Repeat("v", i)
	}
	odd := msg("user-1", "odd headers")
	odd.Metadata["empty"] = ""
	odd.Metadata["unicode"] = "žluťoučký 🐎"
	odd.Metadata["lines"] = "a\r\nb\x00c"
	sent := []*message.Message{
		msg("user-1", `{"event_type":"mood.created"}`),
		msg("user-1", string(binary)),
		msg("user-1", ""),
		many,
		odd,
		msg("user-1", strings.Repeat("large ", 20_000)),
	}
	copies := make([]*message.Message, len(sent))
	for i, m := range sent {
		copies[i] = m.Copy()
	}
	e.publish(b, topic, sent...)
	for i := range sent {
		e.untouched(copies[i], sent[i])
	}
	c := e.consume(b, topic, e.group(), driver.SubscriberOptions{})
	for _, want := range copies {
		got := c.next()
		e.untouched(want, got)
		if driver.Key(got) != "user-1" {
			e.Errorf("the key is %q, want user-1", driver.Key(got))
		}
		got.Ack()
	}
	// A message without a key is delivered without one.
	keyless := msg("", "keyless")
	e.publish(b, topic, keyless.Copy())
	got := c.next()
	e.untouched(keyless, got)
	got.Ack()
}

// messagesAreCopies: what a consumer does to a message's metadata is seen by
// nobody else, and neither is what the publisher does after Publish.
func messagesAreCopies(e *env) {
	b, topic := e.open(), e.topic()
	m := msg("k", "payload")
	m.Metadata["mine"] = "original"
	want := m.Copy()
	one := e.consume(b, topic, e.group(), driver.SubscriberOptions{})
	two := e.consume(b, topic, e.group(), driver.SubscriberOptions{})
	e.publish(b, topic, m)
	m.Metadata["mine"] = "changed by the publisher"

	got := one.next()
	e.untouched(want, got)
	got.Metadata["mine"] = "changed by a consumer"
	delete(got.Metadata, events.HeaderKey)
	got.Nack()

	got = one.next()
	e.untouched(want, got)
	got.Ack()
	got = two.next()
	e.untouched(want, got)
	got.Ack()
}

// batchOrder: the messages of one key of one batch arrive in its order.
func batchOrder(e *env) {
	b, topic := e.open(), e.topic()
	msgs := series("key", 100)
	e.publish(b, topic, msgs...)
	c := e.consume(b, topic, e.group(), driver.SubscriberOptions{})
	c.want(payloads(msgs)...)
}

// concurrentPublishers: publishers that don't know of each other, each with its
// own order, and two that share a key.
func concurrentPublishers(e *env) {
	b, topic := e.open(), e.topic()
	const publishers, batches, size = 8, 5, 5
	var wg sync.WaitGroup
	for p := range publishers {
		key := fmt.Sprintf("key-%d", p/2)
		wg.Go(func() {
			for i := range batches {
				var batch []*message.Message
				for j := range size {
					batch = append(batch, msg(key, fmt.Sprintf("%d %d", p, i*size+j)))
				}
				if err := b.Publish(e.ctx(), topic, batch...); err != nil {
					e.Errorf("Publish: %v", err)
					return
				}
			}
		})
	}
	wg.Wait()
	c := e.consume(b, topic, e.group(), driver.SubscriberOptions{})
	var next [publishers]int
	for range publishers * batches * size {
		m := c.next()
		var p, i int
		if _, err := fmt.Sscan(string(m.Payload), &p, &i); err != nil {
			e.Fatal(err)
		}
		if i != next[p] {
			e.Fatalf("publisher %d: message %d came when %d was due; seen: %q", p, i, next[p], c.seen)
		}
		next[p]++
		m.Ack()
	}
}

// publishCancelled: with a context that has ended nothing is sent, so every
// outcome is known.
func publishCancelled(e *env) {
	b, topic := e.open(), e.topic()
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	for i, r := range e.results(b.Publish(ctx, topic, series("key", 3)...), 3) {
		if r.Outcome != driver.Rejected {
			e.Errorf("message %d: %v (%v), want rejected: it was never sent", i, r.Outcome, r.Err)
		}
		if errors.Is(r.Err, driver.ErrPermanent) {
			e.Errorf("message %d: %v is permanent, yet it can be sent later", i, r.Err)
		}
	}
	e.publish(b, topic, msg("key", "fence"))
	if !e.caps.Discards {
		e.consume(b, topic, e.group(), driver.SubscriberOptions{}).want("fence")
	}
}

// publishAfterClose: rejected, with ErrClosed; closing twice is nothing.
func publishAfterClose(e *env) {
	b, topic := e.open(), e.topic()
	e.publish(b, topic, msg("key", "before"))
	if err := b.Close(e.ctx()); err != nil {
		e.Fatalf("Close: %v", err)
	}
	if err := b.Close(e.ctx()); err != nil {
		e.Errorf("second Close: %v", err)
	}
	for i, r := range e.results(b.Publish(e.ctx(), topic, series("key", 2)...), 2) {
		if r.Outcome != driver.Rejected || !errors.Is(r.Err, driver.ErrClosed) {
			e.Errorf("message %d: %v (%v), want rejected with ErrClosed", i, r.Outcome, r.Err)
		}
	}
	sub, err := b.Subscriber(e.group(), driver.SubscriberOptions{})
	if err == nil {
		_, err = sub.Subscribe(e.ctx(), topic)
		sub.Close()
	}
	if !errors.Is(err, driver.ErrClosed) {
		e.Errorf("Subscribe after Close: error %v, want ErrClosed", err)
	}
	if !e.caps.Discards {
		c := e.consume(e.open(), topic, e.group(), driver.SubscriberOptions{})
		c.want("before")
	}
}

// publishBadTopic: a topic without a name is nobody's, now and later.
func publishBadTopic(e *env) {
	b := e.open()
	for i, r := range e.results(b.Publish(e.ctx(), "", series("key", 2)...), 2) {
		if r.Outcome != driver.Rejected || !errors.Is(r.Err, driver.ErrPermanent) {
			e.Errorf("message %d: %v (%v), want rejected for ever", i, r.Outcome, r.Err)
		}
	}
	if e.caps.Discards {
		return
	}
	sub, err := b.Subscriber(e.group(), driver.SubscriberOptions{})
	if err != nil {
		e.Fatal(err)
	}
	defer sub.Close()
	if _, err := sub.Subscribe(e.ctx(), ""); err == nil {
		e.Error("Subscribe to a topic without a name: no error")
	}
}

// oversize: what is too large is rejected for ever, and stops nothing. Those
// after it in the same call may be confirmed or rejected as not sent.
func oversize(e *env) {
	b, topic := e.open(), e.topic()
	huge := msg("key", strings.Repeat("x", e.caps.MaxMessageBytes+1))
	results := e.results(b.Publish(e.ctx(), topic, msg("key", "before"), huge, msg("key", "after")), 3)
	if r := results[0]; r.Outcome != driver.Confirmed {
		e.Errorf("the message before: %v (%v)", r.Outcome, r.Err)
	}
	if r := results[1]; r.Outcome != driver.Rejected || !errors.Is(r.Err, driver.ErrPermanent) {
		e.Errorf("the large message: %v (%v), want rejected for ever", r.Outcome, r.Err)
	}
	want := []string{"before"}
	switch r := results[2]; {
	case r.Outcome == driver.Confirmed:
		want = append(want, "after")
	case r.Outcome == driver.Rejected && !errors.Is(r.Err, driver.ErrPermanent):
	default:
		e.Errorf("the message after: %v (%v), want confirmed, or rejected for now", r.Outcome, r.Err)
	}
	e.publish(b, topic, msg("key", "next"))
	c := e.consume(b, topic, e.group(), driver.SubscriberOptions{})
	c.want(append(want, "next")...)
}

// ensureTopic: creating a topic twice is nothing, and it can then be used.
func ensureTopic(e *env) {
	b, topic := e.open(), e.topic()
	p, ok := b.(driver.Provisioner)
	if !ok {
		e.Skip("the backend does not claim it: no driver.Provisioner")
	}
	for _, spec := range []driver.TopicSpec{
		{Name: topic, Partitions: 1},
		{Name: topic, Partitions: 1},
		{Name: topic}, // another number of partitions changes nothing
	} {
		if err := p.EnsureTopic(e.ctx(), spec); err != nil {
			e.Fatalf("EnsureTopic(%+v): %v", spec, err)
		}
	}
	e.publish(b, topic, series("key", 3)...)
	e.consume(b, topic, e.group(), driver.SubscriberOptions{}).want("key 0", "key 1", "key 2")
}

// ping: answers, and is bounded by its context.
func ping(e *env) {
	b := e.open()
	if err := b.Ping(e.ctx()); err != nil {
		e.Errorf("Ping: %v", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := b.Ping(ctx); err == nil {
		e.Error("Ping with a context that has ended: no error")
	}
	if b.Name() == "" {
		e.Error("the backend has no name")
	}
}
