package inflight

import (
	"container/heap"
	"iter"
	"time"
)

// Options configure a Window. The zero value is usable.
type Options struct {
	// Max bounds the entries that are out. 0 for no bound, where the owner
	// counts by itself.
	Max int
	// MinPause is the pause after a first nack, doubled by each further nack in
	// a row up to MaxPause. Defaults to 10 ms.
	MinPause time.Duration
	// MaxPause defaults to 5 s.
	MaxPause time.Duration
}

// Window holds the entries that were fetched and not settled.
//
// Invariants, checked against a model in model_test.go:
//
//   - every lane has at least one entry and is in exactly one place: the ready
//     list, the out list or the heap of paused ones;
//   - keyed holds exactly the lanes with a key;
//   - only the head of a lane is ever out: at most one entry per key, and the
//     entries of a key are acked in the order in which they were added;
//   - at most Max lanes are out;
//   - a ticket is good exactly while its lane is out on the ticket's turn.
//
// It is not safe for concurrent use.
type Window[T any] struct {
	opts Options

	keyed  map[string]*lane[T]
	ready  list[T] // in the order of their turns
	outs   list[T] // in the order given out
	paused pauses[T]
	size   int // entries

	spare  *lane[T] // free lanes, linked by next, for reuse
	spares int
}

// maxSpares bounds the lanes kept for reuse, so that a burst does not stay in
// memory for ever.
const maxSpares = 1024

// Ticket stands for one delivery of an entry. The zero Ticket is never good.
type Ticket[T any] struct {
	lane *lane[T]
	turn uint64
}

// New returns an empty window.
func New[T any](opts Options) *Window[T] {
	if opts.MinPause <= 0 {
		opts.MinPause = 10 * time.Millisecond
	}
	if opts.MaxPause <= 0 {
		opts.MaxPause = 5 * time.Second
	}
	opts.MaxPause = max(opts.MaxPause, opts.MinPause)
	return &Window[T]{opts: opts, keyed: make(map[string]*lane[T])}
}

// Len returns how many entries are not settled.
func (w *Window[T]) Len() int { return w.size }

// Out returns how many entries are out: delivered, neither acked nor nacked.
func (w *Window[T]) Out() int { return w.outs.n }

// Ready returns how many lanes have an entry that may go out now. Max is not
// considered.
func (w *Window[T]) Ready() int { return w.ready.n }

// Add takes an entry that was fetched after all others of its key. The empty
// key is no key.
func (w *Window[T]) Add(key string, v T) {
	w.size++
	if key != "" {
		if l := w.keyed[key]; l != nil {
			l.push(v)
			return
		}
	}
	l := w.newLane(key)
	l.head = v
	if key != "" {
		w.keyed[key] = l
	}
	w.ready.pushBack(l)
}

// Next gives out the entry whose turn it is. ok is false when there is none, or
// Max are out.
func (w *Window[T]) Next() (v T, t Ticket[T], ok bool) {
	if w.ready.n == 0 || w.opts.Max > 0 && w.outs.n >= w.opts.Max {
		return v, t, false
	}
	l := w.ready.first
	w.ready.remove(l)
	w.outs.pushBack(l)
	l.place = isOut
	l.turn++
	return l.head, Ticket[T]{l, l.turn}, true
}

// Good reports whether t is still out.
func (t Ticket[T]) Good() bool {
	return t.lane != nil && t.lane.place == isOut && t.lane.turn == t.turn
}

// Ack settles the entry. The next one of its key gets its turn after the lanes
// that are ready already. It reports whether the ticket was good.
func (w *Window[T]) Ack(t Ticket[T]) bool {
	if !t.Good() {
		return false
	}
	w.outs.remove(t.lane)
	w.shift(t.lane)
	return true
}

// Nack keeps the entry, to be given out again before later ones of its key,
// after a pause that doubles with each nack in a row. The owner calls Tick at
// until. ok reports whether the ticket was good.
func (w *Window[T]) Nack(t Ticket[T], now time.Time) (until time.Time, ok bool) {
	if !t.Good() {
		return until, false
	}
	l := t.lane
	w.outs.remove(l)
	l.nacks++
	w.rest(l, now.Add(w.pause(l.nacks)))
	return l.until, true
}

// NackUntil is Nack with an end of the pause that the caller chooses. It does not
// count as one of the nacks in a row.
func (w *Window[T]) NackUntil(t Ticket[T], until time.Time) bool {
	if !t.Good() {
		return false
	}
	w.outs.remove(t.lane)
	w.rest(t.lane, until)
	return true
}

