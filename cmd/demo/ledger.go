package main

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/aura360/eventbus/bus/driver"
	"github.com/aura360/eventbus/events"
	"github.com/aura360/eventbus/middleware"
)

// ledger is the account of this run: what the bus accepted, and what every
// consumer group did with it. It keeps each (group, event id) by itself, so that
// a lost event and a doubled one can never make up for each other.
//
// It learns of publishes as middleware on the way out, innermost but for the
// bus's own retries, and of handling as middleware on the way in, right around
// the handler: after the effect. Events of other runs and other programs, which
// a broker's topics may hold, are handled like any, but not part of the account.
type ledger struct {
	now func() time.Time

	mu      sync.Mutex
	groups  map[string][]string   // who handles an event type, by type
	order   []string              // groups, as they were named
	events  map[string]*sentEvent // by event id
	claims  map[claim]*claimed
	types   map[string]*typeCount
	byGroup map[string]*groupCount
	publish histogram
	handle  histogram
	sending int // publishes under way
	running int // deliveries under way
	open    int // confirmed (group, id) that no group has settled yet
	settled int // deliveries that ended well, of this run or not; it only grows
	foreign int
	copies  int // dropped as duplicates before the handler
	failed  int // tries of handlers that failed
	unacked int // deliveries to come again
	refused int // publishes that were not confirmed
	lastErr string
}

// claim is one group's part in one event.
type claim struct{ group, id string }

type claimed struct{ handled, poisoned int }

// sentEvent is one event of this run.
type sentEvent struct {
	typ     string
	sent    time.Time // when the first publish began
	outcome driver.Outcome
	known   bool // one publish at least has ended: outcome counts
}

type typeCount struct{ published, handled int }

type groupCount struct {
	handled, poisoned int
	latency           histogram
}

func newLedger() *ledger {
	return &ledger{
		now: time.Now, groups: map[string][]string{}, events: map[string]*sentEvent{}, claims: map[claim]*claimed{},
		types: map[string]*typeCount{}, byGroup: map[string]*groupCount{},
	}
}

// expect says that group handles every event of the type. It is called before
// the run, never during it.
func (l *ledger) expect(typ, group string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.groups[typ] = append(l.groups[typ], group)
	if !slices.Contains(l.order, group) {
		l.order = append(l.order, group)
	}
	l.ofGroup(group)
}

// publishing is the middleware on the way out (bus.Config.PublishMiddleware).
func (l *ledger) publishing(next middleware.PublishFunc) middleware.PublishFunc {
	return func(ctx context.Context, topic string, msgs ...*message.Message) error {
		start := l.now()
		for _, m := range msgs {
			l.begin(m.Metadata[events.HeaderEventID], m.Metadata[events.HeaderEventType], start)
		}
		err := next(ctx, topic, msgs...)
		results := driver.Results(err, len(msgs))
		for i, m := range msgs {
			l.end(m.Metadata[events.HeaderEventID], results[i], l.now().Sub(start))
		}
		return err
	}
}

// begin notes an event before it is sent: it may be handled before its
// publisher is told.
func (l *ledger) begin(id, typ string, at time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if id == "" {
		return // a plain message, not an event
	}
	l.sending++
	if l.events[id] == nil {
		l.events[id] = &sentEvent{typ: typ, sent: at}
	}
}

// end notes what the publisher is told. Of several publishes of one id the best
// outcome counts: what was confirmed once is kept.
func (l *ledger) end(id string, r driver.Result, took time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	e := l.events[id]
	if e == nil {
		return
	}
	l.sending--
	if r.Err != nil {
		l.refused++
		l.lastErr = r.Err.Error()
	}
	if e.known && rank(r.Outcome) >= rank(e.outcome) {
		return
	}
	e.outcome, e.known = r.Outcome, true
	if r.Outcome != driver.Confirmed {
		return
	}
	l.publish.add(took)
	l.ofType(e.typ).published++
	for _, g := range l.groups[e.typ] {
		if l.claims[claim{g, id}] == nil {
			l.open++
		}
	}
}

// rank orders outcomes from the best to the worst.
func rank(o driver.Outcome) int {
	return slices.Index([]driver.Outcome{driver.Confirmed, driver.Unknown, driver.Rejected}, o)
}

