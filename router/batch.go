package router

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"sync"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"go.opentelemetry.io/otel/baggage"
	"go.opentelemetry.io/otel/trace"

	"github.com/aura360/eventbus/events"
	"github.com/aura360/eventbus/middleware"
)

// BatchConfig changes what the router does for one batch handler.
type BatchConfig struct {
	HandlerConfig
	// Max is how many events a call gets at most, 1 to 10000; never more than
	// MaxInFlight are there. Defaults to 100.
	Max int
	// MaxWait is how long the first event of a batch waits for others, 1 ms to
	// 1 min. Defaults to 50 ms.
	MaxWait time.Duration
}

// HandleBatch is Handle for a function that takes several events at once. It is
// called when Max events wait, when the first of them has waited for MaxWait, or
// when the router stops. Of one key there is at most one event in a batch, so
// that order per key holds; calls run beside each other.
//
// The result says of each event what Handle's error says of one: nil for a
// success, else an error, which may be Permanent or RetryAfter; the other events
// are not concerned. A nil result says that all went well. One of another length
// is a mistake in the program: it is logged, and all events of the batch are
// poisoned. A panic is an error of every event. Duplicates, retries, the poison
// queue and metrics are each event's own: a failed one comes again in another
// batch.
//
// The function's ctx carries the bus and lives until the contexts of all events
// in the batch have ended, that is at least until the drain timeout of a stopping
// router. What it publishes with ctx has no cause and a new trace; with
// ItemContext(ctx, i) it is caused by event i.
//
// In HandlerConfig, Timeout and Concurrency bound the calls; PerSecond, Breaker
// and Inner look at each event. At most one BatchConfig.
//
// A backend that delivers one message per partition at a time (the stock
// adapters) fills a batch no further than that, and every batch then waits for
// MaxWait: use Handle there, or a short MaxWait.
func HandleBatch[T events.Event](r *Router, name string, fn func(context.Context, []T) []error, cfg ...BatchConfig) {
	if len(cfg) > 1 {
		r.errs = append(r.errs, fmt.Errorf("handler %q: want at most one BatchConfig, got %d", name, len(cfg)))
		return
	}
	c := BatchConfig{}
	if len(cfg) == 1 {
		c = cfg[0]
	}
	if c.Max == 0 {
		c.Max = 100
	}
	if c.MaxWait == 0 {
		c.MaxWait = 50 * time.Millisecond
	}
	if c.Max < 1 || c.Max > 10_000 || c.MaxWait < time.Millisecond || c.MaxWait > time.Minute {
		r.errs = append(r.errs, fmt.Errorf("handler %q: Max %d, MaxWait %v: want 1 to 10000, and 1ms to 1m", name, c.Max, c.MaxWait))
		return
	}
	h := register[T](r, name, []HandlerConfig{c.HandlerConfig})
	if h == nil {
		return
	}
	h.batch = &collector{
		router: r, name: name, max: min(c.Max, r.cfg.MaxInFlight), maxWait: c.MaxWait,
		fn: func(ctx context.Context, items []*batchItem) []error {
			list := make([]T, len(items))
			for i, it := range items {
				list[i] = it.event.(T) // as call found it
			}
			return fn(ctx, list)
		},
	}
	h.call = func(msg *message.Message) ([]*message.Message, error) {
		e, ok := middleware.DeliveryFrom(msg.Context()).Event.(T)
		if !ok {
			return nil, replaced(name)
		}
		return nil, h.batch.call(msg, e)
	}
}

// ItemContext returns the context of event i of the batch that ctx was given to:
// what is published with it is caused by that event, and belongs to its trace.
// It must not be used after the batch handler returned. It panics when ctx is no
// batch handler's, or i is no index of its events.
func ItemContext(ctx context.Context, i int) context.Context {
	items, ok := ctx.Value(batchKey{}).([]*batchItem)
	if !ok {
		panic("router.ItemContext: not the context of a batch handler")
	}
	return items[i].ctx
}

type batchKey struct{}

// collector stands where a handler is called, and brings together those who call
// it. The first one of a batch leads: it waits for the others and makes the call,
// on its own goroutine. The others wait for it, for as long as that takes, since
// their events are in the leader's hands.
type collector struct {
	router  *Router
	name    string
	max     int
	maxWait time.Duration
	fn      func(context.Context, []*batchItem) []error

	timeout time.Duration // of a call; 0 for none
	places  chan struct{} // calls at once; nil for any number

	mu   sync.Mutex
	open *batch // takes items; nil when there is none
}

type batch struct {
	items []*batchItem
	full  chan struct{} // closed when there is no more room
}

