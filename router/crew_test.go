package router_test

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"

	"github.com/ThreeDotsLabs/watermill"
	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/ThreeDotsLabs/watermill/pubsub/gochannel"

	"github.com/aura360/eventbus/events"
	"github.com/aura360/eventbus/events/aura360"
	"github.com/aura360/eventbus/middleware"
	"github.com/aura360/eventbus/router"
)

func TestBlockedHandlersKeepNoDeliveredMessageWaiting(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const most = 300 // more than stay when there is nothing to do
		b := open(t)
		r := group(t, b, "g", router.Config{MaxInFlight: most})
		var running atomic.Int32
		release := make(chan struct{})
		router.Handle(r, "blocks", func(context.Context, aura360.MoodCreated) error {
			running.Add(1)
			<-release
			return nil
		})
		stop := start(t, r)
		for round := range 3 { // with new workers, and with those that stayed
			running.Store(0)
			for i := range most + 10 {
				publish(t, b, mood(fmt.Sprintf("u%d", i), 1))
			}
			synctest.Wait()
			if n := running.Load(); n != most {
				t.Fatalf("round %d: %d handlers run at once, want %d", round, n, most)
			}
			for range most + 10 {
				release <- struct{}{}
			}
			synctest.Wait()
			if n := running.Load(); n != most+10 {
				t.Fatalf("round %d: %d were handled, want %d", round, n, most+10)
			}
			if n := runtime.NumGoroutine(); n > most/2 {
				t.Errorf("round %d: %d goroutines are left when all is done", round, n)
			}
		}
		if err := stop(); err != nil {
			t.Error(err)
		}
	})
}

func TestMiddlewareOfWatermillsRouterStandsAroundEverything(t *testing.T) {
	b := open(t)
	r := group(t, b, "g")
	got := make(chan string, 10)
	router.Handle(r, "moods", func(_ context.Context, e aura360.MoodCreated) error {
		got <- "handled " + e.UserID
		return nil
	})
	r.Watermill().AddMiddleware(func(next message.HandlerFunc) message.HandlerFunc {
		return func(msg *message.Message) ([]*message.Message, error) {
			ctx := msg.Context()
			got <- fmt.Sprintf("seen %s of %s, %t", message.HandlerNameFromCtx(ctx), message.SubscribeTopicFromCtx(ctx),
				middleware.DeliveryFrom(ctx) == nil)
			return next(msg)
		}
	})
	own := gochannel.NewGoChannel(gochannel.Config{Persistent: true}, watermill.NopLogger{})
	defer own.Close()
	r.Watermill().AddConsumerHandler("own", "elsewhere", own, func(*message.Message) error {
		got <- "handled elsewhere"
		return nil
	})
	start(t, r)
	publish(t, b, mood("u1", 1))
	for _, want := range []string{"seen g/aura360.user.events of aura360.user.events, true", "handled u1"} {
		if s := within(t, got, want); s != want {
			t.Errorf("%q, want %q", s, want)
		}
	}
	if err := own.Publish("elsewhere", message.NewMessage("1", nil)); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"seen own of elsewhere, true", "handled elsewhere"} {
		if s := within(t, got, want); s != want {
			t.Errorf("%q, want %q", s, want)
		}
	}
}

// Whatever middleware of the user's does to a message, the driver is told of it:
// the place in flight is free again, and with it the key.
func TestMiddlewareOfWatermillsRouterDecidesAboutAMessage(t *testing.T) {
	const of = "of the middleware"
	b := open(t)
	r := group(t, b, "g", router.Config{MaxInFlight: 1})
	got := make(chan string, 10)
	router.Handle(r, "moods", func(_ context.Context, e aura360.MoodCreated) error {
		got <- e.TraceID
		return nil
	})
	seen := map[string]int{} // one message at a time
	r.Watermill().AddMiddleware(func(next message.HandlerFunc) message.HandlerFunc {
		return func(msg *message.Message) ([]*message.Message, error) {
			what := msg.Metadata[events.HeaderTraceID]
			switch seen[what]++; {
			case what == "dropped":
				return nil, nil
			case what == "failed" && seen[what] < 3:
				return nil, errors.New(of)
			case what == "panicked" && seen[what] < 3:
				panic(of)
			case what == "answered":
				_, err := next(msg)
				return []*message.Message{message.NewMessage("", nil)}, err
			}
			return next(msg)
		}
	})
	start(t, r)
	for _, what := range []string{"dropped", "failed", "panicked", "answered", "last"} {
		e := mood("u1", 1)
		e.TraceID = what
		publish(t, b, e)
	}
	for _, want := range []string{"failed", "panicked", "answered", "last"} {
		if s := within(t, got, want); s != want {
			t.Errorf("handled %q, want %q", s, want)
		}
	}
}

func TestInnerMiddlewareThatReturnsMessagesKeepsNothingInFlight(t *testing.T) {
	b := open(t)
	r := group(t, b, "g", router.Config{MaxInFlight: 1, Inner: []message.HandlerMiddleware{
		func(next message.HandlerFunc) message.HandlerFunc {
			return func(msg *message.Message) ([]*message.Message, error) {
				_, err := next(msg)
				return []*message.Message{message.NewMessage("", nil)}, err
			}
		},
	}})
	got := make(chan string, 10)
	router.Handle(r, "moods", func(_ context.Context, e aura360.MoodCreated) error { got <- e.UserID; return nil })
	start(t, r)
	publish(t, b, mood("u1", 1), mood("u2", 1), mood("u3", 1))
	for range 3 {
		within(t, got, "three events")
	}
}

func TestHandlerThatEndsItsGoroutineTakesNoWorkerAway(t *testing.T) {
	b := open(t)
	r := group(t, b, "g", router.Config{MaxInFlight: 2})
	got := make(chan string, 10)
	router.Handle(r, "moods", func(_ context.Context, e aura360.MoodCreated) error {
		if strings.HasPrefix(e.UserID, "exits") {
			runtime.Goexit()
		}
		got <- e.UserID
		return nil
	})
	stop := start(t, r)
	for i := range 5 {
		publish(t, b, mood(fmt.Sprintf("exits%d", i), 1))
	}
	publish(t, b, mood("last", 1))
	if user := within(t, got, "the last event"); user != "last" {
		t.Errorf("handled %q", user)
	}
	if err := stop(); err != nil {
		t.Error(err)
	}
}