// delivering is the middleware around everything that happens to a delivered
// message (router.Config.Outer): it sees what became of it.
func (l *ledger) delivering(next message.HandlerFunc) message.HandlerFunc {
	return func(msg *message.Message) ([]*message.Message, error) {
		l.count(func() { l.running++ })
		defer l.count(func() { l.running-- })
		out, err := next(msg)
		d := middleware.DeliveryFrom(msg.Context())
		switch {
		case err != nil:
			l.count(func() { l.unacked++ })
		case d.Outcome == middleware.OutcomePoisoned:
			l.settle(d, func(c *claimed, g *groupCount) { c.poisoned++; g.poisoned++ })
		case d.Outcome == middleware.OutcomeDuplicate:
			l.count(func() { l.copies++; l.settled++ })
		}
		return out, err
	}
}

// handling is the middleware right around the handler (router.Config.Inner): it
// sees every try. One that returns nil has had its effect.
func (l *ledger) handling(next message.HandlerFunc) message.HandlerFunc {
	return func(msg *message.Message) ([]*message.Message, error) {
		out, err := next(msg)
		if err != nil {
			l.count(func() { l.failed++; l.lastErr = err.Error() })
			return out, err
		}
		l.settle(middleware.DeliveryFrom(msg.Context()), func(c *claimed, g *groupCount) { c.handled++; g.handled++ })
		return out, nil
	}
}

func (l *ledger) count(f func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	f()
}

// settle notes that a group is through with an event.
func (l *ledger) settle(d *middleware.Delivery, note func(*claimed, *groupCount)) {
	id := d.Msg.Metadata[events.HeaderEventID]
	if e, ok := d.Event.(events.Event); ok {
		id = events.BaseOf(e).ID
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.settled++
	e := l.events[id]
	if e == nil {
		l.foreign++
		return
	}
	key, group := claim{d.Group, id}, l.ofGroup(d.Group)
	c := l.claims[key]
	if c == nil {
		c = &claimed{}
		l.claims[key] = c
		if e.known && e.outcome == driver.Confirmed && slices.Contains(l.groups[e.typ], d.Group) {
			l.open--
		}
	}
	before := c.handled
	note(c, group)
	if c.handled > before {
		took := l.now().Sub(e.sent)
		l.ofType(e.typ).handled++
		l.handle.add(took)
		group.latency.add(took)
	}
}

func (l *ledger) ofType(typ string) *typeCount {
	if l.types[typ] == nil {
		l.types[typ] = &typeCount{}
	}
	return l.types[typ]
}

func (l *ledger) ofGroup(group string) *groupCount {
	if l.byGroup[group] == nil {
		l.byGroup[group] = &groupCount{}
	}
	return l.byGroup[group]
}

// pulse is what the live view shows: counts at one moment.
type pulse struct {
	types           map[string]typeCount
	groups          map[string]groupCount
	order           []string            // groups, as they were named
	handlers        map[string][]string // groups by event type
	publish, handle histogram
	open, inFlight  int // waiting for a group; in a handler now
	sending         int
	settled         int
	foreign, copies int
	failed, unacked int
	refused         int
	lastErr         string
}

func (l *ledger) pulse() pulse {
	l.mu.Lock()
	defer l.mu.Unlock()
	p := pulse{
		types: map[string]typeCount{}, groups: map[string]groupCount{}, order: l.order, handlers: l.groups, publish: l.publish, handle: l.handle,
		open: l.open, inFlight: l.running, sending: l.sending, settled: l.settled,
		foreign: l.foreign, copies: l.copies, failed: l.failed, unacked: l.unacked, refused: l.refused, lastErr: l.lastErr,
	}
	for t, c := range l.types {
		p.types[t] = *c
	}
	for g, c := range l.byGroup {
		p.groups[g] = *c
	}
	return p
}

// total is every event published and every one handled, by type.
func (p pulse) total() (published, handled, poisoned int) {
	for _, t := range p.types {
		published, handled = published+t.published, handled+t.handled
	}
	for _, g := range p.groups {
		poisoned += g.poisoned
	}
	return published, handled, poisoned
}

// quiet reports that everything is settled and nothing is under way.
func (p pulse) quiet() bool { return p.open == 0 && p.sending == 0 && p.inFlight == 0 }
