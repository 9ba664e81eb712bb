package redisbus

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/ThreeDotsLabs/watermill"
	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/aura360/eventbus/bus/driver"
	"github.com/aura360/eventbus/internal/delivery"
)

// consumer is one subscription to a topic: a member of the group that owns some
// of the topic's partitions. Its goroutines are the keeper, which counts, looks
// at the others and takes and gives back partitions; a reader, in a Cluster one
// per partition; one for the acks; and one for each partition that is being
// given back.
type consumer struct {
	n      *Native
	topic  string
	group  string
	member string        // its name among the members
	ttl    time.Duration // how long a member may be silent

	stream *delivery.Stream[entry]
	acks   *settlements

	ctx    context.Context // ends when it closes
	cancel context.CancelFunc
	work   sync.WaitGroup // all goroutines but that of acks
	poke   chan struct{}  // has one element when the keeper should look at once

	retired chan struct{} // closed when nothing more is fetched
	left    chan struct{} // closed when the keeper has ended
	ended   sync.Once

	mu         sync.Mutex // taken before the stream's and before that of acks
	partitions []*lease
	readers    map[*reader]struct{}
	changed    chan struct{} // closed when the readers have to look again
	leaving    bool          // partitions are given back, none is taken
	lost       int64         // entries that were deleted before they were acked
	status     status
}

// lease is one partition, as the consumer sees it. All but the names is guarded
// by the consumer's mu.
type lease struct {
	index  int
	stream string
	key    string // of the owner

	others owner // what the key said when it was not ours; the keeper's alone
	state  holding
	token  owner              // while state is not free: what the key says as long as it is ours
	stale  bool               // it was not surely ours all the time: take it anew before it is read
	epoch  uint64             // changes when what is being read must not be taken any more
	stop   context.CancelFunc // of the recall that runs

	// How reading goes on. Everything pending in our name up to last is in the
	// stream, or acked: what comes after it was delivered to a connection that
	// broke, or to an owner before.
	last    streamID
	history bool     // read what is pending after last before what is new
	claims  []string // ids that others have held for too long, to be claimed
	claimed bool     // and that may be ours already: the answer was lost
	seen    streamID // the last id that was delivered to the group, as far as known
	known   bool     // whether seen is
	drained bool     // there was nothing more to read
	woken   bool     // and then there was
	count   int      // how many to read next
	err     error    // why it cannot be read though it is ours
}

// holding says how a partition is held.
type holding uint8

const (
	free      holding = iota // not ours
	owned                    // ours, and not ready to be read
	held                     // ours, and read
	doubted                  // maybe not ours any more: the keeper looks
	recalling                // ours until what is delivered is settled
)

// status is what State tells.
type status struct {
	looked       bool // the keeper's last look succeeded
	keeping      error
	acking       error
	down         bool
	resubscribed int
	lastErr      string
}

// consume starts a subscription.
func (n *Native) consume(ctx context.Context, group, topic string, opts driver.SubscriberOptions) *consumer {
	c := &consumer{
		n: n, topic: topic, group: group, ttl: n.leaseTTL,
		member:  watermill.NewULID() + "-" + opts.Instance, // sorts by time
		poke:    make(chan struct{}, 1),
		retired: make(chan struct{}),
		left:    make(chan struct{}),
		readers: map[*reader]struct{}{},
		changed: make(chan struct{}),
	}
	if c.ttl == 0 {
		c.ttl = defaultLease
	}
	c.ctx, c.cancel = context.WithCancel(context.WithoutCancel(ctx))
	c.acks = newSettlements(c)
	c.stream = delivery.New(ctx, delivery.Options[entry]{
		MaxInFlight: opts.MaxInFlight, DirectSettle: opts.DirectSettle,
		Message: func(e entry) *message.Message { return e.message() },
		Acked:   func(e entry) { c.acks.add(e.p, e.id) },
	})
	c.mu.Lock()
	defer c.mu.Unlock()
	c.work.Go(c.keep)
	c.work.Go(c.tend)
	if !n.clustered() {
		c.startReader(nil)
	}
	return c
}

