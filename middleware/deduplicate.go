package middleware

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/cespare/xxhash/v2"

	"github.com/aura360/eventbus/events"
)

const (
	// settleGrace bounds Done and Release once the delivery's context has ended.
	settleGrace = 2 * time.Second
	// marksLogPeriod keeps a store that is down from filling the log.
	marksLogPeriod = 10 * time.Second
)

// Deduplicate drops copies of an event that this group's handler has dealt with:
// failover, redelivery and publishers that repeat themselves make them. An event
// is known by group, handler, source (ce_source) and event id; one without an id
// is always handled.
//
// It claims the event, calls the handler, and marks the event done only after the
// handler succeeded or the message is in the poison queue. A failed handling
// gives the claim back. A copy that comes while another is being handled waits
// for that one, and is acked unhandled (OutcomeDuplicate) or handled, as it
// turns out. A message that was parked for a delayed retry is not done: the claim
// is given back, and the retry claims it again. The same id with another body is an event of its own: it is handled,
// counted (Delivery.OtherBody) and logged.
//
// When the store fails, the message is handled without its protection; it is
// counted (Delivery.MarksFailed) and logged.
//
// It stands outside Poison, whose decision it marks, and inside the dispatch,
// which names the handler.
func Deduplicate(marks Marks, log *slog.Logger) message.HandlerMiddleware {
	dd := &deduplicator{marks: marks, log: orDiscard(log)}
	return func(next message.HandlerFunc) message.HandlerFunc {
		return func(msg *message.Message) ([]*message.Message, error) {
			return dd.handle(next, msg)
		}
	}
}

type deduplicator struct {
	marks  Marks
	log    *slog.Logger
	logged sometimes
}

func (dd *deduplicator) handle(next message.HandlerFunc, msg *message.Message) (out []*message.Message, err error) {
	d := deliveryOf(msg)
	id := eventID(d)
	if id == "" {
		return next(msg)
	}
	key, body := markKey(d, id), xxhash.Sum64(events.Content(msg.Payload))
	claim, err := dd.marks.Claim(d, key, body)
	other := err == nil && claim.State == OtherBody
	if other {
		key = key.with(body)
		claim, err = dd.marks.Claim(d, key, body)
	}
	switch {
	case err != nil && d.Err() != nil:
		return nil, Unacked(err) // stopped while it waited: nothing was done
	case err != nil:
		dd.failed(d, id, err)
		return next(msg)
	case claim.State == AlreadyDone:
		d.Outcome = OutcomeDuplicate
		return nil, nil
	case claim.State != Claimed:
		dd.failed(d, id, errors.New("the store of marks contradicts itself"))
		return next(msg)
	}
	if other {
		d.OtherBody = true
		dd.log.WarnContext(d, "same event id with another body, handled as an event of its own",
			"topic", d.Topic, "group", d.Group, "handler", d.Handler, "event_id", id)
	}

	var lease *renewal
	if period := dd.marks.Lease(); period > 0 {
		lease = renew(d, dd.marks, key, claim.Token, period)
	}
	err = errAborted // a panic: the claim must not outlive it
	defer func() {
		if lease != nil {
			lease.stop()
		}
		done := err == nil && d.Outcome != OutcomeIgnored && d.Outcome != OutcomeParked
		if serr := dd.settle(d, done, key, claim.Token); serr != nil {
			dd.failed(d, id, serr)
		}
	}()
	return next(msg)
}

// settle turns the claim into a mark or gives it back. When the delivery's
// context has ended it tries once more with time of its own: what was handled
// should be known.
func (dd *deduplicator) settle(ctx context.Context, done bool, key MarkKey, token uint64) error {
	err := dd.settleOnce(ctx, done, key, token)
	if err == nil || ctx.Err() == nil || errors.Is(err, ErrClaimLost) {
		return err
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), settleGrace)
	defer cancel()
	return dd.settleOnce(ctx, done, key, token)
}

func (dd *deduplicator) settleOnce(ctx context.Context, done bool, key MarkKey, token uint64) error {
	if done {
		return dd.marks.Done(ctx, key, token)
	}
	return dd.marks.Release(ctx, key, token)
}

func (dd *deduplicator) failed(d *Delivery, id string, err error) {
	d.MarksFailed = true
	if dd.logged.now(marksLogPeriod) {
		dd.log.ErrorContext(d, "marks failed, an event may be handled twice",
			"topic", d.Topic, "group", d.Group, "handler", d.Handler, "event_id", id, "error", err)
	}
}

// renewal keeps a claim while its handler runs. It costs a timer; a goroutine
// runs only for a handler that takes longer than a third of the lease.
type renewal struct {
	renew func(ctx context.Context) error
	third time.Duration
	ctx   context.Context
	end   context.CancelFunc

	mu      sync.Mutex
	timer   *time.Timer
	stopped bool
	running chan struct{} // closed when the call under way has returned
}

func renew(ctx context.Context, marks Marks, key MarkKey, token uint64, lease time.Duration) *renewal {
	r := &renewal{
		renew: func(ctx context.Context) error { return marks.Renew(ctx, key, token) },
		third: max(lease/3, time.Millisecond),
	}
	// A handler that goes on after its delivery was stopped still holds the claim.
	r.ctx, r.end = context.WithCancel(context.WithoutCancel(ctx))
	r.mu.Lock()
	defer r.mu.Unlock()
	r.timer = time.AfterFunc(r.third, r.run)
	return r
}

func (r *renewal) run() {
	r.mu.Lock()
	if r.stopped {
		r.mu.Unlock()
		return
	}
	running := make(chan struct{})
	r.running = running
	r.mu.Unlock()

	ctx, cancel := context.WithTimeout(r.ctx, r.third)
	err := r.renew(ctx)
	cancel()

	r.mu.Lock()
	defer r.mu.Unlock()
	close(running)
	// A lost claim is noticed when it is settled. Any other error may pass.
	if !r.stopped && !errors.Is(err, ErrClaimLost) {
		r.timer.Reset(r.third)
	}
}

// stop ends the renewal and waits for a call under way.
func (r *renewal) stop() {
	r.mu.Lock()
	r.stopped = true
	r.timer.Stop()
	running := r.running
	r.mu.Unlock()
	r.end()
	if running != nil {
		<-running
	}
}
