package kafkabus

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/aura360/eventbus/bus/driver"
)

const (
	// maxGroupBytes keeps a batch under the size that brokers take by default
	// (message.max.bytes, 1 MiB and a little), whatever one message may have.
	maxGroupBytes = 1000000

	// maxLinger would be waited for only by a partition whose ProduceSync could not
	// tell it to go, which push rules out.
	maxLinger = time.Second

	// abandonGrace is how long after its start a request that nobody waits for any
	// more may still be answered before it is cancelled, which costs a connection.
	abandonGrace = 250 * time.Millisecond

	// cancelWait is how long a publish whose context has ended waits to be sure that
	// its messages, of which none was written, never will be.
	cancelWait = 250 * time.Millisecond
)

// lane is the way to one partition. What is published to it while a group is
// being sent waits here and forms the next group, so batches grow with the load
// and an idle lane sends at once.
//
// A group is one batch of the client, and there is at most one of a lane at a
// time. So it is confirmed or fails as a whole, and what waits in the lane was
// never given to the client: it can be taken back.
type lane struct {
	o         *outlet
	partition int32

	mu    sync.Mutex // guards below; taken before call.mu
	queue []entry
	limit int    // bytes of a group
	cur   *group // being sent
}

// entry is one message on its way.
type entry struct {
	call *call
	i    int // which of the call's
	rec  *kgo.Record
	size int
	err  error // once sent
}

// group is what is sent together. It is the context of its records, by which the
// client's hook finds it.
type group struct {
	context.Context
	cancel context.CancelFunc

	lane    *lane
	entries []entry
	bytes   int
	mark    wireMark // before it was sent
	began   time.Time

	finished int // records; touched by the client's promises alone, one at a time

	// Guarded by lane.mu.
	calls []*call // that wait
	grace *time.Timer
}

// add queues entries of one call and returns the group to push, if none is being
// sent.
func (l *lane) add(entries ...entry) *group {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.queue = append(l.queue, entries...)
	if l.cur != nil {
		return nil
	}
	return l.next()
}

// next makes the next group of the queue.
func (l *lane) next() *group {
	l.cur = nil
	if len(l.queue) == 0 {
		l.queue = nil
		return nil
	}
	g := &group{lane: l, mark: l.o.n.mark(), began: time.Now()}
	g.Context, g.cancel = context.WithCancel(l.o.n.life)
	limit := l.limit
	if !l.o.loaded(0) {
		limit = 0 // see push
	}
	n := 0
	for i := range l.queue {
		e := &l.queue[i]
		if n > 0 && g.bytes+e.size > limit {
			break
		}
		n++
		g.bytes += e.size
		e.rec.Context = g
		if len(g.calls) == 0 || g.calls[len(g.calls)-1] != e.call {
			g.calls = append(g.calls, e.call)
		}
	}
	// A call may come twice, with something else in between, only after a requeue.
	if n == len(l.queue) {
		g.entries, l.queue = l.queue, nil
	} else {
		g.entries = slices.Clone(l.queue[:n])
		l.queue = slices.Delete(l.queue, 0, n)
	}
	l.cur = g
	return g
}

// push gives groups of different lanes of one topic to the client, which sends
// those for one broker in one request. It returns when all are decided.
//
// A topic that the client has not loaded yet waits there; nothing then tells it
// when the group is whole, so that group has one message, and the client is told
// not to linger.
func (o *outlet) push(groups ...*group) {
	c := o.n.client
	total := 0
	for _, g := range groups {
		total += len(g.entries)
	}
	records := make([]*kgo.Record, 0, total)
	for _, g := range groups {
		if !o.loaded(g.lane.partition) && o.loaded(0) {
			// The client's metadata is older than ours.
			c.ForceMetadataRefresh()
			g.fail(kerr.LeaderNotAvailable)
			continue
		}
		for i := range g.entries {
			records = append(records, g.entries[i].rec)
		}
	}
	if len(records) == 0 {
		return
	}
	if !o.loaded(0) {
		ctx, cancel := context.WithCancel(o.n.life)
		defer cancel()
		go func() { _ = c.Flush(ctx) }()
	}
	c.ProduceSync(context.Background(), records...)
}

// fail decides a group that was not given to the client.
func (g *group) fail(err error) {
	for range g.entries {
		g.done(err)
	}
}

// done is told what became of the next record.
func (g *group) done(err error) {
	g.entries[g.finished].err = err
	if g.finished++; g.finished == len(g.entries) {
		g.lane.finish(g)
	}
}

// finish settles a group, and starts the next.
func (l *lane) finish(g *group) {
	n := l.o.n
	l.mu.Lock()
	g.cancel()
	if g.grace != nil {
		g.grace.Stop()
	}
	failed := slices.IndexFunc(g.entries, func(e entry) bool { return e.err != nil })
	if failed < 0 {
		settleAll(g.entries)
	} else {
		settleAll(g.entries[:failed])
		l.failed(g.entries[failed:], n.since(g.mark))
	}
	next := l.next()
	l.mu.Unlock()
	if next != nil {
		go l.o.push(next)
	}
}

