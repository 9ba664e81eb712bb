package middleware

import (
	"context"
	"fmt"
	"reflect"
	"sync/atomic"

	"github.com/ThreeDotsLabs/watermill/message"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/propagation"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	"go.opentelemetry.io/otel/trace"
	"go.opentelemetry.io/otel/trace/noop"

	"github.com/aura360/eventbus/bus/driver"
	"github.com/aura360/eventbus/events"
)

const scopeName = "github.com/aura360/eventbus/middleware"

// Tracing says where spans go. Its zero value follows OpenTelemetry's globals,
// also when they are set later.
type Tracing struct {
	// Provider defaults to otel.GetTracerProvider.
	Provider trace.TracerProvider
	// Propagator defaults to otel.GetTextMapPropagator and, while none was set
	// there, to W3C Trace Context and Baggage, which the wire is defined with.
	Propagator propagation.TextMapPropagator
	// System is the messaging.system of spans: kafka, redis, gochannel, celery.
	// A delivery that names its backend overrides it.
	System string
}

// systemOf returns the messaging.system of a backend.
func systemOf(backend, otherwise string) string {
	switch backend {
	case "":
		return otherwise
	case "memory":
		return "gochannel"
	}
	return backend
}

// tracing resolves a Tracing once per change of the globals.
type tracing struct {
	Tracing
	tracers     atomic.Pointer[resolvedTracer]
	propagators atomic.Pointer[resolvedPropagator]
}

type resolvedTracer struct {
	from   trace.TracerProvider
	tracer trace.Tracer
	noop   bool // nothing is recorded, so nothing need be done
}

type resolvedPropagator struct {
	from, use propagation.TextMapPropagator
}

func newTracing(t Tracing) *tracing {
	// OpenTelemetry's place holders pass on to what is set later: asking the
	// globals each time finds that, and costs nothing while nothing is set.
	if isPlaceholder(t.Provider) {
		t.Provider = nil
	}
	if isPlaceholder(t.Propagator) {
		t.Propagator = nil
	}
	return &tracing{Tracing: t}
}

// isPlaceholder knows OpenTelemetry's globals before they are set. Their types
// are internal.
func isPlaceholder(v any) bool {
	switch fmt.Sprintf("%T", v) {
	case "*global.tracerProvider", "*global.textMapPropagator":
		return true
	}
	return false
}

func (t *tracing) tracer() *resolvedTracer {
	p := t.Provider
	if p == nil {
		p = otel.GetTracerProvider()
	}
	if r := t.tracers.Load(); r != nil && r.from == p {
		return r
	}
	r := &resolvedTracer{from: p, noop: isNoop(p), tracer: p.Tracer(scopeName)}
	if reflect.TypeOf(p).Comparable() {
		t.tracers.Store(r)
	}
	return r
}

// isNoop knows OpenTelemetry's own no-op provider, and the place holder.
func isNoop(p trace.TracerProvider) bool {
	switch p.(type) {
	case noop.TracerProvider, *noop.TracerProvider:
		return true
	}
	return isPlaceholder(p)
}

var w3c = propagation.NewCompositeTextMapPropagator(propagation.TraceContext{}, propagation.Baggage{})

func (t *tracing) propagator() propagation.TextMapPropagator {
	if t.Propagator != nil {
		return t.Propagator
	}
	p := otel.GetTextMapPropagator()
	if !reflect.TypeOf(p).Comparable() { // the usual composite is a slice
		return p
	}
	if r := t.propagators.Load(); r != nil && r.from == p {
		return r.use
	}
	r := &resolvedPropagator{from: p, use: p}
	if isPlaceholder(p) {
		r.use = w3c
	}
	t.propagators.Store(r)
	return r.use
}

// carrier is a message's metadata for OpenTelemetry's propagators.
type carrier message.Metadata

func (c carrier) Get(key string) string { return c[key] }
func (c carrier) Set(key, value string) { c[key] = value }
func (c carrier) Keys() []string {
	out := make([]string, 0, len(c))
	for k := range c {
		out = append(out, k)
	}
	return out
}

