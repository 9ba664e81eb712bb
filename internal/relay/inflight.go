package relay

import (
	"context"
	"maps"
	"slices"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
)

// delivery is one message on its way.
type delivery struct {
	msg   *message.Message
	ctx   context.Context  // the adapter's, as it was when the message came
	done  <-chan struct{}  // ctx.Done(); nil: the adapter gives a message no context of its own
	own   *deliveryContext // the context of this delivery, a child of ctx
	meta  message.Metadata // the metadata as it came, for when it comes again
	nacks int              // times the message was nacked and came again
}

// over tells whether nothing can be learned from d any more.
func (d *delivery) over() bool {
	if d.done == nil {
		return isClosed(d.msg.Acked())
	}
	return isClosed(d.done)
}

// inflight lists the deliveries of which the adapter may still take note, in no
// order. It is as long as the adapter has partitions, and about as much again
// that is not yet pruned.
type inflight struct {
	list []delivery
	next int // where pruning goes on
}

// arrived returns the delivery that msg is, and gives it a context of its own.
// The message that the adapter redelivers is known by its context or, where the
// adapter dropped it, by its UUID; it then takes the place of the one nacked,
// whose context ends: the adapter has taken note of the nack. It comes with the
// metadata that the first one came with, whatever a consumer did to that: the
// adapters send a copy of the very message that was handled.
func (f *inflight) arrived(base context.Context, msg *message.Message) delivery {
	d := delivery{msg: msg, ctx: msg.Context()}
	d.done = d.ctx.Done()
	if d.done == base.Done() {
		d.done = nil // not the message's own: it says nothing about an ack
	}
	for i := range f.list {
		old := &f.list[i]
		if d.done != nil && old.done != d.done || d.done == nil && old.msg.UUID != msg.UUID ||
			!isClosed(old.msg.Nacked()) {
			continue
		}
		d.ctx, d.done, d.meta, d.nacks = old.ctx, old.done, old.meta, old.nacks+1
		msg.Metadata = maps.Clone(d.meta)
		f.remove(i)
		break
	}
	if d.ctx.Done() == nil {
		// An adapter that gives no context: the values and the end at least.
		d.ctx = base
	}
	if d.nacks == 0 {
		d.meta = maps.Clone(msg.Metadata)
	}
	d.own = &deliveryContext{Context: d.ctx}
	msg.SetContext(d.own)
	return d
}

// add lists a delivery that was forwarded. It looks at two others on the way,
// so those that are over never outnumber the rest for long.
func (f *inflight) add(d delivery) {
	for range 2 {
		if f.next >= len(f.list) {
			f.next = 0
		}
		if f.next < len(f.list) {
			if f.list[f.next].over() {
				f.remove(f.next)
			} else {
				f.next++
			}
		}
	}
	f.list = append(f.list, d)
}

func (f *inflight) remove(i int) {
	f.list[i].own.end()
	last := len(f.list) - 1
	f.list[i] = f.list[last]
	f.list[last] = delivery{}
	f.list = f.list[:last]
}

// nackPause is how long a message that was nacked n times is held back, on top
// of the NackResendSleep that the adapter slept already.
func nackPause(n int) time.Duration {
	if n < 2 {
		return 0
	}
	return min(NackResendSleep<<min(n-1, 10), MaxNackPause) - NackResendSleep
}

// pauses holds back deliveries until they are due. There are as many as
// partitions with a message that keeps being nacked.
type pauses struct {
	list  []paused // soonest first
	timer *time.Timer
}

type paused struct {
	delivery
	at time.Time
}

func (p *pauses) add(d delivery, wait time.Duration) {
	at := time.Now().Add(wait)
	i, _ := slices.BinarySearchFunc(p.list, at, func(e paused, at time.Time) int { return e.at.Compare(at) })
	p.list = slices.Insert(p.list, i, paused{d, at})
	p.arm()
}

// due returns the channel that fires when pop may be called.
func (p *pauses) due() <-chan time.Time {
	if len(p.list) == 0 {
		return nil
	}
	return p.timer.C
}

// pop returns the soonest.
func (p *pauses) pop() delivery {
	d := p.list[0].delivery
	p.list = slices.Delete(p.list, 0, 1)
	p.arm()
	return d
}

func (p *pauses) arm() {
	switch {
	case len(p.list) == 0:
	case p.timer == nil:
		p.timer = time.NewTimer(time.Until(p.list[0].at))
	default:
		p.timer.Reset(time.Until(p.list[0].at))
	}
}

func (p *pauses) stop() {
	if p.timer != nil {
		p.timer.Stop()
	}
}
