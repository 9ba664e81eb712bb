package router_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/aura360/eventbus/bus"
	"github.com/aura360/eventbus/events"
	"github.com/aura360/eventbus/events/aura360"
	"github.com/aura360/eventbus/internal/brokertest"
	"github.com/aura360/eventbus/middleware"
	"github.com/aura360/eventbus/router"
)

func TestMain(m *testing.M) { brokertest.Main(m) }

func mood(user string, score int) aura360.MoodCreated {
	return aura360.MoodCreated{Base: events.Base{UserID: user}, Data: aura360.Mood{Score: float64(score)}}
}

// open returns a bus in memory that the test closes.
func open(t *testing.T, cfg ...bus.Config) *bus.Bus {
	t.Helper()
	c := bus.Config{Logger: slog.New(slog.DiscardHandler)}
	if len(cfg) > 0 {
		c = cfg[0]
		c.Logger = slog.New(slog.DiscardHandler)
	}
	c.Backend = bus.Memory
	b, err := bus.Open(context.Background(), c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := b.Close(); err != nil {
			t.Error(err)
		}
	})
	return b
}

// group returns a router of the bus.
func group(t *testing.T, b *bus.Bus, name string, cfg ...router.Config) *router.Router {
	t.Helper()
	r, err := router.New(b, name, cfg...)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// start runs the router until the returned function stops it and gives its error.
func start(t *testing.T, r *router.Router) (stop func() error) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- r.Run(ctx) }()
	<-r.Running()
	var once sync.Once
	var err error
	stop = func() error {
		once.Do(func() { cancel(); err = <-done })
		return err
	}
	t.Cleanup(func() { _ = stop() })
	return stop
}

func publish(t *testing.T, b *bus.Bus, evs ...events.Event) {
	t.Helper()
	if err := b.PublishAll(context.Background(), evs...); err != nil {
		t.Fatal(err)
	}
}

// within fails the test when c delivers nothing for too long.
func within[T any](t *testing.T, c <-chan T, what string) T {
	t.Helper()
	select {
	case v := <-c:
		return v
	case <-time.After(20 * time.Second):
		t.Fatalf("timed out waiting for %s", what)
		panic("unreachable")
	}
}

func TestHandlersOfOneGroupShareOneSubscriptionPerTopic(t *testing.T) {
	b := open(t)
	r := group(t, b, "g")
	got := make(chan string, 4)
	router.Handle(r, "moods", func(_ context.Context, e aura360.MoodCreated) error {
		got <- "mood of " + e.UserID
		return nil
	})
	router.Handle(r, "activities", func(_ context.Context, e *aura360.ActivityCreated) error {
		got <- "activity of " + e.UserID
		return nil
	})
	if want := []string{aura360.TopicUserEvents}; !slices.Equal(r.Topics(), want) {
		t.Errorf("topics %v, want %v", r.Topics(), want)
	}
	start(t, r)
	publish(t, b, mood("u1", 1),
		aura360.ActivityCreated{Base: events.Base{UserID: "u2"}, Data: aura360.Activity{ActivityType: "run"}},
		aura360.ProfileUpdated{Base: events.Base{UserID: "u3"}, Data: map[string]any{"a": 1}}, // nobody's: ignored
		mood("u4", 1))
	var all []string
	for range 3 {
		all = append(all, within(t, got, "three events"))
	}
	slices.Sort(all)
	if want := []string{"activity of u2", "mood of u1", "mood of u4"}; !slices.Equal(all, want) {
		t.Errorf("handled %q, want %q", all, want)
	}
}

func TestMistakesOfRegistrationAreReportedByRunAllAtOnce(t *testing.T) {
	type undefined struct{ events.Base }
	r := group(t, open(t), "g")
	nop := func(context.Context, aura360.MoodCreated) error { return nil }
	router.Handle(r, "a", nop)
	router.Handle(r, "b", nop)
	router.Handle(r, "a", func(context.Context, aura360.ActivityCreated) error { return nil })
	router.Handle(r, "", func(context.Context, aura360.ActivityCreated) error { return nil })
	router.Handle(r, "c", func(context.Context, undefined) error { return nil })
	router.Handle(r, "d", func(context.Context, aura360.IkigaiUpdated) error { return nil }, router.HandlerConfig{Timeout: -1})
	raw := func(context.Context, *message.Message) error { return nil }
	router.HandleRaw(r, "e", "t", raw)
	router.HandleRaw(r, "f", "t", raw)
	err := r.Run(context.Background())
	if err == nil {
		t.Fatal("no error")
	}
	for _, want := range []string{
		`handler "b": type user.mood.created is handled by "a" in group g already: handle it there, or use another group`,
		`handler "a": the name is taken in group g`,
		`handler "": want a name of 1 to 100 bytes`,
		`handler "c": event: unknown_type`,
		`handler "d": a timeout, concurrency, rate or pause is negative`,
		`handler "f": topic t has the raw handler "e" in group g already: use another group`,
	} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("the error lacks %q", want)
		}
	}
	if t.Failed() {
		t.Log(err)
	}
	if again := r.Run(context.Background()); again == nil || !strings.Contains(again.Error(), "has run already") {
		t.Errorf("second Run: %v", again)
	}
}

