package middleware

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/aura360/eventbus/bus/driver"
)

// DelayConfig configures a Delay.
type DelayConfig struct {
	// Delays is the ladder; one without a rung makes the piece do nothing.
	Delays Delays
	// Ordered keeps later messages of the same key waiting.
	Ordered bool
	// Sink takes what waits. It is not used, and may be nil, when Ordered.
	Sink DelaySink
	// Stopping ends waits in place when it is closed, because the consumer is
	// stopping. nil never does.
	Stopping <-chan struct{}
	// Sleep waits in place, as RetryPolicy's does. Defaults to a timer that Stopping
	// ends too.
	Sleep func(ctx context.Context, d time.Duration) error
	// Metrics counts what is parked and taken up again. Defaults to none.
	Metrics *Metrics
	Log     *slog.Logger
}

// Delay puts a message off whose tries failed, for the next delay of a ladder
// (5 s, 1 min, 10 min, say), after which it is tried again as if it had just
// been delivered. What fails after the last delay is returned, for Poison. So is
// at once what trying again cannot mend: Permanent, an *events.Error. RetryAfter
// makes the wait longer, never shorter. A message that must be left alone
// (Unacked, a stopped delivery) is.
//
// By default the message moves into its group's retry topic, and is acked once
// that has it (OutcomeParked): nothing waits for it, also not later messages of
// its key. Whoever reads the retry topic calls ReadParked, StripParked and
// Delivery.Resume and sends the message through the handler's chain again. A
// retry topic that cannot be written leaves the message unacked; one that will
// never take it is no reason to lose the message: it is poisoned.
//
// Ordered parks in place: the message stays unacked with its driver, for the
// delay (driver.SettleLater), and later ones of its key wait behind it. Where the
// driver cannot, the message waits here when it comes again, in its in-flight
// slot: with the stock adapters its whole partition waits. How far it got is
// remembered in this process, for 10,000 messages: after a restart or in another
// process the ladder begins anew. Kafka's committed offset stands before the
// message meanwhile, so what was handled behind it comes again after a restart.
// Messages without an id of any kind are not parked in place.
//
// It stands inside Deduplicate and Poison, outside Retry.
func Delay(cfg DelayConfig) message.HandlerMiddleware {
	if !cfg.Ordered && cfg.Sink == nil && len(cfg.Delays) > 0 {
		panic("middleware.Delay: nil sink")
	}
	if cfg.Sleep == nil {
		cfg.Sleep = func(ctx context.Context, d time.Duration) error { return sleepUntilStop(ctx, cfg.Stopping, d) }
	}
	cfg.Log = orDiscard(cfg.Log)
	p := &delayer{DelayConfig: cfg, rungs: map[MarkKey]rung{}}
	return func(next message.HandlerFunc) message.HandlerFunc {
		switch {
		case len(cfg.Delays) == 0:
			return next
		case cfg.Ordered:
			return func(msg *message.Message) ([]*message.Message, error) { return p.inPlace(next, msg) }
		}
		return func(msg *message.Message) ([]*message.Message, error) { return p.moving(next, msg) }
	}
}

type delayer struct {
	DelayConfig
	mu    sync.Mutex
	rungs map[MarkKey]rung // guarded by mu; of messages parked in place
}

// rung is how far a message parked in place has got.
type rung struct {
	step, attempts int
	first, due     time.Time
}

const maxRungs = 10_000

// moving is Delay without order.
func (p *delayer) moving(next message.HandlerFunc, msg *message.Message) ([]*message.Message, error) {
	d := deliveryOf(msg)
	p.countResumed(d)
	out, err := next(msg)
	if err == nil {
		return out, nil
	}
	now := d.failed()
	wait, ok := p.wait(d, err)
	if !ok {
		return nil, err
	}
	delay := p.Delays.AtLeast(wait)
	serr := p.Sink(msg.Context(), d.Group, delay, ParkedMessage(msg, Parked{
		Due: now.Add(delay), NotBefore: now.Add(wait), Step: d.Step + 1, Attempts: d.Attempt, First: d.FirstFailure,
		Group: d.Group, Handler: d.Handler, Topic: d.Topic, Error: err.Error(),
	}))
	switch {
	case errors.Is(serr, driver.ErrPermanent):
		return nil, err
	case serr != nil:
		return nil, Unacked(fmt.Errorf("retry topic: %w (the message is to wait %v after: %w)", serr, delay, err))
	}
	d.Outcome = OutcomeParked
	p.parked(d, delay, err)
	return nil, nil
}

