package bus

import (
	"context"
	"errors"
	"fmt"
	"unicode/utf8"

	"github.com/ThreeDotsLabs/watermill/message"
	"go.opentelemetry.io/otel/trace"

	"github.com/aura360/eventbus/bus/driver"
	"github.com/aura360/eventbus/events"
	"github.com/aura360/eventbus/middleware"
)

// Publish announces e. It blocks until the broker has confirmed it, with retries
// within MESSAGING_PUBLISH_TIMEOUT and ctx, and returns nil only then. The
// error is a *PublishError: errors.Is tells ErrNotAccepted (it can not appear)
// from ErrUnknown (it may), and its ID is the event's, to publish again safely.
//
// e is not changed: the bus fills the empty fields of its own copy. Events with
// the same key that one goroutine publishes one after the other are handled in
// that order. Within a handler, use the handler's context: the event then knows
// what caused it.
//
// On the disabled backend the event is logged, counted and dropped.
func (b *Bus) Publish(ctx context.Context, e events.Event) error {
	if !b.inUse.begin() {
		return b.failed(events.Encoded{}, driver.Rejected, ErrClosed)
	}
	defer b.inUse.end()
	enc, msg, err := b.message(ctx, e)
	if err != nil {
		return b.failed(enc, driver.Rejected, err)
	}
	if err := b.send(ctx, enc.Definition.Topic, msg); err != nil {
		r := driver.Results(err, 1)[0]
		return b.failed(enc, r.Outcome, r.Err)
	}
	return nil
}

// PublishAll announces several events, as one batch for each topic. It is
// Publish otherwise. Unless all were confirmed the error is a *BatchError with
// the outcome of each; one that is refused does not keep back the others.
func (b *Bus) PublishAll(ctx context.Context, evs ...events.Event) error {
	failures := make([]error, len(evs))
	ok := true
	fail := func(i int, err error) { failures[i], ok = err, false }
	if !b.inUse.begin() {
		for i := range evs {
			fail(i, b.failed(events.Encoded{}, driver.Rejected, ErrClosed))
		}
		return batchError(failures, ok)
	}
	defer b.inUse.end()

	type batch struct {
		topic string
		index []int
		msgs  []*message.Message
	}
	var batches []*batch // in the order of each topic's first event
	byTopic := map[string]*batch{}
	encoded := make([]events.Encoded, len(evs))
	for i, e := range evs {
		enc, msg, err := b.message(ctx, e)
		encoded[i] = enc
		if err != nil {
			fail(i, b.failed(enc, driver.Rejected, err))
			continue
		}
		t := byTopic[enc.Definition.Topic]
		if t == nil {
			t = &batch{topic: enc.Definition.Topic}
			byTopic[t.topic], batches = t, append(batches, t)
		}
		t.index, t.msgs = append(t.index, i), append(t.msgs, msg)
	}
	for _, t := range batches {
		err := b.send(ctx, t.topic, t.msgs...)
		if err == nil {
			continue
		}
		for j, r := range driver.Results(err, len(t.msgs)) {
			if r.Outcome != driver.Confirmed {
				fail(t.index[j], b.failed(encoded[t.index[j]], r.Outcome, r.Err))
			}
		}
	}
	return batchError(failures, ok)
}

func batchError(failures []error, ok bool) error {
	if ok {
		return nil
	}
	return &BatchError{Errors: failures}
}

// message encodes e and wraps it as the message that goes on the wire. What
// caused it, and the trace it belongs to, come from ctx.
func (b *Bus) message(ctx context.Context, e events.Event) (events.Encoded, *message.Message, error) {
	var fill events.Base
	if sc := trace.SpanContextFromContext(ctx); sc.HasTraceID() {
		fill.TraceID = sc.TraceID().String()
	}
	cause := middleware.DeliveryFrom(ctx)
	if cause != nil && fill.TraceID == "" {
		fill.TraceID = cause.Msg.Metadata[events.HeaderTraceID]
	}
	enc, err := events.Encode(e, fill)
	if err != nil {
		return enc, nil, err
	}
	if n, most := len(enc.Body), b.cfg.MaxEventBytes; n > most {
		return enc, nil, &events.Error{
			Type: enc.Definition.Type, Reason: events.ReasonTooLarge,
			Err: fmt.Errorf("%d bytes: want at most %d (MESSAGING_MAX_EVENT_BYTES)", n, most),
		}
	}
	header := enc.Header(b.source)
	if cause != nil {
		if id := causeID(cause); id != "" && len(id) <= maxForeignID && utf8.ValidString(id) {
			header[events.HeaderCausationID] = id
			correlation := cause.Msg.Metadata[events.HeaderCorrelationID]
			if correlation == "" || len(correlation) > maxForeignID || !utf8.ValidString(correlation) {
				correlation = id // the first of the chain, as far as we can tell
			}
			header[events.HeaderCorrelationID] = correlation
		}
	}
	// Built by hand: NewMessage makes two channels for acks, and nobody acks
	// what is published.
	return enc, &message.Message{UUID: enc.Base.ID, Metadata: header, Payload: enc.Body}, nil
}

// maxForeignID bounds the ids that are taken over from a message somebody else
// may have written.
const maxForeignID = 200

func causeID(d *middleware.Delivery) string {
	if e, ok := d.Event.(events.Event); ok {
		return events.BaseOf(e).ID
	}
	return d.Msg.Metadata[events.HeaderEventID]
}

// publishChain is the way of a message out: the order is part of the contract,
// see docs/architecture.md. What validates stands before it: for an event that is
// Encode and message above, for a plain message the piece that does it.
func (b *Bus) publishChain() middleware.PublishFunc {
	var pieces []middleware.Publish
	with := func(name middleware.Piece, p middleware.Publish) {
		for _, w := range b.cfg.Without {
			if w == name {
				return
			}
		}
		pieces = append(pieces, p)
	}
	with(middleware.PieceTrace, middleware.TracePublish(b.tracing))
	with(middleware.PieceMetrics, middleware.MetricsPublish(b.metrics, b.tracing.System))
	pieces = append(pieces, b.cfg.PublishMiddleware...)
	with(middleware.PieceRetry, middleware.RetryPublish(b.publishRetry()))
	with(middleware.PiecePoison, middleware.PoisonPublish(b.poison.putUnpublishable))
	return middleware.ChainPublish(b.backend.Publish, pieces...)
}

func (b *Bus) publishRetry() middleware.RetryPolicy {
	return middleware.RetryPolicy{
		Initial: b.cfg.RetryInitialInterval, Max: b.cfg.RetryMaxInterval,
		MaxElapsed: b.cfg.PublishTimeout, AttemptTimeout: b.cfg.PublishAttemptTimeout,
	}
}

// failed describes why the event was not confirmed.
func (b *Bus) failed(enc events.Encoded, o driver.Outcome, err error) error {
	e := &PublishError{ID: enc.Base.ID, Backend: b.backend.Name(), Unknown: o == driver.Unknown, Err: err, Hint: hint(err)}
	if enc.Definition != nil {
		e.Type, e.Topic = enc.Definition.Type, enc.Definition.Topic
	}
	var refused *events.Error
	if e.Type == "" && errors.As(err, &refused) {
		e.Type = refused.Type
	}
	if errors.Is(err, driver.ErrClosed) && !errors.Is(err, ErrClosed) {
		e.Err = errors.Join(ErrClosed, err)
	}
	return e
}
