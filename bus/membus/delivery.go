package membus

import (
	"context"
	"sync"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/aura360/eventbus/bus/driver"
	"github.com/aura360/eventbus/internal/inflight"
)

// message makes a new message of r. The metadata is the consumer's own.
func (r *record) message() *message.Message {
	msg := message.NewMessage(r.uuid, r.payload)
	// NewMessage's map holds eight before it grows.
	if len(r.headers) > 8 {
		msg.Metadata = make(message.Metadata, len(r.headers))
	}
	for _, h := range r.headers {
		msg.Metadata[h.name] = h.value
	}
	return msg
}

// delivery is one message in a consumer's hands, and is its context: the values
// of Subscribe's, and an end of its own. It is a driver.Settler too.
//
// A context.WithCancel per message would take the lock of Subscribe's context
// twice for each. This one makes its channel when somebody asks for it, which
// for most messages is never.
type delivery struct {
	context.Context // Subscribe's

	topic  *topic
	direct bool // the consumer calls driver.Settle
	msg    *message.Message
	ticket inflight.Ticket[*record]

	// Guarded by the topic's mu. sub is nil once settled or given back.
	sub        *subscription
	prev, next *delivery

	mu    sync.Mutex
	ended bool
	done  chan struct{}
	after map[*func()]struct{} // what AfterFunc registered
}

// watch waits for the ack of a consumer that does not call Settle.
func (d *delivery) watch() {
	select {
	case <-d.msg.Acked():
		d.Settled(true)
	case <-d.msg.Nacked():
		d.Settled(false)
	case <-d.Done():
	}
}

// Settled implements driver.Settler. A delivery that was given back meanwhile
// changes nothing.
func (d *delivery) Settled(acked bool) { d.settled(acked, 0) }

// SettledLater implements driver.Deferrer.
func (d *delivery) SettledLater(after time.Duration) { d.settled(false, after) }

func (d *delivery) settled(acked bool, after time.Duration) {
	t := d.topic
	t.mu.Lock()
	if s := d.sub; s != nil {
		s.settle(d, acked, after)
		s.group.dispatch()
	}
	t.mu.Unlock()
}

// settle takes note of an ack, or of a nack and how long to wait. The caller
// dispatches.
func (s *subscription) settle(d *delivery, acked bool, after time.Duration) {
	g := s.group
	s.remove(d)
	if acked {
		g.window.Ack(d.ticket)
		s.topic.settled()
	} else if now := time.Now(); after > 0 {
		if until := now.Add(after); g.window.NackUntil(d.ticket, until) {
			g.alarm(until)
		}
	} else if until, ok := g.window.Nack(d.ticket, now); ok {
		g.alarm(until)
	}
	d.end()
}

var closedChan = func() chan struct{} {
	c := make(chan struct{})
	close(c)
	return c
}()

// end ends the context.
func (d *delivery) end() {
	d.mu.Lock()
	d.ended = true
	if d.done != nil {
		close(d.done)
	}
	after := d.after
	d.after = nil
	d.mu.Unlock()
	for f := range after {
		go (*f)()
	}
}

// Value implements context.Context.
func (d *delivery) Value(key any) any {
	if d.direct && driver.IsSettleKey(key) {
		return d
	}
	return d.Context.Value(key)
}

// Done implements context.Context.
func (d *delivery) Done() <-chan struct{} {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.done == nil {
		if d.ended {
			return closedChan
		}
		d.done = make(chan struct{})
	}
	return d.done
}

// Err implements context.Context.
func (d *delivery) Err() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if !d.ended {
		return nil
	}
	if err := d.Context.Err(); err != nil {
		return err
	}
	return context.Canceled
}

// AfterFunc is found by package context, which then needs no goroutine to derive
// a context from this one.
func (d *delivery) AfterFunc(f func()) (stop func() bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.ended {
		go f()
		return func() bool { return false }
	}
	if d.after == nil {
		d.after = make(map[*func()]struct{})
	}
	d.after[&f] = struct{}{}
	return func() bool {
		d.mu.Lock()
		defer d.mu.Unlock()
		_, ok := d.after[&f]
		delete(d.after, &f)
		return ok
	}
}
