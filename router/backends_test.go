package router_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/aura360/eventbus/bus"
	"github.com/aura360/eventbus/events"
	"github.com/aura360/eventbus/events/aura360"
	"github.com/aura360/eventbus/internal/brokertest"
	"github.com/aura360/eventbus/middleware"
	"github.com/aura360/eventbus/router"
)

// noted is an event of these tests, on a topic that no other test reads.
type noted struct {
	events.Base
	Number int    `json:"number"`
	Mode   string `json:"mode"`
	Run    string `json:"run"` // the topic holds other runs' events too
}

var notedTopic = fmt.Sprintf("eventbus.test.noted.%d", time.Now().UnixNano())

var _ = events.Define[noted]("test.noted", events.Topic(notedTopic))

// onEveryBackend runs f with the configuration of each backend that this
// machine has: memory, embedded and real ones, in both builds.
func onEveryBackend(t *testing.T, f func(t *testing.T, cfg bus.Config)) {
	t.Run("memory", func(t *testing.T) { f(t, bus.Config{Backend: bus.Memory}) })
	for _, adapter := range []string{bus.Native, bus.Watermill} {
		for _, r := range brokertest.Redises(t) {
			t.Run(adapter+" "+r.Name, func(t *testing.T) {
				f(t, bus.Config{Backend: bus.Redis, Adapter: adapter, Redis: bus.RedisConfig{URL: bus.Secret(r.URL)}})
			})
		}
		for _, k := range brokertest.Kafkas(t) {
			t.Run(adapter+" "+k.Name, func(t *testing.T) {
				f(t, bus.Config{Backend: bus.Kafka, Adapter: adapter, Kafka: bus.KafkaConfig{BootstrapServers: k.Addr}})
			})
		}
	}
}

// account counts what was handled, by event id.
type account struct {
	run     string
	mu      sync.Mutex
	handled map[string]int
	last    map[string]int // highest number by user
	order   []string       // what came out of order
	left    int
	done    chan struct{}
}

func (a *account) add(e noted) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.handled[e.ID]++
	if e.Number <= a.last[e.UserID] {
		a.order = append(a.order, fmt.Sprintf("%s: %d after %d", e.UserID, e.Number, a.last[e.UserID]))
	}
	a.last[e.UserID] = e.Number
	if a.left--; a.left == 0 {
		close(a.done)
	}
}

// The whole way of an event on every backend: what is published is handled once
// and in order by each group, copies are dropped, what cannot be handled is in
// the poison queue, and a stop in the middle repeats nothing.
func TestEveryBackendKeepsThePromises(t *testing.T) {
	const users, each = 10, 30
	onEveryBackend(t, func(t *testing.T, cfg bus.Config) {
		cfg.Logger = slog.New(slog.DiscardHandler)
		cfg.Namespace = brokertest.Name(t, "ns")
		cfg.RetryInitialInterval = time.Millisecond
		b, err := bus.Open(t.Context(), cfg)
		if err != nil {
			t.Fatal(err)
		}
		defer func() {
			if err := b.Close(); err != nil {
				t.Error(err)
			}
		}()
		name := brokertest.Name(t, "group")
		a := &account{run: name, handled: map[string]int{}, last: map[string]int{}, left: users * each, done: make(chan struct{})}
		stop := serve(t, b, name, a)

		accepted := map[string]bool{}
		for n := 1; n <= each; n++ {
			batch := make([]events.Event, 0, users+2)
			for u := range users {
				e := noted{Base: events.Base{ID: events.NewID(), UserID: fmt.Sprintf("u%d", u)}, Number: n, Run: name}
				accepted[e.ID] = true
				batch = append(batch, e)
			}
			batch = append(batch, batch[0]) // a copy, as after a lost answer
			if n == each/3 {
				batch = append(batch, noted{Base: events.Base{UserID: "u0"}, Mode: "fail", Run: name})
			}
			if err := b.PublishAll(t.Context(), batch...); err != nil {
				t.Fatal(err)
			}
			if n == each/2 { // a deploy in the middle
				if err := stop(); err != nil {
					t.Fatal(err)
				}
				stop = serve(t, b, name, a)
			}
		}
		select {
		case <-a.done:
		case <-time.After(2 * time.Minute):
			t.Error("timed out waiting for the last event")
		}
		poisoned := within(t, poisonOf(t, b, name), "the poison queue")
		if got := events.Reason(poisoned.Metadata[events.HeaderPoisonReason]); got != events.ReasonExhausted {
			t.Errorf("poisoned for %q, want exhausted", got)
		}
		if n := poisoned.Metadata[events.HeaderPoisonAttempts]; n != "6" { // three at once, three after the delay
			t.Errorf("poisoned after %s tries, want 6", n)
		}
		if err := stop(); err != nil {
			t.Error(err)
		}
		a.mu.Lock()
		defer a.mu.Unlock()
		for id := range accepted {
			if a.handled[id] != 1 {
				t.Errorf("event %s was handled %d times", id, a.handled[id])
			}
		}
		if len(a.handled) != len(accepted) || len(a.order) > 0 {
			t.Errorf("%d accepted, %d handled, out of order: %v", len(accepted), len(a.handled), a.order)
		}
	})
}

