package drivertest

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/aura360/eventbus/bus/driver"
	"github.com/aura360/eventbus/events"
)

var faultCases = []testCase{
	{name: "Malformed", run: malformed, hook: func(h *Harness) string {
		if h.Inject == nil {
			return "Inject"
		}
		return ""
	}},
	{name: "OpenWhileDown", run: openWhileDown, hook: func(h *Harness) string {
		if h.OpenDown == nil {
			return "OpenDown"
		}
		return ""
	}},
	{name: "Restart", run: restart, alone: true, hook: func(h *Harness) string {
		if h.Restart == nil {
			return "Restart"
		}
		return ""
	}},
}

// malformed: an entry that is no message is delivered as one that says so, with
// its bytes, and the next one is handled.
func malformed(e *env) {
	b, topic, group := e.open(), e.topic(), e.group()
	e.publish(b, topic, msg("key", "before"))
	raw := []byte("\x00\xffnot a message")
	e.h.Inject(e.TB, topic, raw)
	e.publish(b, topic, msg("key", "after"))
	c := e.consume(b, topic, group, driver.SubscriberOptions{})
	var good []string
	bad := 0
	for range 3 {
		m := c.next()
		if m.Metadata[events.HeaderMalformed] != "" {
			bad++
			if string(m.Payload) != string(raw) {
				e.Errorf("the malformed entry's payload is %q, want its bytes %q", m.Payload, raw)
			}
		} else {
			good = append(good, string(m.Payload))
		}
		m.Ack()
	}
	if bad != 1 || !slices.Equal(good, []string{"before", "after"}) {
		e.Errorf("%d malformed and %q, want one and before, after", bad, good)
	}
	e.drained(c)
	e.nothingLeft(b, topic, group)
}

// openWhileDown: opening, subscribing and closing need no broker; what is not
// sent says so; when the broker comes, everything goes on by itself.
func openWhileDown(e *env) {
	b, up := e.h.OpenDown(e.TB)
	e.Cleanup(func() { closeBackend(e.TB, b) })
	topic, group := e.topic(), e.group()
	short, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	if err := b.Ping(short); err == nil {
		e.Error("Ping of a broker that is down: no error")
	}
	outcomes := e.results(b.Publish(short, topic, msg("key", "too early")), 1)
	if outcomes[0].Outcome == driver.Confirmed {
		e.Error("a publish was confirmed with the broker down")
	}
	c := e.consume(b, topic, group, driver.SubscriberOptions{})
	if c.sub.State()[topic].Connected {
		e.Error("State says connected with the broker down")
	}
	up()
	e.eventually("the broker answers", func() (bool, string) {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		err := b.Ping(ctx)
		return err == nil, fmt.Sprint(err)
	})
	e.publishRetry(b, topic, msg("key", "in time"))
	m := c.next()
	if string(m.Payload) == "too early" && outcomes[0].Outcome == driver.Unknown {
		m.Ack()
		m = c.next()
	}
	if string(m.Payload) != "in time" {
		e.Errorf("received %q (the early publish was %v)", m.Payload, outcomes[0].Outcome)
	}
	m.Ack()
	c.connected(topic)
}

// publishRetry publishes as the bus above does: again, until it is confirmed.
func (e *env) publishRetry(b driver.Backend, topic string, m *message.Message) {
	e.Helper()
	ctx := e.ctx()
	for {
		try, cancel := context.WithTimeout(ctx, 5*time.Second)
		err := b.Publish(try, topic, m)
		cancel()
		if err == nil {
			return
		}
		pause := time.NewTimer(20 * time.Millisecond)
		select {
		case <-pause.C:
		case <-ctx.Done():
			pause.Stop()
			e.Errorf("Publish: not confirmed within %v: %v", e.h.Wait, err)
			return
		}
	}
}

// restart: the broker goes down and comes back in the middle of publishing and
// consuming. Nothing that was confirmed is lost, and nobody has to be opened
// again.
func restart(e *env) {
	b, topic, group := e.open(), e.topic(), e.group()
	c := e.consume(e.open(), topic, group, driver.SubscriberOptions{})
	const publishers, each, before = 4, 50, 10
	var confirmed sync.Map
	var wg, early sync.WaitGroup
	early.Add(publishers * before)
	goOn := make(chan struct{})
	for p := range publishers {
		wg.Go(func() {
			for i := range each {
				if i == before {
					<-goOn
				}
				m := msg(fmt.Sprintf("key-%d", p), fmt.Sprintf("%d %d", p, i))
				e.publishRetry(b, topic, m)
				confirmed.Store(string(m.Payload), true)
				if i < before {
					early.Done()
				}
			}
		})
	}
	defer wg.Wait()
	early.Wait()
	// A message stays unacked across the restart, its key's next one with it.
	seen := map[string]int{}
	held := c.next()
	seen[string(held.Payload)]++
	close(goOn)
	e.h.Restart(e.TB)
	held.Ack()
	for len(seen) < publishers*each {
		m := c.next()
		seen[string(m.Payload)]++
		m.Ack()
	}
	wg.Wait()
	confirmed.Range(func(payload, _ any) bool {
		if seen[payload.(string)] == 0 {
			e.Errorf("%q was confirmed and never delivered", payload)
		}
		return true
	})
	twice := 0
	for n := range maps.Values(seen) {
		twice += n - 1
	}
	e.Logf("%d messages, %d of them delivered again; state %+v", len(seen), twice, c.sub.State())
	c.connected(topic)
}
