package middleware

import (
	"context"
	"errors"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"golang.org/x/time/rate"
)

// ErrTimeout is the cause of the context that Timeout gives a handler.
var ErrTimeout = errors.New("handler timed out")

// Timeout gives each try a context that ends after d, with ErrTimeout as its
// cause, and puts the message's own context back afterwards. d of 0 or less is
// no limit. A handler that does not look at its context is not stopped by it.
//
// It stands inside Retry, so that every try has the whole of d, and inside the
// pieces that wait (CircuitBreaker, Throttle, Concurrency), so that waiting for
// a turn is not taken for a slow handler.
func Timeout(d time.Duration) message.HandlerMiddleware {
	return func(next message.HandlerFunc) message.HandlerFunc {
		if d <= 0 {
			return next
		}
		return func(msg *message.Message) ([]*message.Message, error) {
			before := msg.Context()
			ctx, cancel := context.WithTimeoutCause(before, d, ErrTimeout)
			defer func() {
				cancel()
				msg.SetContext(before)
			}()
			msg.SetContext(ctx)
			return next(msg)
		}
	}
}

// Throttle lets perSecond tries begin per second, and burst (at least 1) at
// once. The others wait, in turn, which fills the in-flight window and so slows
// the fetching down. perSecond of 0 or less is no limit. A wait ends with the
// delivery, and the message then stays unacked.
//
// It stands inside Retry, so that repeated tries count, and outside Timeout.
func Throttle(perSecond float64, burst int) message.HandlerMiddleware {
	limit := rate.NewLimiter(rate.Limit(perSecond), max(burst, 1))
	return func(next message.HandlerFunc) message.HandlerFunc {
		if perSecond <= 0 {
			return next
		}
		return func(msg *message.Message) ([]*message.Message, error) {
			d := deliveryOf(msg)
			// Not limit.Wait: it refuses at once what a deadline would not let wait.
			turn := limit.Reserve()
			if wait := turn.Delay(); wait > 0 && sleep(d, wait) != nil {
				turn.Cancel()
				return nil, Unacked(context.Cause(d))
			}
			return next(msg)
		}
	}
}

// Concurrency lets n tries run at a time; the others wait. n of 0 or less is no
// limit. A wait ends with the delivery, and the message then stays unacked.
//
// It stands inside Retry, so that a message that waits for its next try holds no
// place, and outside Timeout.
func Concurrency(n int) message.HandlerMiddleware {
	var places chan struct{}
	if n > 0 {
		places = make(chan struct{}, n)
	}
	return func(next message.HandlerFunc) message.HandlerFunc {
		if places == nil {
			return next
		}
		return func(msg *message.Message) ([]*message.Message, error) {
			select {
			case places <- struct{}{}:
			default:
				d := deliveryOf(msg)
				select {
				case places <- struct{}{}:
				case <-d.Done():
					return nil, Unacked(context.Cause(d))
				}
			}
			defer func() { <-places }()
			return next(msg)
		}
	}
}
