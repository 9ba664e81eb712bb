package middleware

import (
	"context"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/aura360/eventbus/events"
)

// Outcome is what became of a delivered message. The set is closed.
type Outcome string

// Outcomes.
const (
	OutcomeHandled   Outcome = "handled"   // the handler returned nil
	OutcomeDuplicate Outcome = "duplicate" // handled before; acked without handling
	OutcomeIgnored   Outcome = "ignored"   // no handler here for its type, or meant for another group
	OutcomePoisoned  Outcome = "poisoned"  // the poison queue has it
	OutcomeParked    Outcome = "parked"    // failed; waits for a delayed retry
	OutcomeUnacked   Outcome = "unacked"   // left to be delivered again
)

// Delivery is one message on its way through the subscribe chain. It is the
// message's context, so that one allocation serves both: DeliveryFrom finds it
// in the context of the message and in every context made from that one.
//
// It belongs to the goroutine that handles the message and must not be used
// after the handler returned.
type Delivery struct {
	context.Context // the driver's context of the message, with what Trace adds

	Msg *message.Message

	// Backend, Group and Topic name where the message was read. They serve as
	// metric labels, so each comes from a small closed set.
	Backend, Group, Topic string
	// Handler is the handler's name, "" until the message was dispatched.
	Handler string
	// EventType is the name of a defined event type or "", never a string that
	// only the message vouches for: it is a metric label.
	EventType string
	// Event is the decoded event, nil for a handler of raw messages.
	Event any

	// Attempt is the number of the running try, from 1. Tries before a delayed
	// retry count too.
	Attempt int
	// Step is how many delays of Delay's ladder the message has been through.
	Step int
	// FirstFailure and LastFailure are when a try first and last failed.
	FirstFailure, LastFailure time.Time

	// Outcome is set by the piece that decides it, and read by Trace and Measure
	// after the chain. Left empty it is handled or, with an error, unacked.
	Outcome Outcome
	// Reason is why the message was poisoned.
	Reason events.Reason

	// MarksFailed says that the store of marks failed: the message was handled
	// without its protection and may be handled twice.
	MarksFailed bool
	// OtherBody says that the same event id came before with another body.
	OtherBody bool

	// resumed is how many tries a delayed retry came with.
	resumed int
	// later is how long its driver shall keep the message, which is left unacked.
	later time.Duration
}

type deliveryKey struct{}

// Begin makes msg a delivery: the result becomes its context. The router calls
// it once per message, before the chain.
func Begin(msg *message.Message, backend, group, topic string) *Delivery {
	d := &Delivery{Context: msg.Context(), Msg: msg, Backend: backend, Group: group, Topic: topic, Attempt: 1}
	msg.SetContext(d)
	return d
}

// Resume makes d the next delivery of a message that waited for a delayed retry.
// The router calls it right after Begin.
func (d *Delivery) Resume(p Parked) {
	d.Handler, d.Step, d.FirstFailure = p.Handler, p.Step, p.First
	d.Attempt, d.resumed = p.Attempts+1, p.Attempts
}

// failed notes that a try failed now.
func (d *Delivery) failed() time.Time {
	now := time.Now()
	if d.FirstFailure.IsZero() {
		d.FirstFailure = now
	}
	d.LastFailure = now
	return now
}

// DeliveryFrom returns the delivery that ctx belongs to, nil outside a handler.
func DeliveryFrom(ctx context.Context) *Delivery {
	d, _ := ctx.Value(deliveryKey{}).(*Delivery)
	return d
}

// Detach returns a context that belongs to no delivery: what is published with it
// has no cause.
func Detach(ctx context.Context) context.Context {
	return context.WithValue(ctx, deliveryKey{}, (*Delivery)(nil))
}

// Value returns the delivery itself for DeliveryFrom, and else what the
// driver's context holds.
func (d *Delivery) Value(key any) any {
	if _, ok := key.(deliveryKey); ok {
		return d
	}
	return d.Context.Value(key)
}

// deliveryOf returns msg's delivery. One that did not come through Begin, in a
// plain Watermill router, gets one that knows what Watermill's context tells.
func deliveryOf(msg *message.Message) *Delivery {
	ctx := msg.Context()
	if d, ok := ctx.(*Delivery); ok {
		return d
	}
	if d := DeliveryFrom(ctx); d != nil {
		return d
	}
	d := Begin(msg, "", "", message.SubscribeTopicFromCtx(ctx))
	d.Handler = message.HandlerNameFromCtx(ctx)
	return d
}
