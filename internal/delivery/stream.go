package delivery

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/aura360/eventbus/bus/driver"
	"github.com/aura360/eventbus/internal/inflight"
)

// Item is one fetched entry.
type Item[T any] struct {
	Key   string // "" for none
	Value T
	// Msg is the message for the first delivery; nil has Options.Message make it.
	// Making it where it was fetched keeps that work off the stream's lock.
	Msg *message.Message
	// Bytes counts against Options.MaxBytes.
	Bytes int
}

// Options configure a Stream.
type Options[T any] struct {
	// MaxInFlight and DirectSettle are those of driver.SubscriberOptions.
	// MaxInFlight defaults to 256.
	MaxInFlight  int
	DirectSettle bool
	// MaxBuffered is how many entries may be unsettled, delivered or not, before
	// Room waits. Defaults to 4096, or 4*MaxInFlight if that is more: with many
	// keys it takes a long look ahead to find MaxInFlight different ones.
	MaxBuffered int
	// MaxBytes is the same for the sum of their sizes. Defaults to 32 MiB.
	MaxBytes int
	// Message makes the message of an entry anew.
	Message func(T) *message.Message
	// Acked is told of each entry that was acked, once. It is called under the
	// stream's lock, before Recall, Drained and Close see the entry settled: it
	// must not block and not call the stream, and a lock that it takes must not be
	// held while calling the stream.
	Acked func(T)
}

// Stream is one subscription. All methods are safe for concurrent use.
//
// Invariants, all under mu:
//   - out is exactly the deliveries whose ticket is good: given to the consumer, or
//     in the channel for him, and not settled, dropped or given back;
//   - len(messages) <= len(out) <= MaxInFlight = cap(messages), so that sending
//     never blocks;
//   - Acked was called for an entry exactly when it was acked while in out.
type Stream[T any] struct {
	ctx      context.Context
	opts     Options[T]
	messages chan *message.Message
	watchers sync.WaitGroup // one per delivery, without DirectSettle

	mu      sync.Mutex
	window  *inflight.Window[entry[T]]
	out     []*delivered[T]
	bytes   int
	retired bool
	idle    chan struct{} // closed when retired and out is empty
	room    chan struct{} // not nil while someone waits in Room
	gone    chan struct{} // closed by Retire
	alarm   *time.Timer   // for the next pause to end
	alarmAt time.Time
}

// entry is an item in the window.
type entry[T any] struct {
	value T
	msg   *message.Message
	bytes int
}

// delivered is one message in the consumer's hands, and is its context and its
// driver.Settler.
type delivered[T any] struct {
	Context
	s      *Stream[T]
	msg    *message.Message
	entry  entry[T]
	ticket inflight.Ticket[entry[T]]

	// Guarded by s.mu.
	index  int // in s.out, -1 once it is settled or taken back
	recall *recall
}

// New returns a stream whose messages carry the values of ctx. Close must be
// called.
func New[T any](ctx context.Context, opts Options[T]) *Stream[T] {
	if opts.MaxInFlight <= 0 {
		opts.MaxInFlight = 256
	}
	if opts.MaxBuffered <= 0 {
		opts.MaxBuffered = max(4096, 4*opts.MaxInFlight)
	}
	if opts.MaxBytes <= 0 {
		opts.MaxBytes = 32 << 20
	}
	return &Stream[T]{
		ctx:      ctx,
		opts:     opts,
		messages: make(chan *message.Message, opts.MaxInFlight),
		window:   inflight.New[entry[T]](inflight.Options{Max: opts.MaxInFlight}),
		idle:     make(chan struct{}),
		gone:     make(chan struct{}),
	}
}

// Messages is the channel for the consumer. Retire closes it.
func (s *Stream[T]) Messages() <-chan *message.Message { return s.messages }

// Add takes fetched entries, in the broker's order, and never blocks. It returns
// false after Retire and has taken nothing then.
func (s *Stream[T]) Add(items ...Item[T]) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.retired {
		return false
	}
	for _, it := range items {
		s.bytes += it.Bytes
		s.window.Add(it.Key, entry[T]{it.Value, it.Msg, it.Bytes})
	}
	s.dispatch()
	return true
}

// Room waits until more may be fetched. It returns an error when ctx ends or the
// stream is retired first.
func (s *Stream[T]) Room(ctx context.Context) error {
	for {
		s.mu.Lock()
		if s.retired {
			s.mu.Unlock()
			return driver.ErrClosed
		}
		if s.window.Len() < s.opts.MaxBuffered && s.bytes < s.opts.MaxBytes {
			s.mu.Unlock()
			return ctx.Err()
		}
		if s.room == nil {
			s.room = make(chan struct{})
		}
		room := s.room
		s.mu.Unlock()
		select {
		case <-room:
		case <-s.gone:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// Full reports whether Room would wait.
func (s *Stream[T]) Full() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.window.Len() >= s.opts.MaxBuffered || s.bytes >= s.opts.MaxBytes
}

// InFlight returns how many messages are delivered and not settled.
func (s *Stream[T]) InFlight() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.out)
}

