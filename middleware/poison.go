package middleware

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/aura360/eventbus/bus/driver"
	"github.com/aura360/eventbus/events"
)

// PoisonSink puts msg into the poison queue. It returns nil only when the queue
// has it, confirmed. PoisonMessage makes the message to put there. It must not
// go through ValidatePublish, which would refuse what is wrong with the message,
// nor through PoisonPublish, which would call it again.
type PoisonSink func(ctx context.Context, msg *message.Message, info PoisonInfo) error

// PoisonInfo says why and where a message was given up.
type PoisonInfo struct {
	Reason events.Reason
	Err    error
	// Handler and Group are "" for a message that could not be published.
	Handler, Group, Topic, Backend, Host string
	// Source is the message's position on its broker, where that is known.
	// Defaults to backend, topic and the message's UUID.
	Source   string
	Attempts int
	// First and Last are the times of the first and the last failure.
	First, Last time.Time
}

// Bounds of what PoisonMessage adds and keeps.
const (
	maxPoisonErrorBytes  = 4 << 10
	maxPoisonTextBytes   = 512       // any other header of ours
	maxPoisonHeaderBytes = 256 << 10 // the message's own headers, names and values
)

var hostname = sync.OnceValue(func() string {
	h, _ := os.Hostname()
	return h
})

// PoisonMessage returns the message that the poison queue keeps for msg: its
// UUID, key, payload and all its own headers as they are, and beside them the
// eb_poison headers. msg is not changed; the payload is shared with it.
//
// A payload above maxBytes (0 or less: no limit) is kept cut, with its size, its
// SHA-256 and where the whole of it was read from. Own headers above 256 KiB in
// all are kept in the order of their names as far as they fit, and the error's
// text says how many are missing. What a driver said about a malformed message
// is part of that text too: its own header never is on the wire.
func PoisonMessage(msg *message.Message, info PoisonInfo, maxBytes int) *message.Message {
	uuid, payload := msg.UUID, msg.Payload
	if uuid == "" {
		uuid = events.NewID()
	}
	cut := maxBytes > 0 && len(payload) > maxBytes
	if cut {
		payload = payload[:maxBytes:maxBytes]
	}
	out := message.NewMessage(uuid, payload)
	text := ""
	if info.Err != nil {
		text = info.Err.Error()
	}
	if m := msg.Metadata[events.HeaderMalformed]; m != "" {
		text += "; malformed: " + clip(m, maxPoisonTextBytes)
	}
	if missing := copyHeaders(out.Metadata, msg.Metadata); missing > 0 {
		text = clip(text, maxPoisonErrorBytes-64) + fmt.Sprintf("; %d headers do not fit", missing)
	}

	set := func(name, value string) {
		if value != "" {
			out.Metadata[name] = clip(value, maxPoisonTextBytes)
		}
	}
	out.Metadata[events.HeaderPoisonReason] = string(info.Reason)
	out.Metadata[events.HeaderPoisonError] = clip(text, maxPoisonErrorBytes)
	set(events.HeaderPoisonHandler, info.Handler)
	set(events.HeaderPoisonGroup, info.Group)
	set(events.HeaderPoisonTopic, info.Topic)
	set(events.HeaderPoisonBackend, info.Backend)
	set(events.HeaderPoisonHost, info.Host)
	set(events.HeaderPoisonUUID, msg.UUID)
	set(events.HeaderPoisonAttempts, strconv.Itoa(info.Attempts))
	if !info.First.IsZero() {
		set(events.HeaderPoisonFirst, events.FormatTime(info.First))
	}
	if !info.Last.IsZero() {
		set(events.HeaderPoisonLast, events.FormatTime(info.Last))
	}
	if cut {
		sum := sha256.Sum256(msg.Payload)
		set(events.HeaderPoisonSize, strconv.Itoa(len(msg.Payload)))
		set(events.HeaderPoisonSHA256, hex.EncodeToString(sum[:]))
		source := info.Source
		if source == "" {
			source = info.Backend + ":" + info.Topic + ":" + msg.UUID
		}
		set(events.HeaderPoisonSource, source)
	}
	return out
}

// poisonHeaders are those that tell about one poisoning. What an earlier one
// left must not be taken for this one's.
var poisonHeaders = []string{
	events.HeaderPoisonReason, events.HeaderPoisonError, events.HeaderPoisonHandler, events.HeaderPoisonGroup,
	events.HeaderPoisonTopic, events.HeaderPoisonAttempts, events.HeaderPoisonFirst, events.HeaderPoisonLast,
	events.HeaderPoisonBackend, events.HeaderPoisonHost, events.HeaderPoisonUUID, events.HeaderPoisonSize,
	events.HeaderPoisonSHA256, events.HeaderPoisonSource, events.HeaderMalformed,
}

// copyHeaders copies the message's own headers and returns how many did not fit.
func copyHeaders(to, from message.Metadata) (missing int) {
	size := 0
	for k, v := range from {
		to[k] = v
		size += len(k) + len(v)
	}
	for _, k := range poisonHeaders {
		size -= len(k) + len(to[k]) // roughly: an absent one counts for its name
		delete(to, k)
	}
	if size <= maxPoisonHeaderBytes {
		return 0
	}
	size = 0
	for _, k := range slices.Sorted(maps.Keys(to)) {
		if n := len(k) + len(to[k]); size+n <= maxPoisonHeaderBytes {
			size += n
			continue
		}
		delete(to, k)
		missing++
	}
	return missing
}

