package middleware

import (
	"context"
	"errors"
	"fmt"
	"unicode/utf8"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/aura360/eventbus/bus/driver"
	"github.com/aura360/eventbus/events"
)

// Bounds of what ValidatePublish lets out.
const (
	DefaultMaxBytes  = 1 << 20  // payload, Kafka's own default
	MaxHeaders       = 100      // metadata entries
	MaxHeaderBytes   = 64 << 10 // names and values together
	maxTopicBytes    = 249      // Kafka's bound
	maxEventIDBytes  = 200      // as package events has it
	validationOrigin = "bus"    // Backend of an error that no backend returned
)

// refusal is the error of a message that ValidatePublish held back, told apart
// from what a driver refuses.
type refusal struct{ err *events.Error }

func (r *refusal) Error() string   { return r.err.Error() }
func (r *refusal) Unwrap() []error { return []error{driver.ErrPermanent, r.err} }

// ValidatePublish holds back what no broker should see: a payload of more than
// maxBytes (0: DefaultMaxBytes, negative: no limit), metadata that is not UTF-8
// or above MaxHeaders and MaxHeaderBytes, an event id above 200 bytes or one
// that differs between its two headers, a topic name that Kafka would not take.
// Such a message is driver.Rejected; its error wraps driver.ErrPermanent and an
// *events.Error that names the field. The other messages of the batch are sent.
//
// It stands outermost: nothing behind it needs to check again, and what it
// refuses is the caller's mistake, so that it is neither retried nor poisoned.
func ValidatePublish(maxBytes int) Publish {
	if maxBytes == 0 {
		maxBytes = DefaultMaxBytes
	}
	return func(next PublishFunc) PublishFunc {
		return func(ctx context.Context, topic string, msgs ...*message.Message) error {
			if err := checkTopic(topic); err != nil {
				return driver.Fail(validationOrigin, topic, len(msgs), driver.Rejected, &refusal{err})
			}
			for i, msg := range msgs {
				if err := check(msg, maxBytes); err != nil {
					return publishValid(ctx, next, topic, msgs, i, err, maxBytes)
				}
			}
			return next(ctx, topic, msgs...)
		}
	}
}

// publishValid sends the valid messages of a batch whose message number bad is
// the first invalid one.
func publishValid(ctx context.Context, next PublishFunc, topic string, msgs []*message.Message,
	bad int, first *events.Error, maxBytes int,
) error {
	results := make([]driver.Result, len(msgs))
	valid := make([]*message.Message, 0, len(msgs))
	index := make([]int, 0, len(msgs))
	for i, msg := range msgs {
		var err *events.Error
		switch {
		case i == bad:
			err = first
		case i > bad:
			err = check(msg, maxBytes)
		}
		if err != nil {
			results[i] = driver.Result{Outcome: driver.Rejected, Err: &refusal{err}}
			continue
		}
		valid, index = append(valid, msg), append(index, i)
	}
	backend := validationOrigin
	if len(valid) > 0 {
		err := next(ctx, topic, valid...)
		backend = backendOf(err, backend)
		for j, r := range driver.Results(err, len(valid)) {
			results[index[j]] = r
		}
	}
	return publishError(backend, topic, results)
}

func backendOf(err error, otherwise string) string {
	var pe *driver.PublishError
	if errors.As(err, &pe) {
		return pe.Backend
	}
	return otherwise
}

func check(msg *message.Message, maxBytes int) *events.Error {
	if maxBytes > 0 && len(msg.Payload) > maxBytes {
		return refuse(msg, events.ReasonTooLarge, "", fmt.Errorf("%d bytes: want at most %d", len(msg.Payload), maxBytes))
	}
	if len(msg.Metadata) > MaxHeaders {
		return refuse(msg, events.ReasonTooLarge, "headers", fmt.Errorf("%d: want at most %d", len(msg.Metadata), MaxHeaders))
	}
	n := 0
	for k, v := range msg.Metadata {
		n += len(k) + len(v)
		if n > MaxHeaderBytes {
			return refuse(msg, events.ReasonTooLarge, "headers", fmt.Errorf("want at most %d bytes in all", MaxHeaderBytes))
		}
		if !utf8.ValidString(k) {
			return refuse(msg, events.ReasonInvalid, "headers", errors.New("a name is not UTF-8"))
		}
		if !utf8.ValidString(v) {
			return refuse(msg, events.ReasonInvalid, clip(k, 64), errors.New("the header is not UTF-8"))
		}
	}
	id, ce := msg.Metadata[events.HeaderEventID], msg.Metadata[events.HeaderCEID]
	switch {
	case len(id) > maxEventIDBytes || len(ce) > maxEventIDBytes:
		return refuse(msg, events.ReasonInvalid, events.HeaderEventID, fmt.Errorf("want at most %d bytes", maxEventIDBytes))
	case id != "" && ce != "" && id != ce:
		return refuse(msg, events.ReasonInvalid, events.HeaderCEID, errors.New("differs from "+events.HeaderEventID))
	}
	return nil
}

func refuse(msg *message.Message, r events.Reason, field string, err error) *events.Error {
	return &events.Error{Type: eventTypeOf(msg), Reason: r, Field: field, Err: err}
}

// eventTypeOf returns the type that msg's headers name if it is defined in this
// process, else "".
func eventTypeOf(msg *message.Message) string {
	t := msg.Metadata[events.HeaderEventType]
	if t == "" {
		t = msg.Metadata[events.HeaderCEType]
	}
	if t != "" {
		if d, ok := events.Lookup(t); ok {
			return d.Type
		}
	}
	return ""
}

func checkTopic(s string) *events.Error {
	ok := s != "" && len(s) <= maxTopicBytes && s != "." && s != ".."
	for i := 0; ok && i < len(s); i++ {
		c := s[i]
		ok = c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '.' || c == '_' || c == '-'
	}
	if ok {
		return nil
	}
	return &events.Error{
		Field: "topic", Reason: events.ReasonInvalid,
		Err: fmt.Errorf("%q: want 1 to %d bytes of a-z A-Z 0-9 . _ -", clip(s, 64), maxTopicBytes),
	}
}
