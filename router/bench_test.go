package router_test

import (
	"context"
	"log/slog"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/aura360/eventbus/bus"
	"github.com/aura360/eventbus/events"
	"github.com/aura360/eventbus/events/aura360"
	"github.com/aura360/eventbus/router"
)

// benchBus is a bus in memory that logs nothing.
func benchBus(b *testing.B) *bus.Bus {
	b.Helper()
	eb, err := bus.Open(context.Background(), bus.Config{Backend: bus.Memory, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		if err := eb.Close(); err != nil {
			b.Error(err)
		}
	})
	return eb
}

// benchMoods are n messages as the bus publishes them.
func benchMoods(b *testing.B, n int) []*message.Message {
	b.Helper()
	out := make([]*message.Message, n)
	for i := range out {
		enc, err := events.Encode(aura360.MoodCreated{
			Base: events.Base{UserID: "user-" + string(rune('a'+i%26))},
			Data: aura360.Mood{MoodID: "mood", CreatedAt: time.Now(), Score: 7, Tags: []string{"calm", "rested"}, Notes: "slept well, walked to work"},
		}, events.Base{})
		if err != nil {
			b.Fatal(err)
		}
		out[i] = message.NewMessage(enc.Base.ID, enc.Body)
		out[i].Metadata = enc.Header("/bench")
	}
	return out
}

// BenchmarkDeliver is what the middle costs: the chain, the decoding and the
// handler, without a backend and without goroutines.
func BenchmarkDeliver(b *testing.B) {
	r, err := router.New(benchBus(b), "g")
	if err != nil {
		b.Fatal(err)
	}
	router.Handle(r, "count", func(context.Context, aura360.MoodCreated) error { return nil })
	const n = 10_000
	var msgs []*message.Message
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		if i%n == 0 {
			b.StopTimer()
			msgs = benchMoods(b, n)
			b.StartTimer()
		}
		if err := r.Deliver(aura360.TopicUserEvents, msgs[i%n]); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkDrain takes a backlog in memory through a typed handler.
func BenchmarkDrain(b *testing.B) {
	const n = 20_000
	b.ReportAllocs()
	for b.Loop() {
		b.StopTimer()
		eb := benchBus(b)
		if err := eb.Parts().Backend.Publish(b.Context(), aura360.TopicUserEvents, benchMoods(b, n)...); err != nil {
			b.Fatal(err)
		}
		r, err := router.New(eb, "g")
		if err != nil {
			b.Fatal(err)
		}
		ctx, stop := context.WithCancel(b.Context())
		var seen atomic.Int64
		router.Handle(r, "count", func(context.Context, aura360.MoodCreated) error {
			if seen.Add(1) == n {
				stop()
			}
			return nil
		})
		b.StartTimer()
		if err := r.Run(ctx); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/n, "ns/event")
}