// serve handles noted events in a group until stopped.
func serve(t *testing.T, b *bus.Bus, name string, a *account) (stop func() error) {
	t.Helper()
	r := group(t, b, name, router.Config{
		Retry: middleware.RetryPolicy{MaxAttempts: 3, Initial: time.Millisecond}, Delays: middleware.Delays{50 * time.Millisecond},
	})
	router.Handle(r, "note", func(_ context.Context, e noted) error {
		if e.Run != a.run {
			return nil
		}
		if e.Mode == "fail" {
			return errors.New("always")
		}
		a.add(e)
		return nil
	})
	return start(t, r)
}

func TestForeignMessagesAreReadOnEveryBackend(t *testing.T) {
	onEveryBackend(t, func(t *testing.T, cfg bus.Config) {
		cfg.Logger = slog.New(slog.DiscardHandler)
		cfg.Namespace = brokertest.Name(t, "ns")
		b, err := bus.Open(t.Context(), cfg)
		if err != nil {
			t.Fatal(err)
		}
		defer b.Close()
		got := make(chan aura360.MoodCreated, 1)
		id := events.NewID()
		r := group(t, b, brokertest.Name(t, "group"))
		router.Handle(r, "moods", func(_ context.Context, e aura360.MoodCreated) error {
			if e.ID == id {
				got <- e
			}
			return nil
		})
		start(t, r)
		// As a Python producer writes it: no metadata of ours, a naive time.
		body := fmt.Sprintf(`{"event_id": %q, "event_type": "user.mood.created", "timestamp": "2025-01-07T12:34:56.123456",`+
			` "trace_id": null, "user_id": "u1", "metadata": {}, "data": {"mood_id": "m1", "mood_score": 7,`+
			` "tags": [], "notes": "", "created_at": "2025-01-07T12:34:56", "extra": {"kept": true}}}`, id)
		if err := b.Parts().Backend.Publish(t.Context(), aura360.TopicUserEvents, message.NewMessage("", []byte(body))); err != nil {
			t.Fatal(err)
		}
		e := within(t, got, "the event")
		want := time.Date(2025, 1, 7, 12, 34, 56, 123456000, time.UTC)
		if !e.Timestamp.Equal(want) || e.Data.Score != 7 || string(e.Data.Extra["extra"]) != `{"kept": true}` {
			t.Errorf("read %+v", e)
		}
	})
}

// What waits for a delayed retry holds up nothing, and outlives its router.
func TestParkedMessagesOnEveryBackend(t *testing.T) {
	const delay = 500 * time.Millisecond
	onEveryBackend(t, func(t *testing.T, cfg bus.Config) {
		b, name := openForDelays(t, cfg)
		tried, handled := make(chan noted, 100), make(chan noted, 100)
		var ready atomic.Bool
		serve := func() func() error {
			r := group(t, b, name, router.Config{Retry: middleware.RetryPolicy{MaxAttempts: 1}, Delays: middleware.Delays{delay, time.Minute}})
			router.Handle(r, "note", func(_ context.Context, e noted) error {
				if e.Run != name {
					return nil
				}
				tried <- e
				if e.Mode == "fail" && !ready.Load() {
					return errors.New("not yet")
				}
				handled <- e
				return nil
			})
			return start(t, r)
		}
		stop := serve()
		event := func(user string, number int, mode string) noted {
			return noted{Base: events.Base{UserID: user}, Number: number, Mode: mode, Run: name}
		}
		publish(t, b, event("u0", 1, "fail"))
		within(t, tried, "the first try")
		failed := time.Now()
		publish(t, b, event("u0", 2, ""), event("u1", 1, ""), event("u2", 1, ""))
		for range 3 { // the same key and others
			if e := within(t, handled, "an event published after the parked one"); e.Mode == "fail" {
				t.Error("handled before its delay")
			}
		}
		if err := stop(); err != nil {
			t.Fatal(err)
		}
		ready.Store(true)
		stop = serve()
		e := within(t, handled, "the parked event in the next router")
		if e.Mode != "fail" || e.Number != 1 || e.UserID != "u0" {
			t.Errorf("handled %+v", e)
		}
		if waited := time.Since(failed); waited < delay-10*time.Millisecond {
			t.Errorf("tried again after %v, want %v or more", waited, delay)
		}
		if err := stop(); err != nil {
			t.Error(err)
		}
		if len(handled) > 0 {
			t.Errorf("handled again: %+v", <-handled)
		}
	})
}

