package driver

import (
	"errors"
	"fmt"
)

var (
	// ErrClosed is returned after Close.
	ErrClosed = errors.New("closed")
	// ErrPermanent marks a failure that trying again cannot mend: a message too
	// large for the broker, an invalid topic.
	ErrPermanent = errors.New("permanent")
	// ErrNotSent is the error of a message that was not sent because an earlier
	// one of the same call failed.
	ErrNotSent = errors.New("not sent: an earlier message of the batch failed")
	// ErrUnavailable marks a failure to reach the broker at all.
	ErrUnavailable = errors.New("broker unavailable")
)

// PublishError tells what became of each message of a Publish that did not go
// well as a whole.
type PublishError struct {
	Backend string
	Topic   string
	Results []Result // one per message, in the order given
}

// Error names the first failure and counts the rest.
func (e *PublishError) Error() string {
	var first error
	var rejected, unknown int
	for _, r := range e.Results {
		switch r.Outcome {
		case Rejected:
			rejected++
		case Unknown:
			unknown++
		default:
			continue
		}
		if first == nil {
			first = r.Err
		}
	}
	if len(e.Results) == 1 {
		return fmt.Sprintf("%s: publish to %s: %v: %v", e.Backend, e.Topic, e.Results[0].Outcome, first)
	}
	return fmt.Sprintf("%s: publish to %s: of %d messages %d rejected, %d unknown: %v",
		e.Backend, e.Topic, len(e.Results), rejected, unknown, first)
}

// Unwrap returns the errors of the messages that failed.
func (e *PublishError) Unwrap() []error {
	var out []error
	for _, r := range e.Results {
		if r.Err != nil {
			out = append(out, r.Err)
		}
	}
	return out
}

// Fail returns the error of a Publish of n messages that all failed alike.
func Fail(backend, topic string, n int, o Outcome, err error) *PublishError {
	e := &PublishError{Backend: backend, Topic: topic, Results: make([]Result, n)}
	for i := range e.Results {
		e.Results[i] = Result{Outcome: o, Err: err}
	}
	return e
}

// Results returns the outcome of each of n messages of a Publish that returned
// err. An error that is no *PublishError says nothing certain: all are Unknown.
func Results(err error, n int) []Result {
	if err == nil {
		return make([]Result, n)
	}
	var pe *PublishError
	if errors.As(err, &pe) && len(pe.Results) == n {
		return pe.Results
	}
	out := make([]Result, n)
	for i := range out {
		out[i] = Result{Outcome: Unknown, Err: err}
	}
	return out
}
