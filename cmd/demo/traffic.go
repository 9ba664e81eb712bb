package main

import (
	"context"
	"hash/fnv"
	"iter"
	"sync"
	"sync/atomic"
	"time"

	"github.com/aura360/eventbus/events"
)

// planned is one event and when, from the start on, its user makes it.
type planned struct {
	at    time.Duration
	event events.Event
}

// traffic publishes what a source plans, each event at its time, whatever the
// bus does: when publishing takes longer, events wait in lanes, visibly, and the
// plan goes on. One user's events stay in one lane, and so in their order.
type traffic struct {
	source interface{ next() (planned, bool) }
	length time.Duration // 0 for as long as the source goes on
	send   func(context.Context, events.Event)

	planned atomic.Int64 // events whose time came
	waiting atomic.Int64 // of these, not yet being published
	dropped atomic.Int64 // of these, given up because the run was stopped
}

const lanes = 64

// run returns when the plan is done and all of it was published. Once stop has
// ended, what was not begun is dropped; a publish that has begun goes on until
// its own end or that of ctx.
func (t *traffic) run(ctx, stop context.Context) {
	var all [lanes]lane
	var done sync.WaitGroup
	for i := range all {
		all[i].wake = make(chan struct{}, 1)
		done.Go(func() { t.publish(ctx, stop, &all[i]) })
	}
	start := time.Now()
	for p := range t.plan(stop) {
		if !wait(stop, time.Until(start.Add(p.at))) {
			break
		}
		t.planned.Add(1)
		t.waiting.Add(1)
		h := fnv.New32a()
		h.Write([]byte(p.event.Key()))
		all[h.Sum32()%lanes].add(p.event)
	}
	for i := range all {
		all[i].add(nil)
	}
	done.Wait()
}

// plan yields the source's events until it ends, or stop does. The source is
// asked beside the loop, because one that reads a terminal or a pipe may not
// return for as long as the process lives.
func (t *traffic) plan(stop context.Context) iter.Seq[planned] {
	next := make(chan planned)
	go func() {
		defer close(next)
		for {
			p, ok := t.source.next()
			if !ok || t.length > 0 && p.at > t.length {
				return
			}
			select {
			case next <- p:
			case <-stop.Done():
				return
			}
		}
	}()
	return func(yield func(planned) bool) {
		for {
			select {
			case p, ok := <-next:
				if !ok || !yield(p) {
					return
				}
			case <-stop.Done():
				return
			}
		}
	}
}

// publish works one lane off, until its end.
func (t *traffic) publish(ctx, stop context.Context, l *lane) {
	for {
		for _, e := range l.take() {
			if e == nil {
				return
			}
			t.waiting.Add(-1)
			if stop.Err() != nil {
				t.dropped.Add(1)
				continue
			}
			t.send(ctx, e)
		}
	}
}

// lane is a queue without a bound: a full one would slow the plan down.
type lane struct {
	mu     sync.Mutex
	events []events.Event // nil is the end
	wake   chan struct{}
}

func (l *lane) add(e events.Event) {
	l.mu.Lock()
	l.events = append(l.events, e)
	l.mu.Unlock()
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

// take returns what waits, and waits for something to.
func (l *lane) take() []events.Event {
	<-l.wake
	l.mu.Lock()
	defer l.mu.Unlock()
	out := l.events
	l.events = nil
	return out
}

// wait reports whether ctx lasted.
func wait(ctx context.Context, d time.Duration) bool {
	if d <= 0 {
		return ctx.Err() == nil
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// nobody is the source of no traffic.
type nobody struct {
	ctx    context.Context
	length time.Duration
}

func (n nobody) next() (planned, bool) {
	if n.length > 0 {
		wait(n.ctx, n.length)
	} else {
		<-n.ctx.Done()
	}
	return planned{}, false
}
