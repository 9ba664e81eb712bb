package middleware

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/ThreeDotsLabs/watermill/message"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/baggage"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/propagation"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.opentelemetry.io/otel/trace/noop"

	"github.com/aura360/eventbus/bus/driver"
)

func recorder() (*tracetest.SpanRecorder, Tracing) {
	r := tracetest.NewSpanRecorder()
	return r, Tracing{Provider: sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(r)), System: "kafka"}
}

func attrs(s sdktrace.ReadOnlySpan) map[string]string {
	out := map[string]string{}
	for _, a := range s.Attributes() {
		out[string(a.Key)] = a.Value.String()
	}
	return out
}

func TestTraceRunsFromPublisherToHandlerToPublisher(t *testing.T) {
	rec, tr := recorder()
	var second *message.Message
	publish := TracePublish(tr)(confirm)
	bag, _ := baggage.Parse("tenant=a")
	ctx := baggage.ContextWithBaggage(t.Context(), bag)
	msg := event(t.Context(), "1", "{}")
	if err := publish(ctx, "topic", msg); err != nil {
		t.Fatal(err)
	}
	if _, err := deliver(chain(handler(func(ctx context.Context) error {
		if got := baggage.FromContext(ctx).String(); got != "tenant=a" {
			t.Errorf("baggage %q", got)
		}
		second = keyed("2", "")
		return publish(ctx, "next", second, keyed("3", ""))
	}), Guard(nil), Trace(tr)), msg); err != nil {
		t.Fatal(err)
	}
	var names []string
	spans := rec.Ended()
	for _, s := range spans {
		names = append(names, s.SpanKind().String()+" "+s.Name())
	}
	if got := strings.Join(names, ", "); got != "producer send topic, producer send next, consumer process topic" {
		t.Fatalf("spans %s", got)
	}
	send, next, process := spans[0], spans[1], spans[2]
	if process.Parent().SpanID() != send.SpanContext().SpanID() || next.Parent().SpanID() != process.SpanContext().SpanID() || !process.Parent().IsRemote() {
		t.Error("the spans do not hang together")
	}
	if id := next.SpanContext().SpanID().String(); !strings.Contains(second.Metadata["traceparent"], id) {
		t.Errorf("traceparent %s, want span %s", second.Metadata["traceparent"], id)
	}
	want := map[string]string{
		"messaging.system": "kafka", "messaging.destination.name": "topic", "messaging.operation.name": "process",
		"messaging.operation.type": "process", "messaging.consumer.group.name": "group", "messaging.message.id": "1",
		"messaging.message.body.size": "2", "eventbus.outcome": "handled", "eventbus.handler": "handler", "eventbus.event_type": "bench.event",
	}
	got := attrs(process)
	for k, v := range want {
		if got[k] != v {
			t.Errorf("attribute %s = %q, want %q", k, got[k], v)
		}
	}
	if len(got) != len(want) || attrs(next)["messaging.batch.message_count"] != "2" || attrs(send)["messaging.message.id"] != "1" {
		t.Errorf("attributes %v, %v", got, attrs(next))
	}
}

func TestTraceShowsFailures(t *testing.T) {
	rec, tr := recorder()
	var q poisonQueue
	fail := handler(func(context.Context) error { return Permanent(errBoom) })
	_, _ = deliver(chain(fail, Trace(tr)), event(t.Context(), "1", "{}"))
	_, _ = deliver(chain(fail, Trace(tr), Poison(q.sink, nil)), event(t.Context(), "1", "{}"))
	_, _ = deliver(chain(handler(func(context.Context) error { panic("p") }), Guard(nil), Trace(tr)), event(t.Context(), "1", "{}"))
	_ = TracePublish(tr)(func(context.Context, string, ...*message.Message) error {
		return driver.Fail("kafka", "topic", 1, driver.Unknown, errBoom)
	})(t.Context(), "topic", keyed("a", ""))
	want := []struct{ description, errorType string }{
		{"boom", "unacked"},
		{"poisoned: permanent", "permanent"},
		{"panic", "panic"},
		{"kafka: publish to topic: unknown: boom", "unknown"},
	}
	for i, s := range rec.Ended() {
		if st := s.Status(); st.Code != codes.Error || st.Description != want[i].description || attrs(s)["error.type"] != want[i].errorType {
			t.Errorf("span %d: %+v, error.type %s", i, st, attrs(s)["error.type"])
		}
	}
}

