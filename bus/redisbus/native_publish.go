package redisbus

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/aura360/eventbus/bus/driver"
	"github.com/aura360/eventbus/internal/partition"
)

// Publish implements driver.Backend. The messages of a call go out together,
// those of one partition as a transaction, so that Redis takes all of them or
// none. A call with more than 1000 messages or 1 MiB goes out in several steps,
// one after another, stopping at the first that fails.
func (n *Native) Publish(ctx context.Context, topic string, msgs ...*message.Message) error {
	if len(msgs) == 0 {
		return nil
	}
	if !n.begin() {
		return driver.Fail(name, topic, len(msgs), driver.Rejected, driver.ErrClosed)
	}
	defer n.sending.Done()
	p, err := n.topic(ctx, topic)
	if err == nil {
		err = context.Cause(ctx)
	}
	if err != nil {
		return driver.Fail(name, topic, len(msgs), driver.Rejected, unavailable(err))
	}
	if len(msgs) == 1 && n.sender != nil {
		return n.publishOne(ctx, topic, p, msgs[0])
	}
	c := &call{n: n, p: p, msgs: msgs}
	for c.done < len(msgs) && !c.failed {
		c.step(ctx)
	}
	return c.err(topic)
}

// unavailable marks a failure to reach the server.
func unavailable(err error) error {
	if isReply(err) || errors.Is(err, driver.ErrClosed) || errors.Is(err, driver.ErrPermanent) || errors.Is(err, context.Canceled) {
		return err
	}
	return fmt.Errorf("%w: %w", driver.ErrUnavailable, err)
}

// publishOne is Publish for one message, which needs no sorting.
func (n *Native) publishOne(ctx context.Context, topic string, p *partitioned, msg *message.Message) error {
	r := newRequest()
	if err := r.add(p.prefixes[partition.Of(driver.Key(msg), len(p.prefixes))], msg, n.cfg.MaxMessageBytes); err != nil {
		r.free()
		return driver.Fail(name, topic, 1, driver.Rejected, err)
	}
	r.parts = append(r.single[:0], part{n: 1, end: len(r.buf)})
	if res := n.sender.send(ctx, r); res != nil {
		return driver.Fail(name, topic, 1, res.Outcome, res.Err)
	}
	results := r.results
	r.free()
	if results == nil {
		return nil
	}
	return &driver.PublishError{Backend: name, Topic: topic, Results: results}
}

// call is one call of Publish with several messages.
type call struct {
	n    *Native
	p    *partitioned
	msgs []*message.Message

	done    int             // messages that were part of a step
	results []driver.Result // nil while all are confirmed
	failed  bool            // the server did not take a message: nothing more is sent
}

// step sends the next messages, as many as go out together.
func (c *call) step(ctx context.Context) {
	first, bytes := c.done, 0
	for c.done < len(c.msgs) && c.done-first < maxBatch {
		bytes += len(c.msgs[c.done].Payload)
		if c.done > first && bytes > maxBatchBytes {
			break
		}
		c.done++
	}
	order, ends := c.sort(first, c.done)
	if c.n.sender == nil {
		c.stepInCluster(ctx, order, ends)
		return
	}
	r := newRequest()
	order = c.encode(r, order, ends)
	if r.count == 0 {
		r.free()
		return
	}
	if res := c.n.sender.send(ctx, r); res != nil {
		for _, i := range order {
			c.set(i, *res)
		}
		c.failed = true
		return
	}
	for k, res := range r.results {
		c.set(order[k], res)
		c.failed = c.failed || res.Err != nil
	}
	r.free()
}

// sort returns the messages from to to-1 sorted by partition, in their order
// within each, and where each partition's end in that.
func (c *call) sort(from, to int) (order, ends []int) {
	partitions := len(c.p.streams)
	of, next := make([]int, to-from), make([]int, partitions+1)
	for i, msg := range c.msgs[from:to] {
		of[i] = partition.Of(driver.Key(msg), partitions)
		next[of[i]+1]++
	}
	for p := range partitions {
		next[p+1] += next[p]
	}
	order = make([]int, to-from)
	for i, p := range of {
		order[next[p]] = from + i
		next[p]++
	}
	return order, next[:partitions] // where one ends the next began
}

// encode writes the commands for the messages in order, and returns the order
// without those that cannot be sent, whose results it sets.
func (c *call) encode(r *request, order, ends []int) []int {
	sendable := order[:0]
	start := 0
	for p, end := range ends {
		these := order[start:end]
		start = end
		if len(these) == 0 {
			continue
		}
		before, isTx := len(r.buf), len(these) > 1
		if isTx {
			r.buf = append(r.buf, commandMulti...)
		}
		n := 0
		for _, i := range these {
			if err := r.add(c.p.prefixes[p], c.msgs[i], c.n.cfg.MaxMessageBytes); err != nil {
				c.set(i, driver.Result{Outcome: driver.Rejected, Err: err})
				continue
			}
			sendable = append(sendable, i) // not before what these still holds
			n++
		}
		if n == 0 {
			r.buf = r.buf[:before]
			continue
		}
		if isTx {
			r.buf = append(r.buf, commandExec...)
		}
		r.parts = append(r.parts, part{n: n, end: len(r.buf), isTx: isTx})
	}
	return sendable
}

// stepInCluster sends the messages one after another, as the stock build does,
// but those of each partition at the same time as those of the others.
func (c *call) stepInCluster(ctx context.Context, order, ends []int) {
	all := make([]driver.Result, len(order))
	var sending sync.WaitGroup
	start := 0
	for p, end := range ends {
		these, results := order[start:end], all[start:end]
		start = end
		if len(these) == 0 {
			continue
		}
		sending.Go(func() {
			msgs := make([]*message.Message, len(these))
			for k, i := range these {
				msgs[k] = c.msgs[i]
			}
			copy(results, driver.Results(c.n.cluster.Publish(ctx, c.p.streams[p], msgs...), len(msgs)))
		})
	}
	sending.Wait()
	for k, res := range all {
		c.set(order[k], res)
		c.failed = c.failed || res.Err != nil
	}
}

// set sets the result of message i.
func (c *call) set(i int, res driver.Result) {
	if c.results == nil {
		if res.Err == nil {
			return
		}
		c.results = make([]driver.Result, len(c.msgs))
	}
	c.results[i] = res
}

// err is what Publish returns.
func (c *call) err(topic string) error {
	for i := c.done; i < len(c.msgs); i++ {
		c.set(i, driver.Result{Outcome: driver.Rejected, Err: driver.ErrNotSent})
	}
	if c.results == nil {
		return nil
	}
	return &driver.PublishError{Backend: name, Topic: topic, Results: c.results}
}
