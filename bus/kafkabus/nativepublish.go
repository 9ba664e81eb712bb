package kafkabus

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/twmb/franz-go/pkg/kerr"

	"github.com/aura360/eventbus/bus/driver"
)

// Publish implements driver.Backend. Messages of one partition go out together,
// up to about a megabyte, with those of concurrent calls. Of a key none is
// confirmed after one of the same call that is not.
func (n *Native) Publish(ctx context.Context, topic string, msgs ...*message.Message) error {
	if len(msgs) == 0 {
		return nil
	}
	reject := func(err error) error { return driver.Fail(name, topic, len(msgs), driver.Rejected, err) }
	if !n.begin() {
		return reject(driver.ErrClosed)
	}
	defer n.calls.Done()
	if err := checkTopic(topic); err != nil {
		return reject(fmt.Errorf("%w: topic %q: %w", driver.ErrPermanent, topic, err))
	}
	if ctx.Err() != nil {
		return reject(unavailable(context.Cause(ctx)))
	}
	ctx, cancel := context.WithTimeoutCause(ctx, n.cfg.DeliveryTimeout, errDeliveryTimeout)
	defer cancel()
	o, err := n.outlet(ctx, topic)
	if err != nil {
		return reject(err)
	}
	c := newCall(len(msgs))
	lanes := o.send(c, msgs)
	select {
	case <-c.done:
	case <-ctx.Done():
		c.leave(n, context.Cause(ctx), lanes)
	case <-n.life.Done():
		c.leave(n, driver.ErrClosed, lanes)
	}
	return c.outcome(topic)
}

// outlet is a topic being published to.
type outlet struct {
	n     *Native
	topic string
	turn  atomic.Uint32 // of round_robin

	mu    sync.Mutex // guards below
	lanes []*lane    // by partition
}

// outlet returns the way to a topic, which is created if it is missing and that
// is wanted.
func (n *Native) outlet(ctx context.Context, topic string) (*outlet, error) {
	if o, ok := n.outlets.Load(topic); ok {
		return o.(*outlet), nil
	}
	ctx, cancel := context.WithTimeoutCause(ctx, n.cfg.ConnectTimeout, errConnectTimeout)
	defer cancel()
	unlock, err := n.opening.lock(ctx, topic)
	if err != nil {
		return nil, unavailable(err)
	}
	defer unlock()
	if o, ok := n.outlets.Load(topic); ok {
		return o.(*outlet), nil
	}
	if _, ok := n.stale.LoadAndDelete(topic); ok {
		n.client.PurgeTopicsFromProducing(topic)
	}
	partitions, err := n.find(ctx, topic)
	if err != nil {
		return nil, err
	}
	o := &outlet{n: n, topic: topic}
	o.grow(partitions)
	n.outlets.Store(topic, o)
	return o, nil
}

// grow adds lanes up to a number of partitions. Partitions are never taken away
// from a topic.
func (o *outlet) grow(partitions int) {
	for len(o.lanes) < partitions {
		o.lanes = append(o.lanes, &lane{o: o, partition: int32(len(o.lanes)), limit: maxGroupBytes}) //nolint:gosec // few
	}
}

// loaded tells whether the client knows a partition.
func (o *outlet) loaded(partition int32) bool {
	leader, _, err := o.n.client.PartitionLeader(o.topic, partition)
	return leader != -1 || err != nil
}

// current returns the lanes, also of partitions that the client has found since.
func (o *outlet) current() []*lane {
	o.mu.Lock()
	defer o.mu.Unlock()
	if next := len(o.lanes); o.loaded(int32(next)) && o.loaded(0) { //nolint:gosec // few
		for o.loaded(int32(next)) { //nolint:gosec // few
			next++
		}
		o.grow(next)
	}
	return o.lanes
}

// vanished looks at why a group failed. When the topic is gone, or was made anew,
// the next publish starts from the beginning; the client would go on producing to
// the topic that was.
func (o *outlet) vanished(err error) bool {
	if !errors.Is(err, kerr.UnknownTopicOrPartition) && !errors.Is(err, kerr.UnknownTopicID) {
		return false
	}
	if o.n.outlets.CompareAndDelete(o.topic, o) {
		o.n.topics.forget(o.topic)
		o.n.stale.Store(o.topic, struct{}{})
	}
	return true
}

