package inflight

import "time"

// place is where a lane is.
type place uint8

const (
	isFree place = iota
	isReady
	isOut
	isPaused
)

// lane is the entries of one key, or one entry without a key. Most lanes have
// one entry, so the head lives in the lane and only the rest in a queue.
type lane[T any] struct {
	key   string
	n     int // entries; 0 only while free
	head  T
	rest  []T // after the head, from index first
	first int

	place place
	turn  uint64 // times given out, never reset
	nacks int    // of the head, in a row

	until     time.Time // paused: until when,
	order     uint64    // in which order among equals,
	heapIndex int       // and where

	prev, next *lane[T] // in the ready or out list
}

func (l *lane[T]) push(v T) {
	if l.first > 0 && len(l.rest) == cap(l.rest) {
		// Half or more of the room is free at the front: move rather than grow.
		if l.first*2 >= len(l.rest) {
			n := copy(l.rest, l.rest[l.first:])
			clear(l.rest[n:])
			l.rest, l.first = l.rest[:n], 0
		}
	}
	l.rest = append(l.rest, v)
	l.n++
}

// pop drops the head; the next entry becomes the head.
func (l *lane[T]) pop() {
	var zero T
	l.n--
	if l.n == 0 {
		l.head = zero
		l.rest, l.first = l.trim(l.rest[:0]), 0
		return
	}
	l.head = l.rest[l.first]
	l.rest[l.first] = zero
	l.first++
	if l.first == len(l.rest) {
		l.rest, l.first = l.trim(l.rest[:0]), 0
	}
}

// trim lets go of a queue that a burst has made large.
func (l *lane[T]) trim(rest []T) []T {
	if cap(rest) > 64 {
		return nil
	}
	return rest
}

// each yields the entries in order until yield says stop.
func (l *lane[T]) each(yield func(T) bool) bool {
	if !yield(l.head) {
		return false
	}
	for _, v := range l.rest[l.first:] {
		if !yield(v) {
			return false
		}
	}
	return true
}

// filter drops the entries that match and reports whether the head was one.
// The lane may be empty afterwards.
func (l *lane[T]) filter(match func(T) bool) (headGone bool) {
	l.filterRest(match)
	if !match(l.head) {
		return false
	}
	l.pop()
	return true
}

// filterRest drops the entries after the head that match, and tells how many.
func (l *lane[T]) filterRest(match func(T) bool) (dropped int) {
	before := l.n
	kept := l.rest[:0]
	for _, v := range l.rest[l.first:] {
		if !match(v) {
			kept = append(kept, v)
		}
	}
	clear(l.rest[len(kept):])
	l.rest, l.first = kept, 0
	l.n = 1 + len(kept)
	return before - l.n
}

// list is a doubly linked list of lanes. A lane in it is ready; the one list
// whose lanes are not sets their place after pushing.
type list[T any] struct {
	first, last *lane[T]
	n           int
}

func (s *list[T]) pushBack(l *lane[T]) {
	l.place = isReady
	l.prev, l.next = s.last, nil
	if s.last != nil {
		s.last.next = l
	} else {
		s.first = l
	}
	s.last = l
	s.n++
}

func (s *list[T]) pushFront(l *lane[T]) {
	l.place = isReady
	l.prev, l.next = nil, s.first
	if s.first != nil {
		s.first.prev = l
	} else {
		s.last = l
	}
	s.first = l
	s.n++
}

func (s *list[T]) remove(l *lane[T]) {
	if l.prev != nil {
		l.prev.next = l.next
	} else {
		s.first = l.next
	}
	if l.next != nil {
		l.next.prev = l.prev
	} else {
		s.last = l.prev
	}
	l.prev, l.next = nil, nil
	s.n--
}

// pauses is a heap of paused lanes, the earliest first. It implements
// heap.Interface.
type pauses[T any] struct {
	lanes []*lane[T]
	order uint64
}

// Len implements heap.Interface.
func (p *pauses[T]) Len() int { return len(p.lanes) }

// Less implements heap.Interface.
func (p *pauses[T]) Less(i, j int) bool {
	a, b := p.lanes[i], p.lanes[j]
	if a.until.Equal(b.until) {
		return a.order < b.order
	}
	return a.until.Before(b.until)
}

// Swap implements heap.Interface.
func (p *pauses[T]) Swap(i, j int) {
	p.lanes[i], p.lanes[j] = p.lanes[j], p.lanes[i]
	p.lanes[i].heapIndex, p.lanes[j].heapIndex = i, j
}

// Push implements heap.Interface.
func (p *pauses[T]) Push(x any) {
	l := x.(*lane[T])
	l.heapIndex = len(p.lanes)
	p.lanes = append(p.lanes, l)
}

// Pop implements heap.Interface.
func (p *pauses[T]) Pop() any {
	n := len(p.lanes) - 1
	l := p.lanes[n]
	p.lanes[n] = nil
	p.lanes = p.lanes[:n]
	return l
}