// Poison puts a message whose handling failed for good into the poison queue,
// through sink, and acks it: its outcome then is OutcomePoisoned. A message that
// its driver marked as malformed goes there without being handled. The reason is
// that of the *events.Error in the error's chain, else panic, permanent,
// rejected (the broker refused for ever what the handler published) or exhausted.
//
// It returns the error, which leaves the message unacked, in three cases: the
// sink failed; the delivery's context has ended, which says nothing about the
// message; the error came from Unacked or from a bus that is closing.
//
// It stands outside Delay and Retry and inside Deduplicate, for which a poisoned message is
// done. It may stand a second time around the piece that decodes: what the inner
// one could not decide, the outer one leaves alone.
func Poison(sink PoisonSink, log *slog.Logger) message.HandlerMiddleware {
	if sink == nil {
		panic("middleware.Poison: nil sink")
	}
	log = orDiscard(log)
	return func(next message.HandlerFunc) message.HandlerFunc {
		return func(msg *message.Message) ([]*message.Message, error) {
			if m, ok := msg.Metadata[events.HeaderMalformed]; ok {
				err := &events.Error{Reason: events.ReasonMalformed, Err: errors.New(clip(m, maxPoisonTextBytes))}
				return nil, poison(sink, log, deliveryOf(msg), msg, err)
			}
			out, err := next(msg)
			if err == nil {
				return out, nil
			}
			return nil, poison(sink, log, deliveryOf(msg), msg, err)
		}
	}
}

func poison(sink PoisonSink, log *slog.Logger, d *Delivery, msg *message.Message, err error) error {
	if mustLeave(d, err) {
		if d.later == 0 {
			d.Outcome = OutcomeUnacked
		}
		return err
	}
	now := time.Now()
	info := PoisonInfo{
		Reason: reasonOf(err), Err: err,
		Handler: d.Handler, Group: d.Group, Topic: d.Topic, Backend: d.Backend, Host: hostname(),
		Attempts: d.Attempt, First: d.FirstFailure, Last: d.LastFailure,
	}
	if info.Last.IsZero() { // no Retry inside
		info.Last = now
	}
	if info.First.IsZero() {
		info.First = now
	}
	if serr := sink(msg.Context(), msg, info); serr != nil {
		d.Outcome = OutcomeUnacked
		return Unacked(fmt.Errorf("poison queue: %w (the message is to be poisoned for: %w)", serr, err))
	}
	d.Outcome, d.Reason = OutcomePoisoned, info.Reason
	attrs := []any{
		"topic", d.Topic, "group", d.Group, "handler", d.Handler, "event_id", eventID(d),
		"reason", string(info.Reason), "attempts", info.Attempts, "error", err,
	}
	var p *PanicError
	if errors.As(err, &p) {
		attrs = append(attrs, "stack", string(p.Stack))
	}
	log.ErrorContext(d, "message poisoned", attrs...)
	return nil
}

// poisonGrace is what a sink gets when the publisher's context has ended.
const poisonGrace = 5 * time.Second

// PoisonPublish puts a message that the broker refuses for ever, too large for
// it or invalid, into the poison queue as well, with events.ReasonRejected. The
// caller gets the error all the same; when the sink fails too, it says so.
//
// It stands innermost, around the driver: what ValidatePublish holds back is the
// caller's mistake and not poisoned, and inside RetryPublish it sees each refusal
// once.
func PoisonPublish(sink PoisonSink) Publish {
	if sink == nil {
		panic("middleware.PoisonPublish: nil sink")
	}
	return func(next PublishFunc) PublishFunc {
		return func(ctx context.Context, topic string, msgs ...*message.Message) error {
			err := next(ctx, topic, msgs...)
			if err == nil || !errors.Is(err, driver.ErrPermanent) {
				return err
			}
			results := slices.Clone(driver.Results(err, len(msgs)))
			backend := backendOf(err, "")
			for i, r := range results {
				var refused *refusal
				if r.Outcome != driver.Rejected || !errors.Is(r.Err, driver.ErrPermanent) || errors.As(r.Err, &refused) {
					continue
				}
				now := time.Now()
				info := PoisonInfo{
					Reason: events.ReasonRejected, Err: r.Err, Topic: topic, Backend: backend, Host: hostname(),
					Attempts: 1, First: now, Last: now,
				}
				// The sink's error is told, not wrapped: it is not why the publish failed.
				if serr := callSink(ctx, sink, msgs[i], info); serr != nil {
					results[i].Err = fmt.Errorf("%w (and the poison queue: %s)", r.Err, serr.Error())
					continue
				}
				sendingFrom(ctx).poisoned++
			}
			return publishError(backend, topic, results)
		}
	}
}

// callSink gives the sink time also when ctx has ended: the message is lost to
// the poison queue otherwise.
func callSink(ctx context.Context, sink PoisonSink, msg *message.Message, info PoisonInfo) error {
	if ctx.Err() != nil {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(context.WithoutCancel(ctx), poisonGrace)
		defer cancel()
	}
	return sink(ctx, msg, info)
}