// inject writes ctx's trace context into every message.
func (t *tracing) inject(ctx context.Context, msgs []*message.Message) {
	if len(msgs) == 0 {
		return
	}
	p := t.propagator()
	into := func(msg *message.Message) message.Metadata {
		if msg.Metadata == nil {
			msg.Metadata = message.Metadata{}
		}
		return msg.Metadata
	}
	if len(msgs) == 1 {
		p.Inject(ctx, carrier(into(msgs[0])))
		return
	}
	fields := carrier{}
	p.Inject(ctx, fields)
	for _, msg := range msgs {
		m := into(msg)
		for k, v := range fields {
			m[k] = v
		}
	}
}

// TracePublish makes the span "send <topic>" and writes its context into the
// messages: traceparent, tracestate, baggage. Without a tracer provider it makes
// none, but passes on the trace that ctx stands in, if any.
//
// It stands inside ValidatePublish, so that what is held back is not traced as
// sent, and outside the rest: one span covers every try, and a message keeps its
// trace context through all of them.
func TracePublish(t Tracing) Publish {
	tr := newTracing(t)
	return func(next PublishFunc) PublishFunc {
		return func(ctx context.Context, topic string, msgs ...*message.Message) error {
			r := tr.tracer()
			if r.noop {
				if trace.SpanContextFromContext(ctx).IsValid() {
					tr.inject(ctx, msgs)
				}
				return next(ctx, topic, msgs...)
			}
			ctx, span := r.tracer.Start(ctx, "send "+topic, trace.WithSpanKind(trace.SpanKindProducer),
				trace.WithAttributes(tr.sendAttributes(topic, msgs)...))
			defer span.End()
			tr.inject(ctx, msgs)
			err := next(ctx, topic, msgs...)
			if err != nil && span.IsRecording() {
				span.SetStatus(codes.Error, clip(err.Error(), maxPoisonTextBytes))
				span.SetAttributes(semconv.ErrorTypeKey.String(worst(driver.Results(err, len(msgs))).String()))
			}
			return err
		}
	}
}

func (t *tracing) sendAttributes(topic string, msgs []*message.Message) []attribute.KeyValue {
	attrs := make([]attribute.KeyValue, 0, 8)
	attrs = append(attrs,
		semconv.MessagingSystemKey.String(t.System),
		semconv.MessagingDestinationName(topic),
		semconv.MessagingOperationName("send"),
		semconv.MessagingOperationTypeSend,
	)
	if len(msgs) == 1 {
		attrs = append(attrs, semconv.MessagingMessageBodySize(len(msgs[0].Payload)))
		if id := headerID(msgs[0]); id != "" {
			attrs = append(attrs, semconv.MessagingMessageID(id))
		}
		if typ := eventTypeOf(msgs[0]); typ != "" {
			attrs = append(attrs, attribute.String("eventbus.event_type", typ))
		}
		return attrs
	}
	return append(attrs, semconv.MessagingBatchMessageCount(len(msgs)))
}

// Trace continues the trace that the message carries: the span "process <topic>"
// becomes a child of the publisher's or, when the driver's context has a span
// already, that one's child with a link to the publisher's. What the handler
// publishes belongs to the same trace. The span is an error when the message was
// poisoned or left unacked.
//
// Without a tracer provider it makes no span; the trace of a message that has a
// traceparent still reaches what the handler publishes.
//
// It stands right inside Guard, so that its span covers all that happens.
func Trace(t Tracing) message.HandlerMiddleware {
	tr := newTracing(t)
	return func(next message.HandlerFunc) message.HandlerFunc {
		return func(msg *message.Message) ([]*message.Message, error) {
			r := tr.tracer()
			if r.noop {
				if msg.Metadata[events.HeaderTraceParent] != "" {
					d := deliveryOf(msg)
					d.Context = tr.propagator().Extract(d.Context, carrier(msg.Metadata))
				}
				return next(msg)
			}
			return tr.process(r.tracer, next, msg)
		}
	}
}

