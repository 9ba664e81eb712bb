package bus

import (
	"errors"
	"fmt"
	"strings"

	"github.com/aura360/eventbus/bus/driver"
)

var (
	// ErrNotAccepted: the event was not accepted and can not appear. Publishing
	// it again is safe.
	ErrNotAccepted = errors.New("event not accepted")
	// ErrUnknown: the event may or may not appear, now or later: the broker's
	// answer was lost. Publishing it again is safe with the same id (set
	// Base.ID to the error's ID): consumers drop the copy.
	ErrUnknown = errors.New("event may have been accepted")
	// ErrClosed: the bus is closed. Such a publish is also ErrNotAccepted.
	ErrClosed = errors.New("bus is closed")
)

// PublishError tells why one event was not confirmed. errors.Is finds either
// ErrNotAccepted or ErrUnknown in it, and what it wraps.
type PublishError struct {
	ID      string // the event's id; "" when the event was refused before it got one
	Type    string // event type, "" when it is not defined
	Topic   string
	Backend string
	Unknown bool  // ErrUnknown rather than ErrNotAccepted
	Err     error // the cause
	Hint    string
}

func (e *PublishError) Error() string {
	var b strings.Builder
	b.WriteString("publish")
	if e.Type != "" {
		fmt.Fprintf(&b, " %s", e.Type)
	}
	if e.ID != "" {
		fmt.Fprintf(&b, " %s", e.ID)
	}
	fmt.Fprintf(&b, " to %s", e.Backend)
	if e.Topic != "" {
		fmt.Fprintf(&b, " topic %s", e.Topic)
	}
	fmt.Fprintf(&b, ": %v: %v", e.class(), e.Err)
	if e.Hint != "" {
		fmt.Fprintf(&b, " (%s)", e.Hint)
	}
	return b.String()
}

func (e *PublishError) class() error {
	if e.Unknown {
		return ErrUnknown
	}
	return ErrNotAccepted
}

// Unwrap returns the class, ErrNotAccepted or ErrUnknown, and the cause.
func (e *PublishError) Unwrap() []error { return []error{e.class(), e.Err} }

// BatchError tells the outcome of every event of a PublishAll that did not go
// well as a whole.
type BatchError struct {
	// Errors has one entry per event, in the order given: nil for a confirmed
	// event, else a *PublishError.
	Errors []error
}

func (e *BatchError) Error() string {
	var first error
	failed := 0
	for _, err := range e.Errors {
		if err != nil {
			if failed++; first == nil {
				first = err
			}
		}
	}
	return fmt.Sprintf("%d of %d events not confirmed; the first: %v", failed, len(e.Errors), first)
}

// Unwrap returns the errors of the events that were not confirmed.
func (e *BatchError) Unwrap() []error {
	var out []error
	for _, err := range e.Errors {
		if err != nil {
			out = append(out, err)
		}
	}
	return out
}

// hint says what to do about err, "" when there is nothing more to say.
func hint(err error) string {
	switch {
	case errors.Is(err, driver.ErrUnavailable):
		return "does the broker run, and are its address, its credentials and its TLS settings right?"
	case errors.Is(err, driver.ErrPermanent):
		return "publishing it again will not help"
	}
	return ""
}