func TestTraceLinksWhenTheDriverHasASpan(t *testing.T) {
	rec, tr := recorder()
	ctx, receive := tr.Provider.Tracer("driver").Start(t.Context(), "receive")
	msg := event(ctx, "1", "{}")
	msg.Metadata["traceparent"] = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
	if _, err := deliver(chain(handler(func(context.Context) error { return nil }), Trace(tr)), msg); err != nil {
		t.Fatal(err)
	}
	s := rec.Ended()[0]
	if s.Parent().SpanID() != receive.SpanContext().SpanID() || len(s.Links()) != 1 ||
		s.Links()[0].SpanContext.TraceID().String() != "0af7651916cd43dd8448eb211c80319c" {
		t.Errorf("parent %v, links %v", s.Parent(), s.Links())
	}
}

func TestWithoutAProviderTheTraceStillPassesThrough(t *testing.T) {
	const parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
	for name, tr := range map[string]Tracing{"globals": {}, "noop": {Provider: noop.NewTracerProvider(), Propagator: propagation.TraceContext{}}} {
		msg := event(t.Context(), "1", "{}")
		msg.Metadata["traceparent"] = parent
		out := message.NewMessage("out", nil)
		out.Metadata = nil
		plain := keyed("plain", "")
		publish := TracePublish(tr)(confirm)
		_, err := deliver(chain(handler(func(ctx context.Context) error {
			return errors.Join(publish(ctx, "t", out), publish(context.Background(), "t", plain), publish(ctx, "t"))
		}), Trace(tr)), msg)
		if err != nil || out.Metadata["traceparent"] != parent || plain.Metadata["traceparent"] != "" {
			t.Errorf("%s: err %v, inside %q, outside %q", name, err, out.Metadata["traceparent"], plain.Metadata["traceparent"])
		}
	}
}

// oddProvider cannot be compared.
type oddProvider struct {
	noop.TracerProvider
	_ []int
}

func TestTracingFollowsTheGlobals(t *testing.T) {
	rec, tr := recorder()
	global := newTracing(Tracing{Provider: otel.GetTracerProvider(), Propagator: otel.GetTextMapPropagator()})
	if !global.tracer().noop {
		t.Fatal("the place holder is not taken for a no-op")
	}
	before, beforeProp := otel.GetTracerProvider(), otel.GetTextMapPropagator()
	defer func() { otel.SetTracerProvider(before); otel.SetTextMapPropagator(beforeProp) }()
	publish := TracePublish(Tracing{})(confirm)
	otel.SetTracerProvider(tr.Provider)
	for _, p := range []propagation.TextMapPropagator{w3c, propagation.TraceContext{}} {
		otel.SetTextMapPropagator(p)
		msg := keyed("a", "")
		if err := publish(t.Context(), "t", msg); err != nil || msg.Metadata["traceparent"] == "" {
			t.Errorf("%T: err %v, headers %v", p, err, msg.Metadata)
		}
	}
	if global.tracer().noop || len(rec.Ended()) != 2 {
		t.Errorf("%d spans", len(rec.Ended()))
	}
	if err := TracePublish(Tracing{Provider: oddProvider{}})(confirm)(t.Context(), "t", keyed("a", "")); err != nil {
		t.Error(err)
	}
	c := carrier{"a": "1"}
	if c.Get("a") != "1" || len(c.Keys()) != 1 {
		t.Error("carrier")
	}
}
