package middleware

import (
	"context"
	"log/slog"
	"math/rand/v2"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
)

// RetryPolicy bounds how often and how long something is tried again. The wait
// before try n+1 is random between 0 and Initial*2^(n-1), at most Max: "full
// jitter", which spreads those that failed together
// (https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/).
type RetryPolicy struct {
	// MaxAttempts is the number of tries in all; negative is no limit. Defaults
	// to 5 for Retry and to no limit for RetryPublish.
	MaxAttempts int
	// Initial and Max bound the waits. Default to 100 ms and 10 s.
	Initial, Max time.Duration
	// MaxElapsed bounds the time from the first try to the start of the last;
	// negative is no limit. Defaults to no limit for Retry and to 15 s for
	// RetryPublish, where it bounds the tries themselves as well.
	MaxElapsed time.Duration
	// MaxAfter is the longest RetryAfter that Retry waits for itself. A longer one
	// ends its tries: it is for Delay. Defaults to no limit.
	MaxAfter time.Duration
	// AttemptTimeout bounds one try of RetryPublish; negative is no limit.
	// Defaults to 5 s. Retry does not look at it: Timeout bounds a handler.
	AttemptTimeout time.Duration
	// Sleep waits for d or until ctx ends, whichever is first, and then returns
	// ctx's error. Defaults to a timer; test harnesses put in one that does not wait.
	Sleep func(ctx context.Context, d time.Duration) error
}

func (p RetryPolicy) withDefaults(maxAttempts int, maxElapsed, attemptTimeout time.Duration) RetryPolicy {
	if p.MaxAttempts == 0 {
		p.MaxAttempts = maxAttempts
	}
	if p.Initial <= 0 {
		p.Initial = 100 * time.Millisecond
	}
	if p.Max <= 0 {
		p.Max = 10 * time.Second
	}
	if p.MaxElapsed == 0 {
		p.MaxElapsed = maxElapsed
	}
	if p.AttemptTimeout == 0 {
		p.AttemptTimeout = attemptTimeout
	}
	if p.Sleep == nil {
		p.Sleep = sleep
	}
	return p
}

// more tells whether the policy allows another try after the given number of
// them, elapsed after the first began, if it began after wait.
func (p RetryPolicy) more(attempts int, elapsed, wait time.Duration) bool {
	return (p.MaxAttempts <= 0 || attempts < p.MaxAttempts) && (p.MaxElapsed <= 0 || elapsed+wait < p.MaxElapsed)
}

// backoff draws the wait after the given number of tries.
func (p RetryPolicy) backoff(attempts int) time.Duration {
	most := p.Max
	if n := attempts - 1; n < 32 {
		if d := p.Initial << n; d > 0 && d>>n == p.Initial && d < most {
			most = d
		}
	}
	return rand.N(most + 1)
}

// sleep waits for d; it returns ctx's error at once when ctx ends first.
func sleep(ctx context.Context, d time.Duration) error {
	if d <= 0 {
		return ctx.Err()
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Retry calls the handler again, in place, until it returns nil, the policy is
// exhausted or the delivery's context ends. Later messages of the same key wait
// meanwhile, which keeps their order; other keys go on. It returns the last error.
//
// It stops at once on Permanent, on an *events.Error (the event's content will
// not change), on Unacked and on a RetryAfter above MaxAfter. RetryAfter sets the wait. The delivery's Attempt,
// FirstFailure and LastFailure tell how it went.
//
// It stands inside Delay and Poison, which take what it gives up, and outside the pieces
// that concern one try: CircuitBreaker, Throttle, Concurrency, Timeout, Recover.
func Retry(p RetryPolicy, log *slog.Logger) message.HandlerMiddleware {
	p = p.withDefaults(5, -1, -1)
	log = orDiscard(log)
	return func(next message.HandlerFunc) message.HandlerFunc {
		return func(msg *message.Message) ([]*message.Message, error) {
			out, err := next(msg)
			if err == nil {
				return out, nil
			}
			d := deliveryOf(msg)
			began := time.Time{} // of this delivery's failures
			for tries := 1; ; tries++ {
				now := d.failed()
				if began.IsZero() {
					began = now
				}
				if mustLeave(d, err) || isFinal(err) {
					return nil, err
				}
				wait, asked := RetryAfterOf(err)
				if !asked {
					wait = p.backoff(tries)
				}
				if asked && p.MaxAfter > 0 && wait > p.MaxAfter || !p.more(tries, now.Sub(began), wait) {
					return nil, err
				}
				log.WarnContext(d, "handler failed, trying again",
					"topic", d.Topic, "group", d.Group, "handler", d.Handler, "event_id", eventID(d),
					"attempt", d.Attempt, "wait", wait, "error", err)
				if p.Sleep(d, wait) != nil {
					return nil, err
				}
				d.Attempt++
				if out, err = next(msg); err == nil {
					return out, nil
				}
			}
		}
	}
}