// retire stops fetching and closes the messages. The partitions are given back
// as soon as nothing of them is in the consumer's hands.
func (c *consumer) retire() {
	c.mu.Lock()
	first := !c.leaving
	c.leaving = true
	var readers []*reader
	for r := range c.readers {
		readers = append(readers, r)
	}
	c.mu.Unlock()
	if !first {
		return
	}
	close(c.retired)
	for _, r := range readers {
		r.cut()
	}
	c.stream.Retire()
	c.nudge()
}

// drain waits until everything delivered is settled, the server has the acks and
// the partitions are given back.
func (c *consumer) drain(ctx context.Context) error {
	c.retire()
	select {
	case <-c.stream.Settled():
	case <-c.ctx.Done():
	case <-ctx.Done():
		return fmt.Errorf("%d messages neither acked nor nacked: %w", c.stream.InFlight(), context.Cause(ctx))
	}
	if err := c.acks.flush(ctx, nil); err != nil {
		return fmt.Errorf("send acks: %w", err)
	}
	// Others wait a lease for what is not given back: that is no failure.
	select {
	case <-c.left:
	case <-ctx.Done():
	}
	return nil
}

// close drops what is unsettled, and gives back as far as the server lets it
// within closeTimeout.
func (c *consumer) close() {
	c.ended.Do(func() {
		c.retire()
		c.stream.Close()
		ctx, cancel := context.WithTimeout(context.Background(), closeTimeout)
		defer cancel()
		_ = c.acks.flush(ctx, nil) // what is not taken comes again
		select {
		case <-c.left:
		case <-ctx.Done():
		}
		c.cancel()
		c.work.Wait()
		c.acks.end()
	})
}

// cut ends what waits for the server.
func (c *consumer) cut() {
	c.retire()
	c.cancel()
}

// nudge makes the keeper look at once.
func (c *consumer) nudge() {
	select {
	case c.poke <- struct{}{}:
	default:
	}
}

// wakeReaders tells the readers that there is something else to read. c.mu is
// held.
func (c *consumer) wakeReaders() {
	close(c.changed)
	c.changed = make(chan struct{})
}

// state implements driver.Subscriber's State for one subscription.
func (c *consumer) state() driver.SubscriptionState {
	c.mu.Lock()
	defer c.mu.Unlock()
	return driver.SubscriptionState{
		Connected:    c.connected(),
		Resubscribed: c.status.resubscribed,
		LastError:    c.status.lastErr,
	}
}

// connected tells that the topic's partitions that are ours are being read.
func (c *consumer) connected() bool { return c.trouble() == nil && c.status.looked && !c.leaving }

// trouble is why not all is read or acked.
func (c *consumer) trouble() error {
	for _, p := range c.partitions {
		if p.state != free && p.err != nil {
			return p.err
		}
	}
	for r := range c.readers {
		if r.err != nil {
			return r.err
		}
	}
	return cmp.Or(c.status.keeping, c.status.acking)
}

var errAway = errors.New("another member took the partition over")

// noted logs when the subscription breaks and when it works again, once each.
// c.mu is held and the status just changed.
func (c *consumer) noted(err error) {
	if err != nil {
		c.status.lastErr = err.Error()
	}
	log := c.n.cfg.Log.With("backend", name, "topic", c.topic, "group", c.group)
	switch now := c.trouble(); {
	case c.leaving:
	case now != nil && !c.status.down:
		c.status.down = true
		log.Warn("subscription lost, trying again", "error", now.Error())
	case now == nil && c.status.down && c.connected():
		c.status.down = false
		c.status.resubscribed++
		log.Info("subscription restored", "last_error", c.status.lastErr)
	}
}

// acking takes note of whether acks get through.
func (c *consumer) acking(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.status.acking = err
	c.noted(err)
}
