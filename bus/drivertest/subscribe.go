package drivertest

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/aura360/eventbus/bus/driver"
)

var subscribeCases = []testCase{
	{name: "NewGroupStartsAtOldest", run: newGroupStartsAtOldest, needs: groups},
	{name: "GroupsEachGetAll", run: groupsEachGetAll, needs: groups},
	{name: "MembersShare", run: membersShare, needs: groups},
	{name: "MaxInFlight", run: maxInFlight, needs: parallel},
	{name: "MessageContext", run: messageContext},
	{name: "DirectSettle", run: directSettle},
	{name: "SettleLater", run: settleLater},
	{name: "State", run: state},
	{name: "Lag", run: lag},
	{name: "BadOptions", run: badOptions},
}

func groups(c driver.Capabilities) string {
	if !c.Groups {
		return "groups"
	}
	return ""
}

func parallel(c driver.Capabilities) string {
	if !c.ParallelKeys {
		return "messages of different keys in parallel"
	}
	return ""
}

// newGroupStartsAtOldest: also a group that comes when another has read all.
func newGroupStartsAtOldest(e *env) {
	b, topic := e.open(), e.topic()
	msgs := series("key", 5)
	e.publish(b, topic, msgs...)
	e.consume(b, topic, e.group(), driver.SubscriberOptions{}).want(payloads(msgs)...)
	e.consume(b, topic, e.group(), driver.SubscriberOptions{}).want(payloads(msgs)...)
}

func groupsEachGetAll(e *env) {
	b, topic := e.open(), e.topic()
	one := e.consume(b, topic, e.group(), driver.SubscriberOptions{})
	two := e.consume(b, topic, e.group(), driver.SubscriberOptions{})
	msgs := series("key", 10)
	e.publish(b, topic, msgs...)
	one.want(payloads(msgs)...)
	two.want(payloads(msgs)...)
}

// membersShare: members of one group, on two clients, get each message once
// between them, once the group has settled down.
func membersShare(e *env) {
	a, b, topic, group := e.open(), e.open(), e.topic(), e.group()
	if p, ok := a.(driver.Provisioner); ok {
		if err := p.EnsureTopic(e.ctx(), driver.TopicSpec{Name: topic, Partitions: 4}); err != nil {
			e.Fatal(err)
		}
	}
	got := make(chan string, 10_000)
	read := func(c *consumer, name string) {
		for m := range c.ch {
			got <- name + " " + string(m.Payload)
			m.Ack()
		}
	}
	var wg sync.WaitGroup
	var consumers []*consumer
	defer func() {
		for _, c := range consumers {
			c.close()
		}
		wg.Wait()
	}()
	for name, backend := range map[string]driver.Backend{"a": a, "b": b} {
		c := e.consume(backend, topic, group, driver.SubscriberOptions{Instance: name})
		wg.Go(func() { read(c, name) })
		consumers = append(consumers, c)
		c.connected(topic)
	}
	// Warm up: while members join, messages may come twice.
	collect := func(round string, n int, once bool) {
		e.Helper()
		var msgs []*message.Message
		for i := range n {
			msgs = append(msgs, msg(fmt.Sprintf("key-%d", i%20), fmt.Sprintf("%s %d", round, i)))
		}
		e.publish(a, topic, msgs...)
		seen := map[string]string{}
		share := map[string]int{}
		for len(seen) < n {
			var s string
			select {
			case s = <-got:
			case <-e.ctx().Done():
				e.Fatalf("%s: %d of %d messages; shares %v", round, len(seen), n, share)
			}
			var by, r, i string
			if _, err := fmt.Sscan(s, &by, &r, &i); err != nil || r != round {
				if once {
					e.Errorf("%s: received %q of another round", round, s)
				}
				continue
			}
			if before, twice := seen[i]; twice && once {
				e.Errorf("%s: message %s came to %s and to %s", round, i, before, by)
			}
			seen[i] = by
			share[by]++
		}
		e.Logf("%s: shares %v", round, share)
	}
	collect("warm-up", 40, false)
	collect("again", 40, false)
	collect("steady", 400, true)
	collect("fence", 20, true)
}

// maxInFlight: messages without a key wait for nothing but room.
func maxInFlight(e *env) {
	b, topic := e.open(), e.topic()
	e.publish(b, topic, series("", 10)...)
	c := e.consume(b, topic, e.group(), driver.SubscriberOptions{MaxInFlight: 4})
	var held []*message.Message
	for range 4 {
		held = append(held, c.next())
	}
	c.nothing("four are unacked, MaxInFlight is 4")
	held[2].Ack()
	fifth := c.next()
	c.nothing("four are unacked again")
	for _, m := range append(held, fifth) {
		m.Ack()
	}
	c.take(5)
}

type contextKey struct{}