// dispatch gives out what may go out.
func (s *Stream[T]) dispatch() {
	if s.retired {
		return
	}
	for {
		e, ticket, ok := s.window.Next()
		if !ok {
			return
		}
		d := &delivered[T]{Context: Context{Context: s.ctx}, s: s, msg: e.msg, entry: e, ticket: ticket}
		if d.msg == nil || isSettled(d.msg) {
			d.msg = s.opts.Message(e.value)
		}
		d.msg.SetContext(d)
		d.index = len(s.out)
		s.out = append(s.out, d)
		if !s.opts.DirectSettle {
			s.watchers.Go(d.watch)
		}
		s.messages <- d.msg
	}
}

// isSettled reports whether the message was delivered before.
func isSettled(msg *message.Message) bool {
	select {
	case <-msg.Nacked():
		return true
	case <-msg.Acked():
		return true
	default:
		return false
	}
}

// Value implements context.Context.
func (d *delivered[T]) Value(key any) any {
	if driver.IsSettleKey(key) && d.s.opts.DirectSettle {
		return d
	}
	return d.s.ctx.Value(key)
}

// watch waits for the ack of a consumer that does not call Settle.
func (d *delivered[T]) watch() {
	select {
	case <-d.msg.Acked():
		d.Settled(true)
	case <-d.msg.Nacked():
		d.Settled(false)
	case <-d.Done():
	}
}

// Settled implements driver.Settler. A delivery that was taken back meanwhile
// changes nothing.
func (d *delivered[T]) Settled(acked bool) { d.s.settle(d, acked, 0) }

// SettledLater implements driver.Deferrer.
func (d *delivered[T]) SettledLater(after time.Duration) { d.s.settle(d, false, after) }

func (s *Stream[T]) settle(d *delivered[T], acked bool, after time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if d.index < 0 {
		return
	}
	now := time.Time{}
	if !acked {
		now = time.Now()
	}
	switch {
	case acked:
		s.window.Ack(d.ticket)
		s.bytes -= d.entry.bytes
		s.opts.Acked(d.entry.value)
	case d.recall != nil: // it is somebody else's to deliver again
		s.window.Ack(d.ticket)
		s.bytes -= d.entry.bytes
	case after > 0:
		until := now.Add(after)
		s.window.NackUntil(d.ticket, until)
		s.wake(until)
	default:
		until, _ := s.window.Nack(d.ticket, now)
		s.wake(until)
	}
	s.remove(d)
	s.dispatch()
	s.roomier()
}

// remove takes d, whose ticket is no longer good, out of what is in flight.
func (s *Stream[T]) remove(d *delivered[T]) {
	last := len(s.out) - 1
	s.out[d.index] = s.out[last]
	s.out[d.index].index = d.index
	s.out[last] = nil
	s.out = s.out[:last]
	d.index = -1
	if r := d.recall; r != nil {
		if r.left--; r.left == 0 {
			close(r.done)
		}
	}
	if s.retired && len(s.out) == 0 {
		close(s.idle)
	}
	d.End()
}

// roomier wakes who waits in Room, once a quarter is free: a driver fetches many
// at a time.
func (s *Stream[T]) roomier() {
	if s.room != nil && s.window.Len() <= s.opts.MaxBuffered*3/4 && s.bytes <= s.opts.MaxBytes*3/4 {
		close(s.room)
		s.room = nil
	}
}

// wake has Tick called at until, or earlier.
func (s *Stream[T]) wake(until time.Time) {
	if s.retired || !s.alarmAt.IsZero() && !until.Before(s.alarmAt) {
		return
	}
	s.alarmAt = until
	if d := time.Until(until); s.alarm == nil {
		s.alarm = time.AfterFunc(d, s.tick)
	} else {
		s.alarm.Reset(d)
	}
}

// tick lets lanes go on whose pause is over. A timer that was reset while it
// fired ticks once too often, which does no harm.
func (s *Stream[T]) tick() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.retired {
		return
	}
	s.alarmAt = time.Time{}
	if next := s.window.Tick(time.Now()); !next.IsZero() {
		s.wake(next)
	}
	s.dispatch()
}

// String says how much there is, for logs.
func (s *Stream[T]) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return fmt.Sprintf("%d unsettled, %d of them delivered", s.window.Len(), len(s.out))
}
