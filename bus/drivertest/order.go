package drivertest

import (
	"fmt"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/aura360/eventbus/bus/driver"
)

var orderCases = []testCase{
	{name: "OneUnackedPerKey", run: oneUnackedPerKey, needs: orderedOneMember},
	{name: "KeysInParallel", run: keysInParallel, needs: parallel},
	{name: "KeylessInParallel", run: keylessInParallel, needs: parallel},
	{name: "AcksInAnyOrder", run: acksInAnyOrder, needs: parallel},
	{name: "NackBeforeLaterOfItsKey", run: nackBeforeLater, needs: orderedOneMember},
	{name: "NackStopsNoOtherKey", run: nackStopsNoOtherKey, needs: parallel},
	{name: "NackPauseGrows", run: nackPauseGrows},
	{name: "OrderPerKeyOneMember", run: func(e *env) { orderPerKey(e, 1) }, needs: orderedOneMember},
	{name: "OrderPerKeyManyMembers", run: func(e *env) { orderPerKey(e, 3) }, needs: func(c driver.Capabilities) string {
		if !c.OrderedPerKey {
			return "order per key with any number of members"
		}
		return ""
	}},
}

func orderedOneMember(c driver.Capabilities) string {
	if !c.OrderedPerKey && !c.OrderedSingleMember {
		return "order per key"
	}
	return ""
}

// oneUnackedPerKey: the second message of a key waits for the ack of the first.
func oneUnackedPerKey(e *env) {
	b, topic := e.open(), e.topic()
	e.publish(b, topic, series("key", 3)...)
	c := e.consume(b, topic, e.group(), driver.SubscriberOptions{})
	for i := range 3 {
		m := c.next()
		if want := fmt.Sprintf("key %d", i); string(m.Payload) != want {
			e.Fatalf("received %q, want %q", m.Payload, want)
		}
		c.nothing(fmt.Sprintf("%q is unacked", m.Payload))
		m.Ack()
	}
}

// keysInParallel: an unacked message holds up its own key and no other.
func keysInParallel(e *env) {
	b, topic := e.open(), e.topic()
	var msgs []*message.Message
	for i := range 10 {
		msgs = append(msgs, series(fmt.Sprintf("key-%d", i), 2)...)
	}
	e.publish(b, topic, msgs...)
	c := e.consume(b, topic, e.group(), driver.SubscriberOptions{})
	firsts := map[string]*message.Message{}
	for range 10 {
		m := c.next()
		if firsts[driver.Key(m)] != nil {
			e.Fatalf("two unacked messages of %s; seen: %q", driver.Key(m), c.seen)
		}
		firsts[driver.Key(m)] = m
	}
	firsts["key-7"].Ack()
	c.want("key-7 1")
	for key, m := range firsts {
		if key != "key-7" {
			m.Ack()
			c.want(key + " 1")
		}
	}
}

func keylessInParallel(e *env) {
	b, topic := e.open(), e.topic()
	e.publish(b, topic, series("", 50)...)
	c := e.consume(b, topic, e.group(), driver.SubscriberOptions{})
	var held []*message.Message
	for range 50 {
		held = append(held, c.next())
	}
	for _, m := range held {
		m.Ack()
	}
}

// acksInAnyOrder: acked last to first, nothing comes again.
func acksInAnyOrder(e *env) {
	b, topic, group := e.open(), e.topic(), e.group()
	var msgs []*message.Message
	for i := range 20 {
		msgs = append(msgs, msg(fmt.Sprintf("key-%d", i), fmt.Sprintf("message %d", i)))
	}
	e.publish(b, topic, msgs...)
	c := e.consume(b, topic, group, driver.SubscriberOptions{})
	var held []*message.Message
	for range msgs {
		held = append(held, c.next())
	}
	for _, m := range slices.Backward(held) {
		m.Ack()
	}
	e.drained(c)
	e.nothingLeft(b, topic, group)
}

// nackBeforeLater: a nacked message is the next one of its key, as often as it
// is nacked.
func nackBeforeLater(e *env) {
	b, topic := e.open(), e.topic()
	e.publish(b, topic, series("key", 3)...)
	c := e.consume(b, topic, e.group(), driver.SubscriberOptions{})
	for range 3 {
		m := c.next()
		if string(m.Payload) != "key 0" {
			e.Fatalf("received %q, want the nacked message; seen: %q", m.Payload, c.seen)
		}
		m.Nack()
	}
	c.want("key 0")
	m := c.next()
	if string(m.Payload) != "key 1" {
		e.Fatalf("received %q, want %q", m.Payload, "key 1")
	}
	m.Nack()
	c.want("key 1", "key 2")
}