// messageContext: it inherits Subscribe's values, lives until the ack, then
// ends; and ends with the subscriber.
func messageContext(e *env) {
	b, topic := e.open(), e.topic()
	e.publish(b, topic, series("key", 3)...)
	ctx := context.WithValue(context.Background(), contextKey{}, "inherited")
	c := e.consumeCtx(ctx, b, topic, e.group(), driver.SubscriberOptions{})
	alive := func(m *message.Message) {
		e.Helper()
		if got := m.Context().Value(contextKey{}); got != "inherited" {
			e.Errorf("the message's context has the value %v, want inherited", got)
		}
		if err := m.Context().Err(); err != nil {
			e.Errorf("the context of an unacked message has ended: %v", err)
		}
	}
	ends := func(m *message.Message, when string) {
		e.Helper()
		e.within("the message's context ends "+when, m.Context().Done())
		if m.Context().Err() == nil {
			e.Errorf("%s: the context has ended without an error", when)
		}
	}
	m := c.next()
	alive(m)
	// A context derived from it before the end must end with it.
	derived, cancel := context.WithCancel(m.Context())
	defer cancel()
	m.Ack()
	ends(m, "after the ack")
	e.within("a derived context ends after the ack", derived.Done())

	m = c.next()
	alive(m)
	m.Nack()
	ends(m, "after the nack")

	m = c.next()
	alive(m)
	c.close()
	ends(m, "when the subscriber closes")
}

// directSettle: acks and nacks told through driver.Settle count.
func directSettle(e *env) {
	b, topic, group := e.open(), e.topic(), e.group()
	opts := driver.SubscriberOptions{DirectSettle: true}
	e.publish(b, topic, series("key", 3)...)
	c := e.consume(b, topic, group, opts)
	first := c.next()
	driver.Settle(first, false)
	for _, want := range []string{"key 0", "key 1", "key 2"} {
		m := c.next()
		if string(m.Payload) != want {
			e.Fatalf("received %q, want %q", m.Payload, want)
		}
		driver.Settle(m, true)
	}
	if err := c.sub.Drain(e.ctx()); err != nil {
		e.Errorf("Drain: %v", err)
	}
	c.close()
	e.publish(b, topic, msg("key", "fence"))
	c = e.consume(b, topic, group, opts)
	m := c.next()
	if string(m.Payload) != "fence" {
		e.Errorf("received %q, which was acked", m.Payload)
	}
	driver.Settle(m, true)
}

// settleLater: a message that was put off comes again, before later ones of its
// key, and not before its time where the driver says that it can.
func settleLater(e *env) {
	const pause = 300 * time.Millisecond
	b, topic := e.open(), e.topic()
	e.publish(b, topic, series("key", 2)...)
	c := e.consume(b, topic, e.group(), driver.SubscriberOptions{DirectSettle: true})
	m := c.next()
	start := time.Now()
	can := driver.SettleLater(m, pause)
	m = c.next()
	if string(m.Payload) != "key 0" {
		e.Fatalf("received %q, want what was put off", m.Payload)
	}
	if waited := time.Since(start); can && waited < pause {
		e.Errorf("delivered again after %v, want %v or more", waited, pause)
	}
	driver.Settle(m, true)
	m = c.next()
	if string(m.Payload) != "key 1" {
		e.Errorf("received %q, want the next of the key", m.Payload)
	}
	driver.Settle(m, true)
	if err := c.sub.Drain(e.ctx()); err != nil {
		e.Errorf("Drain: %v", err)
	}
}

// state: tells of each subscription, and never of others.
func state(e *env) {
	b, topic := e.open(), e.topic()
	sub, err := b.Subscriber(e.group(), driver.SubscriberOptions{})
	if err != nil {
		e.Fatal(err)
	}
	if s := sub.State(); len(s) != 0 {
		e.Errorf("before Subscribe: %+v", s)
	}
	if err := sub.Close(); err != nil {
		e.Errorf("Close: %v", err)
	}
	e.publish(b, topic, msg("key", "one"))
	c := e.consume(b, topic, e.group(), driver.SubscriberOptions{})
	c.want("one")
	c.connected(topic)
	if s := c.sub.State(); len(s) != 1 {
		e.Errorf("State: %+v, want %s alone", s, topic)
	}
	c.close()
	if s := c.sub.State(); s[topic].Connected {
		e.Errorf("after Close: %+v", s)
	}
}

// lag: unknown for a group that never read, then what is not settled.
func lag(e *env) {
	b, topic, group := e.open(), e.topic(), e.group()
	i, ok := b.(driver.Inspector)
	if !ok {
		e.Skip("the backend does not claim it: no driver.Inspector")
	}
	e.publish(b, topic, series("key", 5)...)
	if n, known, err := i.Lag(e.ctx(), topic, group); known || err != nil {
		e.Errorf("a group that never read: lag %d, known %v, error %v", n, known, err)
	}
	c := e.consume(b, topic, group, driver.SubscriberOptions{})
	wait := func(want int64) {
		e.Helper()
		e.eventually(fmt.Sprintf("the lag is %d", want), func() (bool, string) {
			n, known, err := i.Lag(e.ctx(), topic, group)
			return known && err == nil && n == want, fmt.Sprintf("lag %d, known %v, error %v", n, known, err)
		})
	}
	// The first ack makes the group known everywhere.
	c.want("key 0")
	wait(4)
	c.want("key 1", "key 2")
	wait(2)
	c.want("key 3", "key 4")
	wait(0)
}

func badOptions(e *env) {
	b := e.open()
	for _, n := range []int{-1, 10_001} {
		sub, err := b.Subscriber(e.group(), driver.SubscriberOptions{MaxInFlight: n})
		if err == nil {
			sub.Close()
			e.Errorf("MaxInFlight %d: no error", n)
		}
	}
	if sub, err := b.Subscriber("", driver.SubscriberOptions{}); err == nil {
		sub.Close()
		e.Error("a group without a name: no error")
	}
}