func TestNewRefusesWhatMakesNoSense(t *testing.T) {
	b := open(t)
	for want, f := range map[string]func() error{
		"group's name is empty": func() error { _, err := router.New(b, ""); return err },
		"MaxInFlight -1":        func() error { _, err := router.New(b, "g", router.Config{MaxInFlight: -1}); return err },
		"a timeout is negative": func() error { _, err := router.New(b, "g", router.Config{Timeout: -1}); return err },
		"Delays 1m,1m: want none, or up to 10 rising durations": func() error {
			_, err := router.New(b, "g", router.Config{Delays: middleware.Delays{time.Minute, time.Minute}})
			return err
		},
		"a duration of Retry is negative\nDelays -1ns": func() error { // all at once
			_, err := router.New(b, "g", router.Config{
				Retry: middleware.RetryPolicy{Initial: -1}, Delays: middleware.Delays{-1},
			})
			return err
		},
		"at most one Config": func() error { _, err := router.New(b, "g", router.Config{}, router.Config{}); return err },
		`without "validate": want`: func() error {
			_, err := router.New(b, "g", router.Config{Without: []middleware.Piece{"validate"}})
			return err
		},
		"no handlers": func() error { return group(t, b, "g").Run(context.Background()) },
		`consumer group="a b": want 1`: func() error {
			r := group(t, b, "a b")
			router.Handle(r, "h", func(context.Context, aura360.MoodCreated) error { return nil })
			return r.Run(context.Background())
		},
	} {
		if err := f(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %q", err, want)
		}
	}
}

func TestStopLetsRunningHandlersFinishWithALiveContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := open(t)
		r := group(t, b, "g")
		var handled atomic.Int32
		started := make(chan struct{})
		var ctxErr error
		router.Handle(r, "slow", func(ctx context.Context, _ aura360.MoodCreated) error {
			close(started)
			select {
			case <-ctx.Done():
				ctxErr = context.Cause(ctx)
			case <-time.After(10 * time.Second):
			}
			handled.Add(1)
			return ctx.Err()
		})
		stop := start(t, r)
		publish(t, b, mood("u1", 1))
		<-started
		if err := stop(); err != nil {
			t.Errorf("Run: %v", err)
		}
		if handled.Load() != 1 || ctxErr != nil {
			t.Errorf("handled %d, context ended with %v", handled.Load(), ctxErr)
		}
		// It was acked: nothing comes again.
		r2 := group(t, b, "g")
		router.Handle(r2, "slow", func(context.Context, aura360.MoodCreated) error { handled.Add(1); return nil })
		stop2 := start(t, r2)
		synctest.Wait()
		if err := stop2(); err != nil {
			t.Error(err)
		}
		if handled.Load() != 1 {
			t.Errorf("handled again after a graceful stop: %d", handled.Load())
		}
	})
}