// send hands the messages over, and returns the lanes they are in.
func (o *outlet) send(c *call, msgs []*message.Message) []*lane {
	lanes := o.current()
	records := writeRecords(o.topic, msgs)
	entries := make([]entry, len(msgs))
	at := make([]int32, len(msgs)) // partitions
	count := make([]int, len(lanes))
	barred := make([]bool, len(lanes)) // behind one that is too large
	for i := range records {
		r := &records[i]
		p := o.partition(driver.Key(msgs[i]), len(lanes))
		r.Partition = p
		size := recordSize(r)
		entries[i] = entry{call: c, i: i, rec: r, size: size}
		at[i] = p
		switch {
		case barred[p]:
			c.fail(i, notSent(nil))
			at[i] = -1
		case size > o.n.cfg.MaxMessageBytes:
			c.fail(i, driver.Result{Outcome: driver.Rejected, Err: fmt.Errorf("%w: %d bytes, more than %s=%d",
				driver.ErrPermanent, size, envMaxBytes, o.n.cfg.MaxMessageBytes)})
			barred[p] = true
			at[i] = -1
		default:
			count[p]++
		}
	}
	var used []*lane
	var groups []*group
	for p, l := range lanes {
		if count[p] == 0 {
			continue
		}
		part := entries
		if count[p] < len(entries) {
			part = make([]entry, 0, count[p])
			for i := range entries {
				if at[i] == int32(p) { //nolint:gosec // few
					part = append(part, entries[i])
				}
			}
		}
		used = append(used, l)
		if g := l.add(part...); g != nil {
			groups = append(groups, g)
		}
	}
	if len(groups) > 0 {
		go o.push(groups...)
	}
	return used
}

// partition chooses the partition of a key.
func (o *outlet) partition(key string, partitions int) int32 {
	n := int32(partitions) //nolint:gosec // few
	if o.n.cfg.Partitioner == "round_robin" {
		return int32(o.turn.Add(1) % uint32(n)) //nolint:gosec // less than n
	}
	return partitionOf(o.n.cfg.Partitioner, key, n)
}

// call is one Publish.
type call struct {
	done chan struct{} // closed when every message is decided

	mu      sync.Mutex
	pending int
	decided []bool
	results []driver.Result // nil while none failed
	gone    error           // why the caller has left
	over    bool            // the results are the caller's: nothing is noted any more
}

func newCall(n int) *call {
	return &call{done: make(chan struct{}), pending: n, decided: make([]bool, n)}
}

// confirm notes that the broker has the entries, all of c.
func (c *call) confirm(entries []entry) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for i := range entries {
		c.decide(entries[i].i)
	}
}

// fail notes what became of message i instead.
func (c *call) fail(i int, r driver.Result) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.over {
		return
	}
	if c.results == nil {
		c.results = make([]driver.Result, len(c.decided))
	}
	c.results[i] = r
	c.decide(i)
}

func (c *call) decide(i int) {
	if c.over || c.decided[i] {
		return
	}
	c.decided[i] = true
	if c.pending--; c.pending == 0 {
		close(c.done)
	}
}

// left returns why the caller has left, or nil.
func (c *call) left() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.gone
}

// leave takes back what can be taken back: what waits, and what the client has and
// never wrote.
func (c *call) leave(n *Native, cause error, lanes []*lane) {
	c.mu.Lock()
	c.gone = cause
	c.mu.Unlock()
	unsent := false
	for _, l := range lanes {
		unsent = l.abandon(c, cause) || unsent
	}
	if !unsent {
		return
	}
	n.cancelUnsent()
	t := time.NewTimer(cancelWait)
	defer t.Stop()
	select {
	case <-c.done:
	case <-t.C:
		for _, l := range lanes {
			l.giveUp(c, cause)
		}
	}
}

// outcome ends the call. What is not decided may be in the topic, or appear there.
func (c *call) outcome(topic string) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.over = true
	if c.pending == 0 && c.results == nil {
		return nil
	}
	if c.results == nil {
		c.results = make([]driver.Result, len(c.decided))
	}
	failed := false
	for i, decided := range c.decided {
		if !decided {
			c.results[i] = driver.Result{Outcome: driver.Unknown, Err: fmt.Errorf("not confirmed yet: %w", c.gone)}
		}
		failed = failed || c.results[i].Err != nil
	}
	if !failed {
		return nil
	}
	return &driver.PublishError{Backend: name, Topic: topic, Results: c.results}
}
