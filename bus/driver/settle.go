package driver

import (
	"context"

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