// An ordered handler sees the events of a key in their order, whatever fails.
func TestOrderedRetriesOnEveryBackend(t *testing.T) {
	onEveryBackend(t, func(t *testing.T, cfg bus.Config) {
		b, name := openForDelays(t, cfg)
		handled := make(chan noted, 100)
		var mu sync.Mutex
		failures := map[string]int{}
		r := group(t, b, name, router.Config{Retry: middleware.RetryPolicy{MaxAttempts: 1}})
		router.Handle(r, "note", func(_ context.Context, e noted) error {
			if e.Run != name {
				return nil
			}
			mu.Lock()
			defer mu.Unlock()
			if failures[e.ID]++; e.Mode == "fail" && failures[e.ID] < 3 {
				return errors.New("not yet")
			}
			handled <- e
			return nil
		}, router.HandlerConfig{Ordered: true, Delays: middleware.Delays{50 * time.Millisecond, 300 * time.Millisecond}})
		stop := start(t, r)
		const users, each = 3, 4
		for n := 1; n <= each; n++ {
			for u := range users {
				e := noted{Base: events.Base{UserID: fmt.Sprintf("u%d", u)}, Number: n, Run: name}
				if (n+u)%3 == 0 {
					e.Mode = "fail"
				}
				publish(t, b, e)
			}
		}
		last := map[string]int{}
		for range users * each {
			e := within(t, handled, "every event")
			if e.Number != last[e.UserID]+1 {
				t.Errorf("%s: %d after %d", e.UserID, e.Number, last[e.UserID])
			}
			last[e.UserID] = e.Number
		}
		if err := stop(); err != nil {
			t.Error(err)
		}
	})
}

// A tombstone that fails waits, and is poisoned, as one: on Redis, which knows
// none, as an empty message.
func TestTombstoneWaitsOnEveryBackend(t *testing.T) {
	onEveryBackend(t, func(t *testing.T, cfg bus.Config) {
		b, name := openForDelays(t, cfg)
		tried := make(chan bool, 10)
		topic := "eventbus.test.graves." + name
		r := group(t, b, name, router.Config{Retry: middleware.RetryPolicy{MaxAttempts: 1}, Delays: middleware.Delays{50 * time.Millisecond}})
		router.HandleRaw(r, "graves", topic, func(_ context.Context, m *message.Message) error {
			tried <- m.Payload == nil
			return errors.New("no luck")
		})
		poison := poisonOf(t, b, name)
		start(t, r)
		grave := message.NewMessage(events.NewID(), nil)
		grave.Metadata[events.HeaderKey] = "u1"
		if err := b.Parts().Backend.Publish(t.Context(), topic, grave); err != nil {
			t.Fatal(err)
		}
		first := within(t, tried, "the first try")
		if again := within(t, tried, "the second try"); again != first || !first && cfg.Backend != bus.Redis {
			t.Errorf("a tombstone at the first try: %v, at the second: %v", first, again)
		}
		p := within(t, poison, "the poison queue")
		if len(p.Payload) > 0 || p.Metadata[events.HeaderPoisonAttempts] != "2" || p.Metadata[events.HeaderPoisonTopic] != topic {
			t.Errorf("poisoned %d bytes with %v", len(p.Payload), p.Metadata)
		}
	})
}

// openForDelays returns a bus and the name of the test's group and run.
func openForDelays(t *testing.T, cfg bus.Config) (b *bus.Bus, name string) {
	t.Helper()
	cfg.Logger = slog.New(slog.DiscardHandler)
	cfg.Namespace = brokertest.Name(t, "ns")
	b, err := bus.Open(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := b.Close(); err != nil {
			t.Error(err)
		}
	})
	return b, brokertest.Name(t, "group")
}
