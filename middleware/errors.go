package middleware

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/aura360/eventbus/bus/driver"
	"github.com/aura360/eventbus/events"
)

type permanentError struct{ err error }

func (e *permanentError) Error() string { return e.err.Error() }
func (e *permanentError) Unwrap() error { return e.err }

// Permanent says that handling the same message again is useless: it goes to
// the poison queue at once, with events.ReasonPermanent. Permanent(nil) is nil.
func Permanent(err error) error {
	if err == nil {
		return nil
	}
	return &permanentError{err}
}

// IsPermanent tells whether err or one that it wraps came from Permanent.
func IsPermanent(err error) bool {
	var p *permanentError
	return errors.As(err, &p)
}

type retryAfterError struct {
	after time.Duration
	err   error
}

func (e *retryAfterError) Error() string { return e.err.Error() }
func (e *retryAfterError) Unwrap() error { return e.err }

// RetryAfter asks for the next try after d, in place of the policy's own wait;
// a negative d is 0. The try counts as any other. The message keeps its
// in-flight slot and its key meanwhile, unless d is above RetryPolicy.MaxAfter:
// then Delay, if it is there, puts the message off for d or longer.
// RetryAfter(d, nil) is nil.
func RetryAfter(d time.Duration, err error) error {
	if err == nil {
		return nil
	}
	return &retryAfterError{max(d, 0), err}
}

// RetryAfterOf returns the wait that err asks for with RetryAfter.
func RetryAfterOf(err error) (time.Duration, bool) {
	var r *retryAfterError
	if errors.As(err, &r) {
		return r.after, true
	}
	return 0, false
}

type unackedError struct{ err error }

func (e *unackedError) Error() string { return e.err.Error() }
func (e *unackedError) Unwrap() error { return e.err }

// Unacked says that the message must be left to be delivered again, whatever
// its error is: Retry does not try again and Poison does not poison. It is for
// pieces that cannot decide about the message, such as Poison itself when its
// sink failed. Unacked(nil) is nil.
func Unacked(err error) error {
	if err == nil {
		return nil
	}
	return &unackedError{err}
}

// mustLeave tells whether a delivery that failed with err says nothing about
// the message: it was stopped, or a piece said so.
func mustLeave(ctx context.Context, err error) bool {
	var u *unackedError
	return ctx.Err() != nil || errors.As(err, &u) ||
		// The handler published on a bus that is being closed.
		errors.Is(err, driver.ErrClosed)
}

// isFinal tells whether trying again cannot mend err. An *events.Error is about
// the event's content, which stays what it is.
func isFinal(err error) bool {
	if IsPermanent(err) {
		return true
	}
	var pe *driver.PublishError
	if errors.As(err, &pe) {
		for _, r := range pe.Results {
			if r.Err != nil && !errors.Is(r.Err, driver.ErrPermanent) {
				return false
			}
		}
		return true
	}
	return events.ReasonOf(err) != ""
}

// reasonOf says in one word why a message with this final error is given up.
func reasonOf(err error) events.Reason {
	var p *PanicError
	if errors.As(err, &p) {
		return events.ReasonPanic
	}
	if r := events.ReasonOf(err); r != "" {
		return r
	}
	if IsPermanent(err) {
		return events.ReasonPermanent
	}
	var pe *driver.PublishError
	if errors.As(err, &pe) && errors.Is(err, driver.ErrPermanent) {
		return events.ReasonRejected
	}
	return events.ReasonExhausted
}

// PanicError is a panic that became an error. Its text names the value's type;
// the value itself only when it is an error or a string, and cut: a panic may
// carry the event's data.
type PanicError struct {
	Value any
	Stack []byte // of the panicking goroutine
}

func (e *PanicError) Error() string {
	const most = 200 // bytes
	switch v := e.Value.(type) {
	case error:
		return fmt.Sprintf("panic: %T: %s", v, clip(safeText(v.Error), most))
	case string:
		return "panic: " + clip(v, most)
	default:
		return fmt.Sprintf("panic: value of type %T", v)
	}
}

// Unwrap returns the value when it is an error.
func (e *PanicError) Unwrap() error {
	err, _ := e.Value.(error)
	return err
}

// safeText calls f, which belongs to a value that something panicked with and
// may do so again.
func safeText(f func() string) (s string) {
	defer func() {
		if recover() != nil {
			s = "(its Error method panics)"
		}
	}()
	return f()
}
