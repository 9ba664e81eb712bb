package main

import (
	"context"
	"sync"
	"time"

	"github.com/aura360/eventbus/events"
	"github.com/aura360/eventbus/events/aura360"
)

// talk is what the traffic's users and their guardians said.
type talk struct {
	waiting         sync.WaitGroup
	mu              sync.Mutex
	asked, answered int
	took            histogram
	question, reply string // the newest
}

// send publishes what a user of the traffic does. What becomes of it is in the
// ledger; what went wrong is in the journal too.
func (d *demo) send(ctx context.Context, e events.Event) {
	q, ok := e.(aura360.GuardianRequest)
	if !ok {
		if err := d.bus.Publish(ctx, e); err != nil {
			d.journal.note(err.Error())
		}
		return
	}
	q.RequestID = events.NewID()
	start := time.Now()
	r, err := d.api.ask(ctx, q)
	if err != nil {
		d.journal.note(err.Error())
		return
	}
	d.talk.mu.Lock()
	d.talk.asked++
	d.talk.mu.Unlock()
	d.talk.waiting.Go(func() {
		ctx, cancel := context.WithTimeout(ctx, maxWait)
		defer cancel()
		select {
		case <-r.done:
		case <-ctx.Done():
			return
		}
		d.talk.mu.Lock()
		defer d.talk.mu.Unlock()
		d.talk.answered++
		d.talk.took.add(time.Since(start))
		d.talk.question, d.talk.reply = q.Query, r.answer.Response
	})
}
