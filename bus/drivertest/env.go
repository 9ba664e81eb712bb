package drivertest

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/google/uuid"

	"github.com/aura360/eventbus/bus/driver"
	"github.com/aura360/eventbus/events"
)

// env is what a case works with. Its methods fail the case.
type env struct {
	testing.TB
	h    Harness
	caps driver.Capabilities
}

func newEnv(t testing.TB, h Harness, caps driver.Capabilities) *env {
	return &env{TB: t, h: h, caps: caps}
}

// ctx bounds one operation.
func (e *env) ctx() context.Context {
	ctx, cancel := context.WithTimeoutCause(context.Background(), e.h.Wait,
		fmt.Errorf("drivertest: took longer than %v", e.h.Wait))
	e.Cleanup(cancel)
	return ctx
}

// open returns a backend that is closed at the end of the case.
func (e *env) open() driver.Backend {
	e.Helper()
	b := e.h.Open(e.TB)
	e.Cleanup(func() { closeBackend(e.TB, b) })
	return b
}

func closeBackend(t testing.TB, b driver.Backend) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 15*time.Second)
	defer cancel()
	if err := b.Close(ctx); err != nil {
		t.Errorf("Backend.Close: %v", err)
	}
}

func (e *env) topic() string { return uniqueName("topic") }
func (e *env) group() string { return uniqueName("group") }

// msg makes a message; the key may be "".
func msg(key, payload string) *message.Message {
	m := message.NewMessage(uuid.NewString(), []byte(payload))
	if key != "" {
		m.Metadata[events.HeaderKey] = key
	}
	return m
}

// series makes n messages "<key> 0", "<key> 1", ...
func series(key string, n int) []*message.Message {
	msgs := make([]*message.Message, n)
	for i := range msgs {
		msgs[i] = msg(key, fmt.Sprintf("%s %d", key, i))
	}
	return msgs
}

func payloads(msgs []*message.Message) []string {
	out := make([]string, len(msgs))
	for i, m := range msgs {
		out[i] = string(m.Payload)
	}
	return out
}

// publish publishes and requires that all is confirmed.
func (e *env) publish(b driver.Backend, topic string, msgs ...*message.Message) {
	e.Helper()
	if err := b.Publish(e.ctx(), topic, msgs...); err != nil {
		e.Fatalf("Publish of %d messages: %v", len(msgs), err)
	}
}

// results returns the outcomes of a Publish that must fail with a *PublishError.
func (e *env) results(err error, n int) []driver.Result {
	e.Helper()
	var pe *driver.PublishError
	if !errors.As(err, &pe) {
		e.Fatalf("Publish: error %v, want a *driver.PublishError", err)
	}
	if len(pe.Results) != n {
		e.Fatalf("Publish: %d results, want one for each of %d messages: %v", len(pe.Results), n, err)
	}
	for i, r := range pe.Results {
		if (r.Err == nil) != (r.Outcome == driver.Confirmed) {
			e.Errorf("result %d is %v with error %v", i, r.Outcome, r.Err)
		}
	}
	return pe.Results
}

// consumer is one subscription.
type consumer struct {
	*env
	sub    driver.Subscriber
	ch     <-chan *message.Message
	cancel context.CancelFunc
	seen   []string // payloads, for failures
}

// consume subscribes. The subscriber is closed at the end of the case.
func (e *env) consume(b driver.Backend, topic, group string, opts driver.SubscriberOptions) *consumer {
	e.Helper()
	return e.consumeCtx(context.Background(), b, topic, group, opts)
}

func (e *env) consumeCtx(ctx context.Context, b driver.Backend, topic, group string, opts driver.SubscriberOptions) *consumer {
	e.Helper()
	sub, err := b.Subscriber(group, opts)
	if err != nil {
		e.Fatalf("Subscriber(%q): %v", group, err)
	}
	e.Cleanup(func() {
		if err := sub.Close(); err != nil {
			e.Errorf("Subscriber.Close: %v", err)
		}
	})
	ctx, cancel := context.WithCancel(ctx)
	e.Cleanup(cancel)
	ch, err := sub.Subscribe(ctx, topic)
	if err != nil {
		e.Fatalf("Subscribe(%q): %v", topic, err)
	}
	return &consumer{env: e, sub: sub, ch: ch, cancel: cancel}
}

// close closes the subscriber now.
func (c *consumer) close() {
	c.Helper()
	if err := c.sub.Close(); err != nil {
		c.Errorf("Subscriber.Close: %v", err)
	}
}