func TestHandlerThatOutlastsTheDrainIsHandledAgainAndNotPoisoned(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := open(t)
		r := group(t, b, "g", router.Config{DrainTimeout: time.Second})
		started := make(chan struct{})
		var cause error
		router.Handle(r, "stuck", func(ctx context.Context, _ aura360.MoodCreated) error {
			close(started)
			<-ctx.Done()
			cause = context.Cause(ctx)
			return ctx.Err()
		})
		stop := start(t, r)
		publish(t, b, mood("u1", 1))
		<-started
		err := stop()
		if err == nil || !strings.Contains(err.Error(), "did not finish within the drain timeout") {
			t.Errorf("Run: %v", err)
		}
		if cause == nil || !strings.Contains(cause.Error(), "drain timeout") {
			t.Errorf("the handler's context ended with %v", cause)
		}
		again := make(chan string, 1)
		r2 := group(t, b, "g")
		router.Handle(r2, "stuck", func(_ context.Context, e aura360.MoodCreated) error { again <- e.UserID; return nil })
		start(t, r2)
		if got := <-again; got != "u1" {
			t.Errorf("handled again: %q", got)
		}
		poison := group(t, b, "watch")
		var poisoned atomic.Int32
		router.HandleRaw(poison, "count", b.PoisonTopic("g"), func(context.Context, *message.Message) error {
			poisoned.Add(1)
			return nil
		})
		start(t, poison)
		synctest.Wait()
		if poisoned.Load() != 0 {
			t.Error("shutdown poisoned a message")
		}
	})
}

// poisonOf collects what lands in a group's poison queue.
func poisonOf(t *testing.T, b *bus.Bus, of string) <-chan *message.Message {
	t.Helper()
	out := make(chan *message.Message, 100)
	r := group(t, b, "poison-watcher-"+of)
	router.HandleRaw(r, "collect", b.PoisonTopic(of), func(_ context.Context, m *message.Message) error {
		out <- m
		return nil
	})
	start(t, r)
	return out
}

func TestBadInputIsPoisonedWithItsReasonAndTheNextMessageIsHandled(t *testing.T) {
	b := open(t)
	r := group(t, b, "g", router.Config{
		Retry: middleware.RetryPolicy{Initial: time.Microsecond, MaxAttempts: 3}, Delays: middleware.NoDelays(),
	})
	handled := make(chan string, 10)
	router.Handle(r, "moods", func(_ context.Context, e aura360.MoodCreated) error {
		switch e.UserID {
		case "panics":
			panic("at the disco")
		case "permanent":
			return router.Permanent(errors.New("no such user"))
		case "fails":
			return errors.New("nope")
		}
		handled <- e.UserID
		return nil
	})
	poison := poisonOf(t, b, "g")
	start(t, r)

	good := func(user string) string {
		return fmt.Sprintf(`{"event_id":"%s-1","event_type":"user.mood.created","timestamp":"2025-01-07T12:34:56","user_id":%q,"data":{"mood_id":"m","mood_score":3,"created_at":"2025-01-07T12:34:56"}}`, user, user)
	}
	for name, c := range map[string]struct {
		payload string
		meta    message.Metadata
		reason  events.Reason
	}{
		"not JSON":         {"\x00\x01garbage", message.Metadata{"event_type": "user.mood.created"}, events.ReasonUndecodable},
		"no type":          {`{"a":1}`, nil, events.ReasonInvalid},
		"wrong JSON type":  {strings.Replace(good("x"), `"mood_score":3`, `"mood_score":"three"`, 1), nil, events.ReasonUndecodable},
		"invalid UTF-8":    {strings.Replace(good("x"), `"m"`, "\"\xff\xfe\"", 1), nil, events.ReasonUndecodable},
		"future version":   {strings.Replace(good("x"), `"user_id"`, `"event_version":9,"user_id"`, 1), nil, events.ReasonVersion},
		"missing field":    {`{"event_type":"user.mood.created","event_id":"1","timestamp":"2025-01-07T12:34:56"}`, nil, events.ReasonInvalid},
		"nested brackets":  {strings.Replace(good("x"), `"m"`, strings.Repeat("[", 10_000)+strings.Repeat("]", 10_000), 1), nil, events.ReasonUndecodable},
		"not a message":    {"raw", message.Metadata{events.HeaderMalformed: "no UUID field"}, events.ReasonMalformed},
		"empty":            {"", message.Metadata{"event_type": "user.mood.created"}, events.ReasonUndecodable},
		"a huge body":      {strings.Replace(good("x"), `"m"`, `["`+strings.Repeat("x", 20<<20)+`"]`, 1), nil, events.ReasonUndecodable},
		"panicking":        {good("panics"), nil, events.ReasonPanic},
		"permanent error":  {good("permanent"), nil, events.ReasonPermanent},
		"failing for ever": {good("fails"), nil, events.ReasonExhausted},
	} {
		t.Run(name, func(t *testing.T) {
			msg := message.NewMessage("", message.Payload(c.payload))
			for k, v := range c.meta {
				msg.Metadata[k] = v
			}
			// Below the publish chain, as a foreign producer does it.
			if err := b.Parts().Backend.Publish(context.Background(), aura360.TopicUserEvents, msg); err != nil {
				t.Fatal(err)
			}
			p := within(t, poison, "the poison queue")
			if got := events.Reason(p.Metadata[events.HeaderPoisonReason]); got != c.reason {
				t.Errorf("reason %q (%s), want %q", got, p.Metadata[events.HeaderPoisonError], c.reason)
			}
			if string(p.Payload) != c.payload {
				t.Errorf("the body was changed: %d bytes, want %d", len(p.Payload), len(c.payload))
			}
			for _, field := range []string{
				events.HeaderPoisonError, events.HeaderPoisonGroup, events.HeaderPoisonTopic, events.HeaderPoisonAttempts,
				events.HeaderPoisonFirst, events.HeaderPoisonLast, events.HeaderPoisonBackend, events.HeaderPoisonHost,
			} {
				if p.Metadata[field] == "" {
					t.Errorf("%s is empty", field)
				}
			}
			user := "after " + name
			publish(t, b, mood(user, 1))
			if got := within(t, handled, "the next message"); got != user {
				t.Errorf("handled %q, want %q", got, user)
			}
		})
	}
}