// rest makes a lane, which is in no list, pause.
func (w *Window[T]) rest(l *lane[T], until time.Time) {
	l.until = until
	l.place = isPaused
	w.paused.order++
	l.order = w.paused.order
	heap.Push(&w.paused, l)
}

// pause returns MinPause doubled nacks-1 times, at most MaxPause.
func (w *Window[T]) pause(nacks int) time.Duration {
	p := w.opts.MinPause
	for i := 1; i < nacks && p < w.opts.MaxPause; i++ {
		p *= 2
	}
	return min(p, w.opts.MaxPause)
}

// Tick lets lanes whose pause has ended take turns again. It returns when to
// call it next, or the zero time when nothing pauses.
func (w *Window[T]) Tick(now time.Time) (next time.Time) {
	for len(w.paused.lanes) > 0 {
		l := w.paused.lanes[0]
		if l.until.After(now) {
			return l.until
		}
		heap.Pop(&w.paused)
		w.ready.pushBack(l)
	}
	return time.Time{}
}

// Return takes back entries that were not handled: their subscriber has closed.
// They are given out before all others, in the order of the arguments, without
// a pause; nacks they had are still counted. It returns how many tickets were
// good.
func (w *Window[T]) Return(ts ...Ticket[T]) (good int) {
	for i := len(ts) - 1; i >= 0; i-- {
		if !ts[i].Good() {
			continue
		}
		good++
		w.outs.remove(ts[i].lane)
		w.ready.pushFront(ts[i].lane)
	}
	return good
}

// Drop forgets the entries that match, also those that are out, whose tickets
// are no longer good: a partition now belongs to somebody else. It returns how
// many there were. It takes time proportional to Len.
func (w *Window[T]) Drop(match func(T) bool) (dropped int) { return w.drop(match, false) }

// DropWaiting is Drop, but leaves the entries that are out: a partition that is
// about to belong to somebody else, once they are settled.
func (w *Window[T]) DropWaiting(match func(T) bool) (dropped int) { return w.drop(match, true) }

func (w *Window[T]) drop(match func(T) bool, keepOut bool) (dropped int) {
	for _, l := range w.all() {
		if keepOut && l.place == isOut {
			n := l.filterRest(match)
			dropped += n
			w.size -= n
			continue
		}
		before := l.n
		headGone := l.filter(match)
		gone := before - l.n
		dropped += gone
		w.size -= gone
		if !headGone {
			continue
		}
		// The nacks and the turn were the old head's.
		switch l.place {
		case isReady:
			if l.n > 0 {
				continue
			}
			w.ready.remove(l)
		case isOut:
			w.outs.remove(l)
		case isPaused:
			heap.Remove(&w.paused, l.heapIndex)
		}
		l.nacks = 0
		if l.n > 0 {
			w.ready.pushBack(l)
		} else {
			w.free(l)
		}
	}
	return dropped
}

// All returns the entries that are not settled. Those of one key come in their
// order; otherwise the order means nothing. The window must not be changed
// meanwhile.
func (w *Window[T]) All() iter.Seq[T] {
	return func(yield func(T) bool) {
		for _, l := range w.all() {
			if !l.each(yield) {
				return
			}
		}
	}
}

// all returns the lanes in the window.
func (w *Window[T]) all() []*lane[T] {
	ls := make([]*lane[T], 0, w.ready.n+w.outs.n+len(w.paused.lanes))
	for l := w.outs.first; l != nil; l = l.next {
		ls = append(ls, l)
	}
	for l := w.ready.first; l != nil; l = l.next {
		ls = append(ls, l)
	}
	return append(ls, w.paused.lanes...)
}

// shift takes the head off l, which is in no list, and puts l where it belongs.
func (w *Window[T]) shift(l *lane[T]) {
	w.size--
	l.nacks = 0
	if l.pop(); l.n > 0 {
		w.ready.pushBack(l)
		return
	}
	w.free(l)
}

func (w *Window[T]) newLane(key string) *lane[T] {
	l := w.spare
	if l == nil {
		l = new(lane[T])
	} else {
		w.spare, l.next = l.next, nil
		w.spares--
	}
	l.key, l.n, l.nacks = key, 1, 0
	return l
}

// free takes an empty lane out of the window. Its turn is kept: a ticket from
// before must not be good for the lane's next life.
func (w *Window[T]) free(l *lane[T]) {
	if l.key != "" {
		delete(w.keyed, l.key)
	}
	l.key, l.place = "", isFree
	if w.spares < maxSpares {
		l.next, w.spare = w.spare, l
		w.spares++
	}
}