// nackStopsNoOtherKey: while one message is nacked again and again, the others
// are handled.
func nackStopsNoOtherKey(e *env) {
	b, topic := e.open(), e.topic()
	var msgs []*message.Message
	for i := range 50 {
		if i%10 == 0 {
			msgs = append(msgs, msg("bad", fmt.Sprintf("bad %d", i/10)))
		}
		msgs = append(msgs, msg(fmt.Sprintf("good-%d", i%7), fmt.Sprintf("good %d", i)))
	}
	e.publish(b, topic, msgs...)
	c := e.consume(b, topic, e.group(), driver.SubscriberOptions{MaxInFlight: 4})
	for good := 0; good < 50; {
		m := c.next()
		if driver.Key(m) == "bad" {
			if string(m.Payload) != "bad 0" {
				e.Fatalf("received %q while %q was never acked", m.Payload, "bad 0")
			}
			m.Nack()
			continue
		}
		good++
		m.Ack()
	}
	c.want("bad 0", "bad 1", "bad 2", "bad 3", "bad 4")
}

// nackPauseGrows: a message that fails again and again is not tried in a hot
// loop. Only lower bounds of time are checked, which a slow machine keeps.
func nackPauseGrows(e *env) {
	b, topic := e.open(), e.topic()
	e.publish(b, topic, msg("key", "message"))
	c := e.consume(b, topic, e.group(), driver.SubscriberOptions{})
	m := c.next()
	start := time.Now()
	const nacks = 6
	for range nacks {
		m.Nack()
		m = c.next()
	}
	took := time.Since(start)
	m.Ack()
	if took < 100*time.Millisecond {
		e.Errorf("a message nacked %d times came back within %v: a hot loop", nacks, took)
	}
}

// orderPerKey: members handle concurrently and nack now and then; each key's
// messages are handled one after another, in the order published.
func orderPerKey(e *env, members int) {
	topic, group := e.topic(), e.group()
	const keys, perKey = 16, 25
	type lane struct {
		handling sync.Mutex // held by the one that handles; guards the rest
		next     int
		nacked   int // the last message that was nacked
	}
	lanes := map[string]*lane{}
	for k := range keys {
		lanes[fmt.Sprintf("key-%d", k)] = &lane{nacked: -1}
	}
	var running sync.WaitGroup
	var handled atomic.Int64
	done := make(chan struct{})
	handle := func(m *message.Message) {
		var key string
		var i int
		if _, err := fmt.Sscan(string(m.Payload), &key, &i); err != nil {
			e.Errorf("payload %q: %v", m.Payload, err)
			return
		}
		l := lanes[key]
		if !l.handling.TryLock() {
			e.Errorf("%s: two messages handled at a time", key)
			l.handling.Lock()
		}
		for range i % 5 {
			runtime.Gosched()
		}
		ack := true
		switch {
		case i > l.next:
			e.Errorf("%s: message %d handled when %d was due", key, i, l.next)
		case i < l.next: // a group that has not settled down may repeat
		case i%10 == 3 && l.nacked != i:
			l.nacked = i
			ack = false
		default:
			l.next++
			if handled.Add(1) == keys*perKey {
				close(done)
			}
		}
		l.handling.Unlock()
		if ack {
			m.Ack()
		} else {
			m.Nack()
		}
	}
	var consumers []*consumer
	defer func() {
		for _, c := range consumers {
			c.close()
		}
		running.Wait()
	}()
	for range members {
		c := e.consume(e.open(), topic, group, driver.SubscriberOptions{})
		consumers = append(consumers, c)
		running.Go(func() {
			for m := range c.ch {
				running.Go(func() { handle(m) })
			}
		})
		c.connected(topic)
	}
	b := e.open()
	for i := range perKey {
		var batch []*message.Message
		for k := range keys {
			batch = append(batch, msg(fmt.Sprintf("key-%d", k), fmt.Sprintf("key-%d %d", k, i)))
		}
		e.publish(b, topic, batch...)
	}
	e.within(fmt.Sprintf("%d messages handled", keys*perKey), done)
}