type batchItem struct {
	collector *collector
	ctx       context.Context
	event     any
	result    chan error
}

// limit sets what bounds the calls.
func (c *collector) limit(timeout time.Duration, concurrency int) {
	c.timeout = timeout
	if concurrency > 0 {
		c.places = make(chan struct{}, concurrency)
	}
}

// call adds an event to a batch and returns its result.
func (c *collector) call(msg *message.Message, event any) error {
	it := &batchItem{collector: c, ctx: msg.Context(), event: event, result: make(chan error, 1)}
	if rd, ok := it.ctx.Value(roundKey{}).(*round); ok {
		rd.wait(it)
		return <-it.result
	}
	if b := c.add(it); b != nil {
		c.gather(b)
		c.run(b.items)
	}
	return <-it.result
}

// add returns the batch when the item is its first.
func (c *collector) add(it *batchItem) (led *batch) {
	c.mu.Lock()
	defer c.mu.Unlock()
	b := c.open
	if b == nil {
		b = &batch{full: make(chan struct{})}
		c.open, led = b, b
	}
	b.items = append(b.items, it)
	if len(b.items) >= c.max {
		c.open = nil
		close(b.full)
	}
	return led
}

// gather waits until the batch is to be handled; it takes no more items then.
func (c *collector) gather(b *batch) {
	timer := time.NewTimer(c.maxWait)
	defer timer.Stop()
	select {
	case <-b.full:
	case <-timer.C:
	case <-c.router.stopping: // no more will come
	}
	if c.places != nil { // while it waits for its turn, it may take more
		c.places <- struct{}{}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.open == b {
		c.open = nil
	}
}

// run handles a batch and tells every item its result.
func (c *collector) run(items []*batchItem) {
	if c.places != nil {
		defer func() { <-c.places }()
	}
	for i, err := range c.handle(items) {
		items[i].result <- err
	}
}

var errUnfinished = errors.New("the batch handler did not return")

// handle calls the function for those items that were not stopped meanwhile.
// There is a result for every item whatever the function does, also when it ends
// its goroutine.
func (c *collector) handle(items []*batchItem) (results []error) {
	results = make([]error, len(items))
	live, at := make([]*batchItem, 0, len(items)), make([]int, 0, len(items))
	for i, it := range items {
		if it.ctx.Err() != nil {
			results[i] = middleware.Unacked(context.Cause(it.ctx))
			continue
		}
		live, at = append(live, it), append(at, i)
	}
	if len(live) == 0 {
		return results
	}
	all := errUnfinished
	defer func() {
		if v := recover(); v != nil {
			all = &middleware.PanicError{Value: v, Stack: debug.Stack()}
		}
		if all == nil {
			return
		}
		for _, i := range at {
			results[i] = all
		}
		if errors.Is(all, errUnfinished) { // nobody returns from here: tell them now
			for i, it := range items {
				it.result <- results[i]
			}
		}
	}()
	ctx, cancel := c.context(live)
	defer cancel()
	errs := c.fn(ctx, live)
	all = nil
	switch {
	case errs == nil:
	case len(errs) != len(live):
		err := fmt.Errorf("batch handler %s returned %d results for %d events", c.name, len(errs), len(live))
		c.router.log.Error("batch handler returned a wrong number of results, its events are poisoned",
			"handler", c.name, "events", len(live), "results", len(errs))
		all = middleware.Permanent(err)
	default:
		for j, i := range at {
			results[i] = errs[j]
		}
	}
	return results
}

// context returns the context of a call. It has the values of the first item's,
// without what belongs to that event, and ends after the last item's.
func (c *collector) context(items []*batchItem) (context.Context, context.CancelFunc) {
	ctx := middleware.Detach(context.WithoutCancel(items[0].ctx))
	ctx = baggage.ContextWithoutBaggage(trace.ContextWithSpan(ctx, nil))
	ctx = context.WithValue(ctx, batchKey{}, items)
	ctx, cancel := context.WithCancelCause(ctx)
	returned := make(chan struct{})
	go func() {
		for i, it := range items {
			select {
			case <-it.ctx.Done():
			case <-returned:
				return
			}
			if i == len(items)-1 {
				cancel(context.Cause(it.ctx))
			}
		}
	}()
	stop := func() { close(returned); cancel(nil) }
	if c.timeout <= 0 {
		return ctx, stop
	}
	ctx, stopTimer := context.WithTimeoutCause(ctx, c.timeout, middleware.ErrTimeout)
	return ctx, func() { stopTimer(); stop() }
}
