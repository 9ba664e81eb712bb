package redisbus

import (
	"context"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"
)

const (
	// maxOwed bounds the acks that wait while others are being sent. One more is sent
	// by the adapter itself, which then waits for it.
	maxOwed = 1000
	// ackRetry is the pause before acks that failed are sent again.
	ackRetry = 100 * time.Millisecond
)

// acks sends a stream's acks together. The stock adapter acks one entry and
// waits for the answer before it hands over the next, so that every event pays
// for a round trip. Here it is told at once that the ack was taken, and what
// gathers while one XACK is on its way goes out with the next one.
//
// An ack that is owed when the process is killed makes its entry come again, as
// an ack in flight does; there are at most as many as are handled during one
// round trip. A stream that is closed pays before its entries are released.
type acks struct {
	client        redis.UniversalClient
	stream, group string

	wake chan struct{} // has one element when something is owed
	stop chan struct{}
	sent sync.WaitGroup

	mu   sync.Mutex
	owed []string // entry ids
}

func newAcks(c redis.UniversalClient, stream, group string) *acks {
	a := &acks{client: c, stream: stream, group: group, wake: make(chan struct{}, 1), stop: make(chan struct{})}
	a.sent.Go(a.run)
	return a
}

// add owes an ack, and reports whether there was room for it.
func (a *acks) add(ids []string) bool {
	a.mu.Lock()
	room := len(a.owed)+len(ids) <= maxOwed
	if room {
		a.owed = append(a.owed, ids...)
	}
	a.mu.Unlock()
	if room {
		select {
		case a.wake <- struct{}{}:
		default:
		}
	}
	return room
}

// run pays until close.
func (a *acks) run() {
	for {
		select {
		case <-a.wake:
		case <-a.stop:
			return
		}
		for a.pay(context.Background(), a.client) != nil {
			t := time.NewTimer(ackRetry)
			select {
			case <-t.C:
			case <-a.stop:
				t.Stop()
				return
			}
		}
	}
}

// pay sends what is owed, and owes it again when that fails.
func (a *acks) pay(ctx context.Context, c redis.UniversalClient) error {
	a.mu.Lock()
	ids := a.owed
	a.owed = nil
	a.mu.Unlock()
	if len(ids) == 0 {
		return nil
	}
	err := c.XAck(ctx, a.stream, a.group, ids...).Err()
	if err != nil {
		a.mu.Lock()
		a.owed = append(ids, a.owed...)
		a.mu.Unlock()
	}
	return err
}

// end ends run, after the XACK that is on its way.
func (a *acks) end() {
	close(a.stop)
	a.sent.Wait()
}

// rest pays what is owed after end on another client, since its own may be cut
// off, and returns what the server did not take.
func (a *acks) rest(ctx context.Context, c redis.UniversalClient) []string {
	_ = a.pay(ctx, c) // what it could not pay is returned
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.owed
}

// stockClient is the client as the stock adapter sees it: acks are gathered,
// there is nothing to claim where claiming is refused, and closing it is the
// stream's business.
type stockClient struct {
	redis.UniversalClient
	acks *acks
	gate *gate
}

// XAck takes note of an ack.
func (c stockClient) XAck(ctx context.Context, stream, group string, ids ...string) *redis.IntCmd {
	if c.acks.add(ids) {
		return redis.NewIntResult(int64(len(ids)), nil)
	}
	return c.UniversalClient.XAck(ctx, stream, group, ids...)
}

// XPendingExt tells what could be claimed. The stock adapter claims until nothing
// is left before it reads for the first time. Where the gate refuses that, it
// would try for ever, and never come to the read whose failure ends it.
func (c stockClient) XPendingExt(ctx context.Context, a *redis.XPendingExtArgs) *redis.XPendingExtCmd {
	if c.gate.refuses() {
		return redis.NewXPendingExtCmd(ctx) // its result is empty
	}
	return c.UniversalClient.XPendingExt(ctx, a)
}

// Close keeps the stock adapter from closing a client that is still needed.
func (stockClient) Close() error { return nil }
