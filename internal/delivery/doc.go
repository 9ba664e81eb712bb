// Package delivery is what the native subscribers share above their fetching:
// from entries that a driver has fetched to messages that a consumer settles.
//
// A Stream is one subscription. The driver adds what it fetches, in the broker's
// order; the stream gives out up to MaxInFlight messages, at most one per key,
// in turns between keys (package inflight has the rule), and tells the driver of
// each ack. Nacked messages come again after a pause that only their key waits
// for.
//
//	s := delivery.New(ctx, delivery.Options[record]{
//		MaxInFlight: 256,
//		Message:     func(r record) *message.Message { ... },
//		Acked:       func(r record) { offsets.done(r) },
//	})
//	for s.Room(ctx) == nil {
//		s.Add(fetch()...) // the consumer reads s.Messages()
//	}
//
// The stream knows no broker and no partition: entries that match a function can
// be recalled, when what they came from moves to another member, or dropped.
//
// Nothing here waits for a consumer: messages go into a channel that has room
// for all that may be in flight. One mutex guards a stream; the work under it is
// small, and no I/O.
package delivery