func TestLogNamesTheGroupOnce(t *testing.T) {
	var log strings.Builder
	b, err := bus.Open(t.Context(), bus.Config{Backend: bus.Memory, Logger: slog.New(slog.NewTextHandler(&log, nil))})
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	r := group(t, b, "g")
	router.Handle(r, "h", func(context.Context, aura360.MoodCreated) error { return nil })
	if err := r.Deliver("aura360.user.events", message.NewMessage("1", []byte("{"))); err != nil {
		t.Fatal(err)
	}
	if n := strings.Count(log.String(), "group=g"); n != 1 || !strings.Contains(log.String(), "message poisoned") {
		t.Errorf("the group stands there %d times: %s", n, log.String())
	}
}

func TestDuplicatesReachTheHandlerOnce(t *testing.T) {
	b := open(t)
	r := group(t, b, "g")
	got := make(chan string, 10)
	router.Handle(r, "moods", func(_ context.Context, e aura360.MoodCreated) error { got <- e.ID; return nil })
	start(t, r)
	e := mood("u1", 1)
	e.ID, e.Timestamp = "the-id", time.Date(2025, 1, 7, 0, 0, 0, 0, time.UTC)
	publish(t, b, e, e, e, mood("u1", 2)) // the same key, so the last comes last
	if first := within(t, got, "the first"); first != "the-id" {
		t.Errorf("first handled %q", first)
	}
	if second := within(t, got, "the last"); second == "the-id" {
		t.Error("a duplicate reached the handler")
	}
}

func TestRedrivenMessageReachesOnlyItsGroup(t *testing.T) {
	b := open(t)
	got := make(chan string, 10)
	for _, name := range []string{"one", "two"} {
		r := group(t, b, name)
		router.Handle(r, "moods", func(_ context.Context, e aura360.MoodCreated) error {
			got <- name + " " + e.UserID
			return nil
		})
		start(t, r)
	}
	enc, err := events.Encode(mood("redriven", 1), events.Base{})
	if err != nil {
		t.Fatal(err)
	}
	msg := message.NewMessage(enc.Base.ID, enc.Body)
	msg.Metadata[events.HeaderKey] = "k"
	msg.Metadata[events.HeaderTargetGroup] = "two"
	last, err := events.Encode(mood("last", 1), events.Base{})
	if err != nil {
		t.Fatal(err)
	}
	end := message.NewMessage(last.Base.ID, last.Body)
	end.Metadata[events.HeaderKey] = "k"
	if err := b.Publisher().Publish(aura360.TopicUserEvents, msg, end); err != nil {
		t.Fatal(err)
	}
	var all []string
	for range 3 {
		all = append(all, within(t, got, "three deliveries"))
	}
	slices.Sort(all)
	if want := []string{"one last", "two last", "two redriven"}; !slices.Equal(all, want) {
		t.Errorf("delivered %q, want %q", all, want)
	}
}