// inPlace is Delay with order.
func (p *delayer) inPlace(next message.HandlerFunc, msg *message.Message) ([]*message.Message, error) {
	d := deliveryOf(msg)
	key, known := rungKey(d)
	if r, climbing := p.rung(key); climbing {
		d.Step, d.FirstFailure, d.Attempt, d.resumed = r.step, r.first, r.attempts+1, r.attempts
		// A driver that cannot wait delivers early.
		if wait := time.Until(r.due); wait > 0 {
			if err := p.Sleep(d, wait); err != nil {
				return nil, Unacked(err)
			}
		}
		p.countResumed(d)
	}
	out, err := next(msg)
	if err == nil {
		p.forget(key)
		return out, nil
	}
	now := d.failed()
	if mustLeave(d, err) {
		return nil, err
	}
	wait, ok := p.wait(d, err)
	if !ok || !known {
		p.forget(key)
		return nil, err
	}
	p.remember(key, rung{step: d.Step + 1, attempts: d.Attempt, first: d.FirstFailure, due: now.Add(wait)})
	d.Outcome, d.later = OutcomeParked, wait
	p.parked(d, p.Delays[d.Step], err)
	return nil, Unacked(err)
}

// wait returns how long to put d off for err, false when it is not to be.
func (p *delayer) wait(d *Delivery, err error) (time.Duration, bool) {
	if mustLeave(d, err) || isFinal(err) || d.Step >= len(p.Delays) {
		return 0, false
	}
	asked, _ := RetryAfterOf(err)
	return max(p.Delays[d.Step], asked), true
}

func (p *delayer) parked(d *Delivery, delay time.Duration, err error) {
	if m := p.Metrics; m != nil {
		m.parked.WithLabelValues(systemOf(d.Backend, ""), d.Topic, d.Group, d.Handler, DelayName(delay)).Inc()
	}
	p.Log.WarnContext(d, "handler failed, message parked",
		"topic", d.Topic, "group", d.Group, "handler", d.Handler, "event_id", eventID(d),
		"attempts", d.Attempt, "delay", delay, "error", err)
}

func (p *delayer) countResumed(d *Delivery) {
	if p.Metrics == nil || d.Step == 0 {
		return
	}
	// The ladder may have been longer when the message was parked.
	delay := p.Delays[min(d.Step, len(p.Delays))-1]
	p.Metrics.resumed.WithLabelValues(systemOf(d.Backend, ""), d.Topic, d.Group, d.Handler, DelayName(delay)).Inc()
}

// rungKey identifies d's message for as long as it is parked in place.
func rungKey(d *Delivery) (MarkKey, bool) {
	id := eventID(d)
	if id == "" {
		id = d.Msg.UUID // the driver delivers the same message again
	}
	return markKey(d, id), id != ""
}

func (p *delayer) rung(key MarkKey) (rung, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	r, ok := p.rungs[key]
	return r, ok
}

func (p *delayer) remember(key MarkKey, r rung) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if _, there := p.rungs[key]; !there && len(p.rungs) >= maxRungs {
		for other := range p.rungs {
			delete(p.rungs, other) // its ladder begins anew
			break
		}
	}
	p.rungs[key] = r
}

func (p *delayer) forget(key MarkKey) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.rungs, key)
}

// errStopping is why a wait in place ended early.
var errStopping = errors.New("the consumer is stopping")

// sleepUntilStop is sleep that stopping ends as well.
func sleepUntilStop(ctx context.Context, stopping <-chan struct{}, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-stopping:
		return errStopping
	case <-ctx.Done():
		return ctx.Err()
	}
}
