package middleware

import (
	"context"
	"fmt"
	"strconv"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/aura360/eventbus/events"
)

// DelaySink puts msg, made by ParkedMessage, into group's retry topic for delay.
// It returns nil only when the topic has it, confirmed, and an error that wraps
// driver.ErrPermanent when the broker will never take it.
type DelaySink func(ctx context.Context, group string, delay time.Duration, msg *message.Message) error

// Parked is what a message in a retry topic tells about the tries it had.
type Parked struct {
	// Due is when its topic lets go of it: the messages of one retry topic come
	// due in the order in which they stand in it.
	Due time.Time
	// NotBefore is when it may be tried; later than Due when a RetryAfter asked
	// for more than the ladder's longest delay.
	NotBefore time.Time
	// Step is how many delays of the ladder it has used, this one included.
	Step int
	// Attempts is how many tries failed, First when the first of them did.
	Attempts int
	First    time.Time
	// Group, Handler and Topic say whose tries those were.
	Group, Handler, Topic string
	// Error is the text of the last try's error.
	Error string
}

var parkedHeaders = []string{
	events.HeaderRetryDue, events.HeaderRetryNotBefore, events.HeaderRetryStep, events.HeaderRetryAttempts,
	events.HeaderRetryFirst, events.HeaderRetryGroup, events.HeaderRetryHandler, events.HeaderRetryTopic,
	events.HeaderRetryError,
}

// ParkedMessage returns the message that a retry topic keeps for msg: its UUID,
// key, payload and headers, and beside them what p says. msg is not changed; the
// payload is shared with it.
func ParkedMessage(msg *message.Message, p Parked) *message.Message {
	uuid := msg.UUID
	if uuid == "" {
		uuid = events.NewID()
	}
	out := message.NewMessage(uuid, msg.Payload)
	for k, v := range msg.Metadata {
		out.Metadata[k] = v
	}
	StripParked(out)
	out.Metadata[events.HeaderRetryDue] = events.FormatTime(p.Due)
	if p.NotBefore.After(p.Due) {
		out.Metadata[events.HeaderRetryNotBefore] = events.FormatTime(p.NotBefore)
	}
	out.Metadata[events.HeaderRetryStep] = strconv.Itoa(p.Step)
	out.Metadata[events.HeaderRetryAttempts] = strconv.Itoa(p.Attempts)
	out.Metadata[events.HeaderRetryFirst] = events.FormatTime(p.First)
	out.Metadata[events.HeaderRetryGroup] = p.Group
	out.Metadata[events.HeaderRetryHandler] = p.Handler
	out.Metadata[events.HeaderRetryTopic] = p.Topic
	out.Metadata[events.HeaderRetryError] = clip(p.Error, maxPoisonTextBytes)
	return out
}

// ReadParked returns what ParkedMessage wrote. The error names the header that
// is missing or makes no sense.
func ReadParked(msg *message.Message) (Parked, error) {
	p := Parked{
		Group: msg.Metadata[events.HeaderRetryGroup], Handler: msg.Metadata[events.HeaderRetryHandler],
		Topic: msg.Metadata[events.HeaderRetryTopic], Error: msg.Metadata[events.HeaderRetryError],
	}
	var err error
	bad := func(name string) {
		if err == nil {
			err = fmt.Errorf("header %s is missing or makes no sense", name)
		}
	}
	instant := func(name string, optional bool) (t time.Time) {
		value := msg.Metadata[name]
		if value == "" && optional {
			return t
		}
		t, perr := events.ParseTime(value)
		if perr != nil {
			bad(name)
		}
		return t
	}
	number := func(name string) int {
		n, perr := strconv.Atoi(msg.Metadata[name])
		if perr != nil || n < 1 || n > 1<<30 {
			bad(name)
		}
		return n
	}
	p.Due, p.NotBefore = instant(events.HeaderRetryDue, false), instant(events.HeaderRetryNotBefore, true)
	p.Step, p.Attempts = number(events.HeaderRetryStep), number(events.HeaderRetryAttempts)
	p.First = instant(events.HeaderRetryFirst, false)
	return p, err
}

// StripParked takes off what ParkedMessage added: handlers see the message as it
// was.
func StripParked(msg *message.Message) {
	for _, name := range parkedHeaders {
		delete(msg.Metadata, name)
	}
}