func TestTombstoneGoesToTheRawHandlerOrIsAcked(t *testing.T) {
	b := open(t)
	typed, raw := group(t, b, "typed"), group(t, b, "raw")
	got := make(chan string, 10)
	router.Handle(typed, "moods", func(_ context.Context, e aura360.MoodCreated) error { got <- "typed " + e.UserID; return nil })
	router.HandleRaw(raw, "all", aura360.TopicUserEvents, func(_ context.Context, m *message.Message) error {
		got <- fmt.Sprintf("raw %v", m.Payload == nil)
		return nil
	})
	start(t, typed)
	start(t, raw)
	grave := message.NewMessage("", nil)
	grave.Metadata[events.HeaderKey] = "u1"
	if err := b.Parts().Backend.Publish(context.Background(), aura360.TopicUserEvents, grave); err != nil {
		t.Fatal(err)
	}
	publish(t, b, mood("u1", 1))
	var all []string
	for range 3 {
		all = append(all, within(t, got, "three deliveries"))
	}
	slices.Sort(all)
	if want := []string{"raw false", "raw true", "typed u1"}; !slices.Equal(all, want) {
		t.Errorf("delivered %q, want %q", all, want)
	}
}

func TestOuterSeesEachMessageOnceAndInnerEachTry(t *testing.T) {
	b := open(t)
	var outer, inner, own atomic.Int32
	count := func(n *atomic.Int32) message.HandlerMiddleware {
		return func(next message.HandlerFunc) message.HandlerFunc {
			return func(m *message.Message) ([]*message.Message, error) { n.Add(1); return next(m) }
		}
	}
	r := group(t, b, "g", router.Config{
		Retry: middleware.RetryPolicy{Initial: time.Microsecond},
		Outer: []message.HandlerMiddleware{count(&outer)}, Inner: []message.HandlerMiddleware{count(&inner)},
	})
	done := make(chan struct{})
	router.Handle(r, "third", func(ctx context.Context, _ aura360.MoodCreated) error {
		if middleware.DeliveryFrom(ctx).Attempt < 3 {
			return errors.New("again")
		}
		close(done)
		return nil
	}, router.HandlerConfig{
		Inner: []message.HandlerMiddleware{count(&own)}, Timeout: time.Minute, Concurrency: 2, PerSecond: 1e6,
		Burst: 100, Breaker: &middleware.BreakerConfig{Failures: 100},
	})
	start(t, r)
	publish(t, b, mood("u1", 1))
	within(t, done, "the third try")
	if outer.Load() != 1 || inner.Load() != 3 || own.Load() != 3 {
		t.Errorf("outer %d, inner %d, own %d, want 1, 3, 3", outer.Load(), inner.Load(), own.Load())
	}
}

func TestPublishInAHandlerUsesItsBus(t *testing.T) {
	b := open(t)
	r := group(t, b, "g")
	router.Handle(r, "aggregate", func(ctx context.Context, e aura360.MoodCreated) error {
		return bus.Publish(ctx, aura360.ProfileUpdated{Base: events.Base{UserID: e.UserID}, Data: map[string]any{"seen": true}})
	})
	got := make(chan string, 1)
	router.Handle(r, "profile", func(_ context.Context, e aura360.ProfileUpdated) error { got <- e.UserID; return nil })
	start(t, r)
	publish(t, b, mood("u7", 1))
	if user := within(t, got, "the event of the handler"); user != "u7" {
		t.Errorf("user %q", user)
	}
}

func TestPublishingAgainAfterALostAnswerIsHandledOnce(t *testing.T) {
	b := open(t)
	r := group(t, b, "g")
	got := make(chan string, 10)
	router.Handle(r, "moods", func(_ context.Context, e aura360.MoodCreated) error { got <- e.ID; return nil })
	start(t, r)
	e := mood("u1", 1)
	e.ID = events.NewID() // as the error of the first publish names it
	publish(t, b, e)
	publish(t, b, e)
	publish(t, b, mood("u1", 2))
	if first, second := within(t, got, "the first"), within(t, got, "the last"); first != e.ID || second == e.ID {
		t.Errorf("handled %q and %q", first, second)
	}
}

func TestDeliverReportsMistakesOfRegistrationEachTime(t *testing.T) {
	r := group(t, open(t), "g")
	nop := func(context.Context, aura360.MoodCreated) error { return nil }
	router.Handle(r, "a", nop)
	router.Handle(r, "b", nop)
	for range 2 {
		err := r.Deliver(aura360.TopicUserEvents, message.NewMessage("", nil))
		if err == nil || !strings.Contains(err.Error(), `handler "b": type user.mood.created is handled by "a"`) {
			t.Errorf("Deliver: %v", err)
		}
	}
}