// settleAll confirms entries.
func settleAll(entries []entry) {
	for len(entries) > 0 {
		c, k := entries[0].call, 1
		for k < len(entries) && entries[k].call == c {
			k++
		}
		c.confirm(entries[:k])
		entries = entries[k:]
	}
}

// failed settles the entries of a group from the first that failed on. What was
// never sent and somebody still waits for goes back into the queue.
func (l *lane) failed(entries []entry, seen evidence) {
	err := entries[0].err
	switch {
	case errors.Is(err, context.Canceled) && !seen.produced && l.o.n.life.Err() == nil:
		// Somebody left, and took the others in the group with him.
		l.again(entries)
		return
	case errors.Is(err, kerr.MessageTooLarge) && !seen.lost && len(entries) > 1:
		// It is the batch that the topic does not take: smaller ones from now on.
		size := 0
		for _, e := range entries {
			size += e.size
		}
		l.limit = max(1, min(l.limit, size)/2)
		l.again(entries)
		return
	}
	gone := l.o.vanished(err)
	for i, e := range entries {
		if e.err == nil {
			e.call.confirm(entries[i : i+1])
			continue
		}
		e.call.fail(e.i, l.o.n.publishResult(l.o.topic, e.err, seen))
		l.dropLater(e.call)
	}
	if gone {
		for _, e := range l.queue {
			e.call.fail(e.i, l.o.n.publishResult(l.o.topic, err, evidence{}))
		}
		l.queue = nil
	}
}

// again puts entries back to the front of the queue, except those that nobody
// waits for.
func (l *lane) again(entries []entry) {
	kept := make([]entry, 0, len(entries)+len(l.queue))
	for _, e := range entries {
		if left := e.call.left(); left != nil {
			e.call.fail(e.i, notReached(left))
			continue
		}
		e.err = nil
		kept = append(kept, e)
	}
	l.queue = append(kept, l.queue...)
}

// dropLater takes what is queued of a call out: an earlier one of it failed.
func (l *lane) dropLater(c *call) {
	l.queue = slices.DeleteFunc(l.queue, func(e entry) bool {
		if e.call != c {
			return false
		}
		c.fail(e.i, notSent(nil))
		return true
	})
}

func notSent(cause error) driver.Result {
	if cause != nil {
		return driver.Result{Outcome: driver.Rejected, Err: fmt.Errorf("%w: %w", driver.ErrNotSent, cause)}
	}
	return driver.Result{Outcome: driver.Rejected, Err: driver.ErrNotSent}
}

// notReached is the result of a message that nothing was written of, nor of what
// was before it.
func notReached(cause error) driver.Result {
	return driver.Result{Outcome: driver.Rejected, Err: unavailable(fmt.Errorf("%w: %w", driver.ErrNotSent, cause))}
}

// abandon is called when the caller of c has left, who is told of what is queued
// that it was not sent. It reports whether the client has messages of c of which
// nothing was written yet.
func (l *lane) abandon(c *call, cause error) (unsent bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	result := notSent(cause)
	if l.unsent() {
		result = notReached(cause)
	}
	l.queue = slices.DeleteFunc(l.queue, func(e entry) bool {
		if e.call != c {
			return false
		}
		c.fail(e.i, result)
		return true
	})
	g := l.cur
	if g == nil || !slices.Contains(g.calls, c) {
		return false
	}
	g.calls = slices.DeleteFunc(g.calls, func(other *call) bool { return other == c })
	if l.unsent() {
		return true
	}
	if len(g.calls) == 0 {
		g.grace = time.AfterFunc(abandonGrace-time.Since(g.began), g.cancel)
	}
	return false
}

// unsent reports whether the client has a group of which nothing was written.
func (l *lane) unsent() bool { return l.cur != nil && !l.o.n.since(l.cur.mark).produced }

// cancelUnsent cancels every group of which nothing was written. It must be every
// one: the client puts batches together into requests, and a request that waits
// for a connection is written unless the context of its first batch has ended.
func (n *Native) cancelUnsent() {
	n.outlets.Range(func(_, o any) bool {
		for _, l := range o.(*outlet).current() {
			l.mu.Lock()
			if l.unsent() {
				l.cur.cancel()
			}
			l.mu.Unlock()
		}
		return true
	})
}

// giveUp is called a while after cancelUnsent, which the client may take long to
// notice. If still nothing was written nothing will be.
func (l *lane) giveUp(c *call, cause error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.unsent() {
		return
	}
	for i := range l.cur.entries {
		if e := &l.cur.entries[i]; e.call == c {
			c.fail(e.i, notReached(cause))
		}
	}
}
