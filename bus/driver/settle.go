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

// Settle acks or nacks msg and tells its driver at once. A consumer that asked
// for DirectSettle calls it in place of Ack and Nack, once per message; for a
// driver that does not need to be told it does no more than those.
func Settle(msg *message.Message, ack bool) {
	// The context is read first: a driver may end or replace it on the ack.
	settled, _ := msg.Context().Value(settleKey{}).(func(bool))
	if ack {
		ack = msg.Ack()
	} else {
		ack = !msg.Nack()
	}
	if settled != nil {
		settled(ack)
	}
}
