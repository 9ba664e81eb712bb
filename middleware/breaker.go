package middleware

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/sony/gobreaker/v2"
)

// BreakerConfig configures a CircuitBreaker.
type BreakerConfig struct {
	// Name appears in the log. Defaults to "handler".
	Name string
	// Failures in a row that open the breaker. Defaults to 5.
	Failures int
	// OpenFor is how long nothing is tried once it opened. Defaults to 10 s.
	OpenFor time.Duration
	// Probes is how many tries may run at a time after OpenFor, and how many must
	// succeed in a row to close the breaker. Defaults to 1.
	Probes int
	// Log gets one line per change of state. Defaults to none.
	Log *slog.Logger
}

// CircuitBreaker stops calling a handler that keeps failing, because what it
// needs is down. While it is open, messages wait: the in-flight window fills and
// consuming pauses. Nothing is nacked, no try is used up, nothing is poisoned.
// After OpenFor, Probes messages are tried; their success closes the breaker.
//
// What is wrong with one message (Permanent, an *events.Error) and what ended
// because the delivery was stopped is not counted. A wait ends with the
// delivery, and the message then stays unacked.
//
// It stands inside Retry: outside, one message's tries would count as one
// failure and an open breaker would use them up. And outside Timeout.
func CircuitBreaker(cfg BreakerConfig) message.HandlerMiddleware {
	b := newBreaker(cfg)
	return func(next message.HandlerFunc) message.HandlerFunc {
		return func(msg *message.Message) (out []*message.Message, err error) {
			d := deliveryOf(msg)
			done, err := b.enter(d)
			if err != nil {
				return nil, Unacked(err)
			}
			err = errAborted // a panic, or a goroutine that ends in the handler
			defer func() { b.leave(d, done, err) }()
			return next(msg)
		}
	}
}

var (
	errAborted  = errors.New("handler did not return")
	errExcluded = errors.New("not the breaker's concern")
)

type breaker struct {
	two *gobreaker.TwoStepCircuitBreaker[struct{}]

	mu        sync.Mutex
	changed   chan struct{} // closed when a waiting message should look again
	openUntil time.Time
}

func newBreaker(cfg BreakerConfig) *breaker {
	if cfg.Name == "" {
		cfg.Name = "handler"
	}
	if cfg.Failures <= 0 {
		cfg.Failures = 5
	}
	if cfg.OpenFor <= 0 {
		cfg.OpenFor = 10 * time.Second
	}
	cfg.Probes = max(cfg.Probes, 1)
	log := orDiscard(cfg.Log)
	b := &breaker{changed: make(chan struct{})}
	b.two = gobreaker.NewTwoStepCircuitBreaker[struct{}](gobreaker.Settings{
		Name:        cfg.Name,
		MaxRequests: uint32(min(cfg.Probes, 1<<20)),
		Timeout:     cfg.OpenFor,
		ReadyToTrip: func(c gobreaker.Counts) bool { return c.ConsecutiveFailures >= uint32(min(cfg.Failures, 1<<30)) },
		IsExcluded:  func(err error) bool { return errors.Is(err, errExcluded) },
		// Called under the breaker's own lock, which is never taken under mu.
		OnStateChange: func(name string, from, to gobreaker.State) {
			if to == gobreaker.StateOpen {
				// The millisecond is for the breaker, which turns half-open after
				// its timeout, not at it.
				b.wake(time.Now().Add(cfg.OpenFor + time.Millisecond))
				log.Warn("circuit breaker opened, consuming pauses", "breaker", name, "was", from.String(), "wait", cfg.OpenFor)
				return
			}
			b.wake(time.Time{})
			log.Info("circuit breaker changed", "breaker", name, "was", from.String(), "now", to.String())
		},
	})
	return b
}

// wake makes all that wait look again, and sets when the breaker tries next.
func (b *breaker) wake(openUntil time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.openUntil = openUntil
	close(b.changed)
	b.changed = make(chan struct{})
}

// enter waits until the breaker lets a try through or ctx ends.
func (b *breaker) enter(ctx context.Context) (done func(error), err error) {
	for {
		// Read before asking: a change in between closes this very channel.
		b.mu.Lock()
		changed := b.changed
		b.mu.Unlock()
		if done, err = b.two.Allow(); err == nil {
			return done, nil
		}
		var until <-chan time.Time
		var timer *time.Timer
		if errors.Is(err, gobreaker.ErrOpenState) {
			b.mu.Lock()
			timer = time.NewTimer(max(time.Until(b.openUntil), time.Millisecond))
			b.mu.Unlock()
			until = timer.C
		}
		select {
		case <-changed:
		case <-until:
		case <-ctx.Done():
			err = context.Cause(ctx)
		}
		if timer != nil {
			timer.Stop()
		}
		if ctx.Err() != nil {
			return nil, err
		}
	}
}

func (b *breaker) leave(ctx context.Context, done func(error), err error) {
	if err != nil && (mustLeave(ctx, err) || isFinal(err)) {
		err = errExcluded
	}
	done(err)
	if b.two.State() == gobreaker.StateHalfOpen {
		// The place of an excluded probe is free again without a change of state.
		b.wake(time.Time{})
	}
}
