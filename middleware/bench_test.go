package middleware

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/aura360/eventbus/events"
)

type benchEvent struct {
	events.Base
	Score int `json:"score"`
}

var _ = events.Define[benchEvent]("bench.event", events.Topic("bench"))

func benchMetrics(b *testing.B) *Metrics {
	m, err := NewMetrics(nil)
	if err != nil {
		b.Fatal(err)
	}
	return m
}

func benchHeaders(i int) message.Metadata {
	id := fmt.Sprintf("0193-%032d", i)
	return message.Metadata{
		"ce_specversion": "1.0", "ce_id": id, "ce_type": "bench.event", "ce_source": "bench-service",
		"content-type": "application/json", "event_id": id, "event_type": "bench.event", "trace_id": "",
		"correlation_id": id, "eb_key": "user-1",
	}
}

func chain(h message.HandlerFunc, pieces ...message.HandlerMiddleware) message.HandlerFunc {
	for i := len(pieces) - 1; i >= 0; i-- {
		h = pieces[i](h)
	}
	return h
}

func BenchmarkSubscribeChain(b *testing.B) {
	ok := func(*message.Message) ([]*message.Message, error) { return nil, nil }
	sink := func(context.Context, *message.Message, PoisonInfo) error { return nil }
	all := []struct {
		name  string
		piece message.HandlerMiddleware
	}{
		{"Guard", Guard(nil)},
		{"Trace", Trace(Tracing{})},
		{"Measure", Measure(benchMetrics(b), "kafka")},
		{"Deduplicate", Deduplicate(NewMemoryMarks(MemoryMarksConfig{}), nil)},
		{"Poison", Poison(sink, nil)},
		{"Retry", Retry(RetryPolicy{}, nil)},
		{"Recover", Recover()},
		{"Timeout", Timeout(0)},
	}
	// Fresh messages, made outside the clock: an event is handled once.
	const n = 1 << 15
	run := func(b *testing.B, h message.HandlerFunc) {
		payload := make([]byte, 256)
		ctx, cancel := context.WithCancel(b.Context())
		defer cancel()
		msgs := make([]*message.Message, n)
		next, gen := n, 0
		now := time.Now()
		b.ReportAllocs()
		for b.Loop() {
			if next == n {
				b.StopTimer()
				for i := range msgs {
					msgs[i] = message.NewMessageWithContext(ctx, "u", payload)
					msgs[i].Metadata = benchHeaders(gen)
					gen++
				}
				next = 0
				b.StartTimer()
			}
			msg := msgs[next]
			next++
			d := Begin(msg, "kafka", "group", "bench")
			d.EventType, d.Handler, d.Event = "bench.event", "handler", benchEventAt(now)
			if _, err := h(msg); err != nil {
				b.Fatal(err)
			}
		}
	}
	pieces := make([]message.HandlerMiddleware, 0, len(all))
	b.Run("none", func(b *testing.B) { run(b, ok) })
	for _, p := range all {
		b.Run("only"+p.name, func(b *testing.B) { run(b, p.piece(ok)) })
		pieces = append(pieces, p.piece)
	}
	b.Run("all", func(b *testing.B) { run(b, chain(ok, pieces...)) })
}

var benchedEvent any

func benchEventAt(t time.Time) any {
	if benchedEvent == nil {
		benchedEvent = benchEvent{Base: events.Base{Timestamp: t}}
	}
	return benchedEvent
}

func BenchmarkPublishChain(b *testing.B) {
	done := func(context.Context, string, ...*message.Message) error { return nil }
	sink := func(context.Context, *message.Message, PoisonInfo) error { return nil }
	all := []struct {
		name  string
		piece Publish
	}{
		{"Validate", ValidatePublish(0)},
		{"Trace", TracePublish(Tracing{})},
		{"Metrics", MetricsPublish(benchMetrics(b), "kafka")},
		{"Retry", RetryPublish(RetryPolicy{})},
		{"Poison", PoisonPublish(sink)},
	}
	msg := message.NewMessage("u", make([]byte, 256))
	msg.Metadata = benchHeaders(1)
	run := func(b *testing.B, f PublishFunc) {
		ctx := b.Context()
		b.ReportAllocs()
		for b.Loop() {
			if err := f(ctx, "bench", msg); err != nil {
				b.Fatal(err)
			}
		}
	}
	pieces := make([]Publish, 0, len(all))
	for _, p := range all {
		b.Run("only"+p.name, func(b *testing.B) { run(b, p.piece(done)) })
		pieces = append(pieces, p.piece)
	}
	b.Run("all", func(b *testing.B) { run(b, ChainPublish(done, pieces...)) })
	deadline, cancel := context.WithTimeout(b.Context(), time.Hour)
	defer cancel()
	b.Run("allUnderDeadline", func(b *testing.B) {
		b.ReportAllocs()
		f := ChainPublish(done, pieces...)
		short, cancel := context.WithTimeout(deadline, 4*time.Second)
		defer cancel()
		for b.Loop() {
			if err := f(short, "bench", msg); err != nil {
				b.Fatal(err)
			}
		}
	})
}
