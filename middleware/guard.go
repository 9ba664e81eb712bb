package middleware

import (
	"log/slog"
	"runtime/debug"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/aura360/eventbus/bus/driver"
)

// Guard is the outermost piece. A panic in the chain itself, or in a handler
// when Recover is left out, is logged with its stack and becomes an error, so
// that the message stays unacked and the process goes on.
//
// After the chain it settles the message, so that a driver opened with
// driver.SubscriberOptions.DirectSettle knows at once. The router acks or nacks
// the same way right after, which then does nothing.
//
// When the handler returns messages for Watermill's router to publish, Guard
// leaves the decision to the router, which acks only once they are out, and
// tells the driver when it has.
func Guard(log *slog.Logger) message.HandlerMiddleware {
	log = orDiscard(log)
	return func(next message.HandlerFunc) message.HandlerFunc {
		return func(msg *message.Message) (out []*message.Message, err error) {
			// Not a named function: only the deferred function may recover.
			defer func() {
				if v := recover(); v != nil {
					p := &PanicError{Value: v, Stack: debug.Stack()}
					out, err = nil, p
					d := deliveryOf(msg)
					log.Error("panic in the subscribe chain, message left unacked",
						"topic", d.Topic, "group", d.Group, "handler", d.Handler,
						"event_id", eventID(d), "error", p, "stack", string(p.Stack))
				}
				if len(out) > 0 && err == nil {
					go settleAfterRouter(msg)
					return
				}
				if later := deliveryOf(msg).later; err != nil && later > 0 {
					driver.SettleLater(msg, later)
					return
				}
				driver.Settle(msg, err == nil)
			}()
			return next(msg)
		}
	}
}

// settleAfterRouter ends when the router has published what the handler
// returned: it acks or nacks in every case.
func settleAfterRouter(msg *message.Message) {
	select {
	case <-msg.Acked():
		driver.Settle(msg, true)
	case <-msg.Nacked():
		driver.Settle(msg, false)
	}
}

// Recover turns a handler's panic into a *PanicError. It stands inside Retry,
// so that a panic is tried again as any other error is, and then poisoned with
// events.ReasonPanic; and inside Timeout, right around the handler.
func Recover() message.HandlerMiddleware {
	return func(next message.HandlerFunc) message.HandlerFunc {
		return func(msg *message.Message) (out []*message.Message, err error) {
			defer func() {
				if v := recover(); v != nil {
					out, err = nil, &PanicError{Value: v, Stack: debug.Stack()}
				}
			}()
			return next(msg)
		}
	}
}