// next returns the next message, unacked.
func (c *consumer) next() *message.Message {
	c.Helper()
	select {
	case m, ok := <-c.ch:
		if !ok {
			c.Fatalf("the channel was closed; seen before: %q", c.seen)
		}
		c.seen = append(c.seen, short(m.Payload))
		return m
	case <-time.After(c.h.Wait):
		c.Fatalf("no message within %v; seen before: %q; state: %+v", c.h.Wait, c.seen, c.sub.State())
	}
	return nil
}

// short is for failures, which must stay readable.
func short(payload []byte) string {
	if len(payload) > 40 {
		return fmt.Sprintf("%s... (%d bytes)", payload[:40], len(payload))
	}
	return string(payload)
}

// take receives and acks the next messages and returns their payloads.
func (c *consumer) take(n int) []string {
	c.Helper()
	var got []string
	for range n {
		m := c.next()
		got = append(got, string(m.Payload))
		m.Ack()
	}
	return got
}

// want receives and acks exactly these payloads, in this order.
func (c *consumer) want(payloads ...string) {
	c.Helper()
	for i, want := range payloads {
		m := c.next()
		if got := string(m.Payload); got != want {
			c.Fatalf("message %d is %q, want %q; seen: %q", i, short(m.Payload), want, c.seen)
		}
		m.Ack()
	}
}

// wantSet receives and acks these payloads, each once, in any order.
func (c *consumer) wantSet(payloads ...string) {
	c.Helper()
	got := slices.Sorted(slices.Values(c.take(len(payloads))))
	want := slices.Sorted(slices.Values(payloads))
	if !slices.Equal(got, want) {
		c.Fatalf("received %q, want %q", got, want)
	}
}

// nothing requires that no message comes for a little while.
func (c *consumer) nothing(why string) {
	c.Helper()
	select {
	case m, ok := <-c.ch:
		if !ok {
			c.Fatalf("%s: the channel was closed", why)
		}
		c.Fatalf("%s: received %q; seen before: %q", why, short(m.Payload), c.seen)
	case <-time.After(c.h.Quiet):
	}
}

// closed requires that the channel gets closed. Messages that come out of it
// before, and would be lost if nobody looked, are returned.
func (c *consumer) closed() (rest []*message.Message) {
	c.Helper()
	deadline := time.After(c.h.Wait)
	for {
		select {
		case m, ok := <-c.ch:
			if !ok {
				return rest
			}
			rest = append(rest, m)
		case <-deadline:
			c.Fatalf("the channel was not closed within %v; seen: %q", c.h.Wait, c.seen)
		}
	}
}

// within requires that done is closed.
func (e *env) within(what string, done <-chan struct{}) {
	e.Helper()
	select {
	case <-done:
	case <-time.After(e.h.Wait):
		e.Fatalf("%s: not within %v", what, e.h.Wait)
	}
}

// eventually requires that ok becomes true. It asks from time to time, for
// things that have no event to wait for.
func (e *env) eventually(what string, ok func() (bool, string)) {
	e.Helper()
	deadline := time.After(e.h.Wait)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		good, saw := ok()
		if good {
			return
		}
		select {
		case <-tick.C:
		case <-deadline:
			e.Fatalf("%s: not within %v: %s", what, e.h.Wait, saw)
		}
	}
}

// connected waits until the consumer reads from the broker.
func (c *consumer) connected(topic string) {
	c.Helper()
	c.eventually("the subscription is connected", func() (bool, string) {
		s := c.sub.State()
		return s[topic].Connected, fmt.Sprintf("%+v", s)
	})
}

// untouched fails if a backend has changed a message that it was given.
func (e *env) untouched(before, after *message.Message) {
	e.Helper()
	if before.UUID != after.UUID || string(before.Payload) != string(after.Payload) || !maps.Equal(before.Metadata, after.Metadata) {
		e.Errorf("the message was changed:\n have %s\n want %s", describe(after), describe(before))
	}
}

func describe(m *message.Message) string {
	var s strings.Builder
	fmt.Fprintf(&s, "UUID %q, %d bytes %q, metadata", m.UUID, len(m.Payload), short(m.Payload))
	for _, k := range slices.Sorted(maps.Keys(m.Metadata)) {
		fmt.Fprintf(&s, " %s=%q", k, m.Metadata[k])
	}
	return s.String()
}
