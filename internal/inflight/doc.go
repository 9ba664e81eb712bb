// Package inflight decides which of the messages a subscription has fetched may
// be delivered now. It is the rule behind order per key with many messages in
// flight, and the same for every backend that fetches by itself.
//
// A Window holds what was fetched and not settled. Messages with the same key
// form a lane; a lane gives out one message at a time, and the next one after
// that was acked. Lanes take turns. A nacked message stays at the head of its
// lane, which pauses; the other lanes go on. A message without a key is a lane
// of its own.
//
//	w := inflight.New[record](inflight.Options{Max: 256})
//	w.Add(key, rec)            // fetched, in the broker's order
//	for {
//		rec, ticket, ok := w.Next() // ok is false: all are out, waiting or pausing
//		...                         // deliver rec
//	}
//	w.Ack(ticket)              // in any order; then call Next again
//	until, _ := w.Nack(ticket, time.Now()) // call Tick at until
//
// The package does no I/O, starts no goroutine, holds no lock and reads no
// clock: the driver that owns a Window guards it with its own mutex and tells it
// the time. A ticket that is no longer good (settled already, given back,
// dropped, from before a reset) does nothing, so that a late ack of a closed
// subscriber can't settle somebody else's delivery.
package inflight
