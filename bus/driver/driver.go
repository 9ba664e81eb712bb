// Package driver is the seam between the bus and a broker: what a backend must
// do (Backend, Subscriber) and what only some can (the optional interfaces in
// optional.go). Applications do not use it; someone who writes a backend does,
// and proves it with package drivertest.
//
// The division of labour: a driver sends, fetches and acknowledges. The bus
// above it encodes, retries, measures, traces, deduplicates and gives up. So a
// driver does not retry a publish, does not log an error that it returns, and
// knows no middleware.
//
// Messages are Watermill's. Three things are added, all in metadata:
//
//   - events.HeaderKey is the partition key (see Key). On Kafka it becomes the
//     record's key; a driver sets it again on what it delivers.
//   - events.HeaderMalformed is set by a driver on something it could not read
//     as a message. It is delivered all the same, with the bytes there are, so
//     that the middle can put it into the poison queue and go on.
//   - everything else is carried as it is.
package driver

import (
	"context"
	"fmt"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/aura360/eventbus/events"
)

// Backend is one broker, or a thing that acts as one. All methods are safe for
// concurrent use.
//
// Opening a backend succeeds while its broker is down: it connects in the
// background, and Ping tells.
type Backend interface {
	// Name is the value of MESSAGING_BACKEND: "kafka", "redis", "memory", ...
	Name() string

	// Capabilities tells what holds for messages on this backend. It never
	// blocks and never changes.
	Capabilities() Capabilities

	// Publish sends msgs to topic, in order, and returns nil only when the
	// broker has confirmed all of them. Otherwise the error is a *PublishError
	// with one Result per message. It blocks until every outcome is known or
	// ctx ends; what was sent and not confirmed by then is Unknown. It does not
	// retry. Messages with the same key that are confirmed stand in the topic in
	// the order given, also across concurrent calls that were ordered by the
	// caller. msgs are not changed and not kept.
	//
	// A topic that is missing is created first, as the backend was configured.
	// After Close every message is Rejected with ErrClosed.
	Publish(ctx context.Context, topic string, msgs ...*message.Message) error

	// Subscriber returns a new consumer of group. It does no I/O. The bus asks
	// for one per router.
	Subscriber(group string, opts SubscriberOptions) (Subscriber, error)

	// Ping does one round trip to the broker, bounded by ctx.
	Ping(ctx context.Context) error

	// Close stops accepting messages, waits for those being sent until ctx
	// ends, closes the subscribers that are still open, and releases
	// everything. Calling it again does nothing and returns nil.
	Close(ctx context.Context) error
}

// Subscriber consumes topics for one group. It is a Watermill subscriber that
// can also be stopped without losing what is being handled.
type Subscriber interface {
	// Subscribe delivers the topic's messages to the channel. A group that never
	// read the topic starts at its oldest message. It returns an error only when
	// the subscriber is closed or the topic's name impossible: a broker that
	// cannot be reached, restarts or loses the group is tried again for ever, and
	// State tells.
	//
	// Of one key, at most one message is unacked at a time, and later ones are
	// delivered after it was acked. A nacked message is delivered again, before
	// later ones of its key, after a pause that grows to seconds.
	//
	// The context of a message lives until the message has been acked or nacked
	// and the driver has taken note, or the subscriber closes. The channel is
	// closed after Drain, after Close and when ctx ends; a ctx that ends drops
	// what is unacked, as Close does.
	Subscribe(ctx context.Context, topic string) (<-chan *message.Message, error)

	// Drain stops fetching, closes the channels at once, and waits until every
	// message that was delivered is acked or nacked and the broker has taken
	// the acks, or ctx ends. What was fetched and not delivered goes to another
	// member or the next start. Close must still be called.
	Drain(ctx context.Context) error

	// Close ends the contexts of delivered messages, drops what is unacked (it
	// is delivered again to the next subscriber of the group) and releases
	// everything. Calling it again does nothing and returns nil.
	Close() error

	// State tells how each subscription is, by topic. It never blocks.
	State() map[string]SubscriptionState
}

// SubscriptionState is the condition of one subscription.
type SubscriptionState struct {
	Connected    bool   // reading from the broker now
	Resubscribed int    // times it had to start again
	LastError    string // the last reason; "" when there was none. No secrets, no payload
}

// SubscriberOptions are what the bus asks of a consumer.
type SubscriberOptions struct {
	// Instance names this process among the group's members. Defaults to a
	// random name.
	Instance string
	// MaxInFlight bounds the unacked messages, 1 to 10000. Defaults to 256. A
	// backend whose Capabilities say SingleInFlight has one per partition.
	MaxInFlight int
	// DirectSettle promises that the consumer calls Settle for every message,
	// after Ack or Nack. It saves the driver a goroutine per message.
	DirectSettle bool
}

// Capabilities is what holds on a backend. docs/backends.md shows them as a table.
type Capabilities struct {
	// Durable: what was confirmed survives the end of this process.
	Durable bool
	// Groups: each group gets every message, the members of one share them.
	Groups bool
	// OrderedPerKey: messages of one key are handled in order with any number
	// of members in the group.
	OrderedPerKey bool
	// OrderedSingleMember: the same, but only while the group has one member.
	OrderedSingleMember bool
	// ParallelKeys: messages of different keys are handled in parallel, up to
	// MaxInFlight; otherwise one per partition.
	ParallelKeys bool
	// CrossProcess: other processes see the messages.
	CrossProcess bool
	// MaxMessageBytes the backend takes by itself, 0 for no limit of its own.
	MaxMessageBytes int
	// Discards: publishing succeeds and nothing is ever delivered.
	Discards bool
}

// Key returns the partition key of msg, "" when it has none.
func Key(msg *message.Message) string { return msg.Metadata[events.HeaderKey] }

// Outcome is what became of one message of a Publish.
type Outcome uint8

const (
	// Confirmed: the broker has it.
	Confirmed Outcome = iota
	// Rejected: it is not in the broker and will never appear there.
	Rejected
	// Unknown: it may be in the broker, or appear there later.
	Unknown
)

func (o Outcome) String() string {
	switch o {
	case Confirmed:
		return "confirmed"
	case Rejected:
		return "rejected"
	case Unknown:
		return "unknown"
	}
	return fmt.Sprintf("Outcome(%d)", uint8(o))
}

// Result is the outcome of one message. Err is nil exactly when Confirmed. It
// is or wraps ErrPermanent when sending the same message again is useless.
type Result struct {
	Outcome Outcome
	Err     error
}
