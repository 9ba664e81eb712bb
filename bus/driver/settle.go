package driver

import (
	"context"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
)

type settleKey struct{}

// WithSettle returns a context, for a driver to give to a message, through
// which Settle reaches the driver.
func WithSettle(ctx context.Context, settled func(acked bool)) context.Context {
	return context.WithValue(ctx, settleKey{}, settled)
}

// Settler is what a driver may give out instead of a function, as the value of
// the key that IsSettleKey recognises: a context of its own that is a Settler
// saves two allocations per message.
type Settler interface {
	Settled(acked bool)
}

// Deferrer is a Settler that can wait longer with a nacked message than it would
// by itself.
type Deferrer interface {
	Settler
	// SettledLater takes note of a nack. The message is delivered again, before
	// later ones of its key, once d has passed; messages of other keys go on.
	SettledLater(d time.Duration)
}

// IsSettleKey reports whether key asks a message's context for its Settler.
func IsSettleKey(key any) bool {
	_, ok := key.(settleKey)
	return ok
}

// Settle acks or nacks msg and tells its driver at once. A consumer that asked
// for DirectSettle calls it in place of Ack and Nack, once per message; for a
// driver that does not need to be told it does no more than those.
func Settle(msg *message.Message, ack bool) {
	// The context is read first: a driver may end or replace it on the ack.
	settler := msg.Context().Value(settleKey{})
	if ack {
		ack = msg.Ack()
	} else {
		ack = !msg.Nack()
	}
	switch s := settler.(type) {
	case Settler:
		s.Settled(ack)
	case func(bool):
		s(ack)
	}
}

// CanSettleLater reports whether msg's driver can do what SettleLater asks for.
func CanSettleLater(msg *message.Message) bool {
	_, can := msg.Context().Value(settleKey{}).(Deferrer)
	return can
}

// SettleLater nacks msg and asks that it is not delivered again before d has
// passed, while messages of other keys go on. It reports whether the driver can:
// else it was an ordinary nack, and the message comes when the driver sees fit.
// It is called in place of Settle, by a consumer that asked for DirectSettle.
func SettleLater(msg *message.Message, d time.Duration) bool {
	settler := msg.Context().Value(settleKey{})
	if later, ok := settler.(Deferrer); ok && msg.Nack() {
		later.SettledLater(d)
		return true
	}
	Settle(msg, false)
	return false
}
