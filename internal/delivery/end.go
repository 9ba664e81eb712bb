package delivery

import (
	"context"
	"fmt"
	"slices"

	"github.com/ThreeDotsLabs/watermill/message"
)

// recall is a Recall that waits for deliveries.
type recall struct {
	left int
	done chan struct{}
}

// Recall takes the entries that match back, because what they came from moves to
// another member: those the consumer has not got are forgotten, those he has are
// waited for. An ack counts as ever; a nack leaves the entry to the next owner.
// When ctx ends first, what is left is dropped as Drop does, and the error tells
// how many. The caller sees to it that no more entries are added that match.
func (s *Stream[T]) Recall(ctx context.Context, match func(T) bool) error {
	s.mu.Lock()
	s.takeBack(match)
	s.window.DropWaiting(s.forget(match))
	r := &recall{done: make(chan struct{})}
	for _, d := range s.out {
		if d.recall == nil && match(d.entry.value) {
			d.recall = r
			r.left++
		}
	}
	left := r.left
	s.dispatch()
	s.roomier()
	s.mu.Unlock()
	if left == 0 {
		return nil
	}
	select {
	case <-r.done:
		return nil
	case <-ctx.Done():
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if n := s.drop(func(d *delivered[T]) bool { return d.recall == r }); n > 0 {
		return fmt.Errorf("%d messages neither acked nor nacked: %w", n, context.Cause(ctx))
	}
	return nil
}

// Drop forgets the entries that match, at once: they are somebody else's now.
// The contexts of those delivered end, and what becomes of them is not heard. It
// returns how many of the delivered there were.
func (s *Stream[T]) Drop(match func(T) bool) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.takeBack(match)
	s.window.DropWaiting(s.forget(match))
	return s.drop(func(d *delivered[T]) bool { return match(d.entry.value) })
}

// forget wraps match to keep count of what it makes the window drop. Match is
// asked once for each entry.
func (s *Stream[T]) forget(match func(T) bool) func(entry[T]) bool {
	return func(e entry[T]) bool {
		ok := match(e.value)
		if ok {
			s.bytes -= e.bytes
		}
		return ok
	}
}

// drop forgets deliveries.
func (s *Stream[T]) drop(which func(*delivered[T]) bool) (n int) {
	for _, d := range slices.Clone(s.out) {
		if which(d) {
			s.window.Ack(d.ticket) // the entry is out of the window
			s.bytes -= d.entry.bytes
			s.remove(d)
			n++
		}
	}
	s.dispatch()
	s.roomier()
	return n
}

// takeBack takes messages that match out of the channel, where the consumer has
// not seen them, and puts their entries back into the window. Only this side
// sends, under mu, so that what comes out now is in nobody's hands, though the
// consumer may be taking messages at the same time.
func (s *Stream[T]) takeBack(match func(T) bool) {
	var keep []*message.Message
	for range len(s.messages) {
		select {
		case msg := <-s.messages:
			if d, ok := msg.Context().(*delivered[T]); ok && match(d.entry.value) {
				s.window.Return(d.ticket)
				s.remove(d)
				continue
			}
			keep = append(keep, msg)
		default:
		}
	}
	for _, msg := range keep {
		s.messages <- msg
	}
}

// Retire ends delivery: Messages is closed at once, and what the consumer has not
// taken from it is forgotten, as is everything that waits.
func (s *Stream[T]) Retire() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.retired {
		return
	}
	s.takeBack(func(T) bool { return true })
	s.retired = true
	close(s.gone)
	close(s.messages)
	s.window.DropWaiting(func(entry[T]) bool { return true })
	if s.alarm != nil {
		s.alarm.Stop()
	}
	if len(s.out) == 0 {
		close(s.idle)
	}
}

// Settled is closed when the stream is retired and every message that was
// delivered is settled.
func (s *Stream[T]) Settled() <-chan struct{} { return s.idle }

// Close retires the stream and gives up what is not settled: contexts end, and
// only what is acked by now counts. It returns how many were given up.
func (s *Stream[T]) Close() int {
	s.Retire()
	s.mu.Lock()
	n := 0
	for _, d := range slices.Clone(s.out) {
		// An ack that nobody has told us yet counts.
		select {
		case <-d.msg.Acked():
			s.opts.Acked(d.entry.value)
		default:
			n++
		}
		s.window.Ack(d.ticket)
		s.remove(d)
	}
	s.mu.Unlock()
	s.watchers.Wait()
	return n
}
