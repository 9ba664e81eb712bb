package redisbus

import (
	"context"
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
	if ctx.Err() != nil {
		return driver.Fail(name, topic, len(msgs), driver.Rejected, context.Cause(ctx))
	}
	p, err := n.topic(ctx, topic)
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

// publishOne is Publish for one message, which needs no sorting.
func (n *Native) publishOne(ctx context.Context, topic string, p *partitioned, msg *message.Message) error {
	r := n.sender.newRequest()
	if err := r.add(p.prefixes[partition.Of(driver.Key(msg), len(p.prefixes))], msg, n.cfg.MaxMessageBytes); err != nil {
		n.sender.free(r)
		return driver.Fail(name, topic, 1, driver.Rejected, err)
	}
	r.parts = append(r.single[:0], part{n: 1, end: len(r.buf)})
	if res := n.sender.send(ctx, r); res != nil {
		return driver.Fail(name, topic, 1, res.Outcome, res.Err)
	}
	results := r.results
	n.sender.free(r)
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
	if c.done-first < overlapFrom {
		r := c.n.sender.newRequest()
		these := c.encode(r, order, 0, ends)
		if r.count == 0 {
			c.n.sender.free(r)
			return
		}
		c.take(r, these, c.n.sender.send(ctx, r))
		return
	}
	c.overlap(ctx, order, ends)
}

// overlapFrom is how many messages are worth a request per partition: the server
// works on one while the next is being encoded.
const overlapFrom = 256

// overlap sends a request per partition.
func (c *call) overlap(ctx context.Context, order, ends []int) {
	type sending struct {
		r     *request
		these []int
		err   error
	}
	var all []sending
	for p := range ends {
		r := c.n.sender.newRequest()
		these := c.encode(r, order, p, ends[:p+1])
		if r.count == 0 {
			c.n.sender.free(r)
			continue
		}
		all = append(all, sending{r, these, c.n.sender.submit(r)})
	}
	for _, s := range all {
		if s.err != nil {
			c.take(s.r, s.these, &driver.Result{Outcome: driver.Rejected, Err: s.err})
			continue
		}
		c.take(s.r, s.these, c.n.sender.wait(ctx, s.r))
	}
}

// take takes the results of a request with these messages, or the one that all
// of them have.
func (c *call) take(r *request, these []int, res *driver.Result) {
	if res != nil {
		for _, i := range these {
			c.set(i, *res)
		}
		c.failed = true
		return
	}
	for k, res := range r.results {
		c.set(these[k], res)
		c.failed = c.failed || res.Err != nil
	}
	c.n.sender.free(r)
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

// encode writes the commands for the messages of the partitions from first, of
// which ends are the ends in order. It returns those messages without what cannot
// be sent, whose results it sets.
func (c *call) encode(r *request, order []int, first int, ends []int) []int {
	start := 0
	if first > 0 {
		start = ends[first-1]
	}
	sendable := order[start:start]
	for p := first; p < len(ends); p++ {
		end := ends[p]
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
