package router

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/aura360/eventbus/events"
)

// round is several messages that a harness delivers together. Their goroutines
// run one at a time, as long as none waits for another, so that the order of what
// happens is always the same.
type round struct {
	changed chan struct{} // has room for one: something below changed

	mu      sync.Mutex
	running int // messages under way that do not wait in a batch
	waiting []*batchItem
}

type roundKey struct{}

// roundPatience is how long a message may run beside one that waits in a batch
// before it is taken for one that waits for it: for its mark, say.
const roundPatience = time.Second

// Batches reports whether msg, as it comes from topic, is for a batch handler.
func (r *Router) Batches(topic string, msg *message.Message) bool {
	name := ""
	r.mu.Lock()
	if r.tiers[topic] != nil {
		name, topic = msg.Metadata[events.HeaderRetryHandler], msg.Metadata[events.HeaderRetryTopic]
	}
	r.mu.Unlock()
	t := r.topics[topic]
	if t == nil {
		return false
	}
	if name != "" {
		h := t.byName(name)
		return h != nil && h.batch != nil
	}
	typ, err := events.TypeOf(msg.Metadata, msg.Payload)
	h := t.typed[typ]
	return err == nil && h != nil && h.batch != nil
}

// DeliverAll is Deliver for several messages of a topic at once, for harnesses
// that know of no others: batch handlers get those together that are theirs, in
// the order given and at most Max, and are called on the calling goroutine. It
// returns one error for each message.
func (r *Router) DeliverAll(topic string, msgs ...*message.Message) []error {
	errs := make([]error, len(msgs))
	rd := &round{changed: make(chan struct{}, 1)}
	for i, msg := range msgs {
		msg.SetContext(context.WithValue(msg.Context(), roundKey{}, rd))
		rd.change(1, nil)
		go func() {
			defer rd.change(-1, nil)
			errs[i] = errUnfinished
			errs[i] = r.Deliver(topic, msg)
		}()
		rd.pause()
	}
	for {
		items := rd.take()
		if items == nil {
			return errs
		}
		for i, err := range items[0].collector.handle(items) {
			rd.change(1, nil)
			items[i].result <- err
			rd.pause()
		}
	}
}

// wait is where an item waits for its batch.
func (rd *round) wait(it *batchItem) { rd.change(-1, it) }

func (rd *round) change(running int, waiting *batchItem) {
	rd.mu.Lock()
	rd.running += running
	if waiting != nil {
		rd.waiting = append(rd.waiting, waiting)
	}
	rd.mu.Unlock()
	select {
	case rd.changed <- struct{}{}:
	default:
	}
}

// pause returns when nothing runs but what seems to wait for a batch.
func (rd *round) pause() {
	for {
		rd.mu.Lock()
		running, waiting := rd.running, len(rd.waiting)
		rd.mu.Unlock()
		if running == 0 {
			return
		}
		var patience <-chan time.Time
		if waiting > 0 {
			patience = time.After(roundPatience)
		}
		select {
		case <-rd.changed:
		case <-patience:
			return
		}
	}
}

// take returns the next batch, nil when everything is done.
func (rd *round) take() []*batchItem {
	for {
		rd.mu.Lock()
		if len(rd.waiting) > 0 {
			c := rd.waiting[0].collector
			var items []*batchItem
			rd.waiting = slices.DeleteFunc(rd.waiting, func(it *batchItem) bool {
				mine := it.collector == c && len(items) < c.max
				if mine {
					items = append(items, it)
				}
				return mine
			})
			rd.mu.Unlock()
			return items
		}
		running := rd.running
		rd.mu.Unlock()
		if running == 0 {
			return nil
		}
		<-rd.changed
	}
}