func (t *tracing) process(tracer trace.Tracer, next message.HandlerFunc, msg *message.Message) ([]*message.Message, error) {
	d := deliveryOf(msg)
	ctx := t.propagator().Extract(d.Context, carrier(msg.Metadata))
	opts := make([]trace.SpanStartOption, 0, 3)
	opts = append(opts, trace.WithSpanKind(trace.SpanKindConsumer), trace.WithAttributes(t.processAttributes(d)...))
	if own := trace.SpanFromContext(d.Context); own.SpanContext().IsValid() {
		if remote := trace.SpanContextFromContext(ctx); remote.IsValid() && !remote.Equal(own.SpanContext()) {
			opts = append(opts, trace.WithLinks(trace.Link{SpanContext: remote}))
		}
		ctx = trace.ContextWithSpan(ctx, own)
	}
	ctx, span := tracer.Start(ctx, "process "+d.Topic, opts...)
	// The delivery stays the message's context; it is not shared yet.
	d.Context = ctx
	panicked := true
	var err error
	defer func() {
		if span.IsRecording() {
			finish(span, d, err, panicked)
		}
		span.End()
	}()
	out, err := next(msg)
	panicked = false
	return out, err
}

func (t *tracing) processAttributes(d *Delivery) []attribute.KeyValue {
	attrs := make([]attribute.KeyValue, 0, 8)
	attrs = append(attrs,
		semconv.MessagingSystemKey.String(systemOf(d.Backend, t.System)),
		semconv.MessagingDestinationName(d.Topic),
		semconv.MessagingOperationName("process"),
		semconv.MessagingOperationTypeProcess,
		semconv.MessagingConsumerGroupName(d.Group),
		semconv.MessagingMessageBodySize(len(d.Msg.Payload)),
	)
	if id := headerID(d.Msg); id != "" {
		attrs = append(attrs, semconv.MessagingMessageID(clip(id, maxEventIDBytes)))
	}
	return attrs
}

// finish adds what is only known after the chain.
func finish(span trace.Span, d *Delivery, err error, panicked bool) {
	outcome := outcomeOf(d, err, panicked)
	attrs := make([]attribute.KeyValue, 0, 5)
	attrs = append(attrs, attribute.String("eventbus.outcome", string(outcome)))
	if d.Handler != "" {
		attrs = append(attrs, attribute.String("eventbus.handler", d.Handler))
	}
	if d.EventType != "" {
		attrs = append(attrs, attribute.String("eventbus.event_type", d.EventType))
	}
	if d.Attempt > 1 {
		attrs = append(attrs, attribute.Int("eventbus.attempts", d.Attempt))
	}
	switch {
	case err != nil:
		span.SetStatus(codes.Error, clip(err.Error(), maxPoisonTextBytes))
		attrs = append(attrs, semconv.ErrorTypeKey.String(string(outcome)))
	case outcome == OutcomePoisoned:
		span.SetStatus(codes.Error, "poisoned: "+string(d.Reason))
		attrs = append(attrs, semconv.ErrorTypeKey.String(string(d.Reason)))
	case panicked:
		span.SetStatus(codes.Error, "panic")
		attrs = append(attrs, semconv.ErrorTypeKey.String("panic"))
	}
	span.SetAttributes(attrs...)
}

// outcomeOf is the delivery's outcome once the chain returned err.
func outcomeOf(d *Delivery, err error, panicked bool) Outcome {
	if err != nil || panicked {
		if d.later > 0 && !panicked {
			return OutcomeParked
		}
		return OutcomeUnacked
	}
	switch d.Outcome {
	case OutcomeDuplicate, OutcomeIgnored, OutcomePoisoned, OutcomeParked:
		return d.Outcome
	}
	return OutcomeHandled // also for a value that a foreign piece made up: it is a label
}

// worst returns the outcome that matters most to a publisher: unknown, then
// rejected.
func worst(results []driver.Result) driver.Outcome {
	out := driver.Confirmed
	for _, r := range results {
		out = max(out, min(r.Outcome, driver.Unknown))
	}
	return out
}
