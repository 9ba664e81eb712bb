package middleware

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/aura360/eventbus/events"
)

// MarkKey identifies an event to one handler of one group: the first 16 bytes of
// the SHA-256 of group, handler, source, event id and generation. It is the same
// in every process.
type MarkKey [16]byte

// Marks remembers which events were handled. Two invariants make it:
//
//   - An event is marked only after its handling has succeeded, or the poison
//     queue has it: Done follows the handler, never precedes it.
//   - At most one claim per key is live. Its holder has the only token that Renew,
//     Done and Release accept.
//
// All methods are safe for concurrent use and return soon after ctx ends. An
// error says nothing about the event: it is handled all the same, and may then
// be handled twice.
type Marks interface {
	// Claim takes key for the caller, or tells that it need not. While another
	// claim on key is live, for whatever body, it waits until that one is done or
	// released, its lease runs out, or ctx ends. body is a hash of the event's
	// body.
	Claim(ctx context.Context, key MarkKey, body uint64) (Claim, error)

	// Renew prolongs a claim by the lease. It returns ErrClaimLost when the lease
	// had run out and the claim is somebody else's, or done.
	Renew(ctx context.Context, key MarkKey, token uint64) error

	// Done turns a claim into a mark. Calling it again with the same token after
	// an error is safe. It returns ErrClaimLost as Renew does.
	Done(ctx context.Context, key MarkKey, token uint64) error

	// Release gives a claim back without a mark. One that is not held any more
	// is no error.
	Release(ctx context.Context, key MarkKey, token uint64) error

	// Lease is how long a claim lives without Renew. 0 says that claims live
	// until they are done or released.
	Lease() time.Duration
}

// Claim is what Marks.Claim found.
type Claim struct {
	State ClaimState
	Token uint64 // of a Claimed
}

// ClaimState says whether to handle an event.
type ClaimState uint8

const (
	// Claimed: the caller has the claim, and handles the event.
	Claimed ClaimState = iota
	// AlreadyDone: the event was handled.
	AlreadyDone
	// OtherBody: the key is done, for another body.
	OtherBody
)

// ErrClaimLost is returned for a claim whose lease ran out.
var ErrClaimLost = errors.New("claim lost: its lease ran out")

// headerID returns the event id that msg's headers name, "" when none does.
func headerID(msg *message.Message) string {
	if id := msg.Metadata[events.HeaderEventID]; id != "" {
		return id
	}
	return msg.Metadata[events.HeaderCEID]
}

// eventID returns the id of d's event, from its headers or its body. Watermill's
// UUID is no substitute: it serves debugging, and a foreign producer may use one
// for several messages.
func eventID(d *Delivery) string {
	if id := headerID(d.Msg); id != "" {
		return id
	}
	if e, ok := d.Event.(events.Event); ok {
		return events.BaseOf(e).ID
	}
	return ""
}

// markKey hashes what identifies d's event. Every part is preceded by its
// length: source, id and generation are foreign text.
func markKey(d *Delivery, id string) MarkKey {
	var buf [512]byte
	b := buf[:0]
	for _, s := range [...]string{d.Group, d.Handler, d.Msg.Metadata[events.HeaderCESource], id, d.Msg.Metadata[events.HeaderGeneration]} {
		b = binary.AppendUvarint(b, uint64(len(s)))
		b = append(b, s...)
	}
	sum := sha256.Sum256(b)
	return MarkKey(sum[:16])
}

// with returns the key of the same event id with one particular body.
func (k MarkKey) with(body uint64) MarkKey {
	b := binary.BigEndian.AppendUint64(k[:], body)
	sum := sha256.Sum256(b)
	return MarkKey(sum[:16])
}
