package membus

import (
	"context"
	"fmt"
	"sync"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/aura360/eventbus/bus/driver"
	"github.com/aura360/eventbus/internal/inflight"
)

// subscriber is one consumer of a group, with a subscription per Subscribe.
type subscriber struct {
	backend *Backend
	group   string
	opts    driver.SubscriberOptions

	watchers sync.WaitGroup // one per message, without DirectSettle

	mu            sync.Mutex
	stopped       bool            // by Drain or Close; guarded by mu
	subscriptions []*subscription // guarded by mu
}

// Subscribe implements driver.Subscriber.
func (s *subscriber) Subscribe(ctx context.Context, topic string) (<-chan *message.Message, error) {
	t, err := s.backend.broker.topic(topic)
	if err != nil {
		return nil, fmt.Errorf("memory: subscribe group %s: %w", s.group, err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stopped {
		return nil, fmt.Errorf("memory: subscribe group %s to %s: %w", s.group, topic, driver.ErrClosed)
	}
	sub := &subscription{
		subscriber: s,
		topic:      t,
		ctx:        ctx,
		messages:   make(chan *message.Message, s.opts.MaxInFlight),
		free:       s.opts.MaxInFlight,
		idle:       make(chan struct{}),
	}
	s.subscriptions = append(s.subscriptions, sub)
	sub.start()
	// Last: it may run at once.
	stop := context.AfterFunc(ctx, sub.drop)
	t.mu.Lock()
	sub.forgetCtx = stop
	t.mu.Unlock()
	return sub.messages, nil
}

// Drain implements driver.Subscriber.
func (s *subscriber) Drain(ctx context.Context) error {
	subs := s.stop()
	for _, sub := range subs {
		sub.retire()
	}
	for _, sub := range subs {
		var why error
		select {
		case <-sub.idle:
			why = driver.ErrClosed
		case <-ctx.Done():
			why = context.Cause(ctx)
		}
		sub.topic.mu.Lock()
		n := sub.inFlight + sub.dropped
		sub.topic.mu.Unlock()
		if n > 0 {
			return fmt.Errorf("memory: drain group %s of %s: %d messages neither acked nor nacked: %w",
				s.group, sub.topic.name, n, why)
		}
	}
	return nil
}

// Close implements driver.Subscriber.
func (s *subscriber) Close() error {
	s.backend.forget(s)
	s.close()
	return nil
}

func (s *subscriber) close() {
	for _, sub := range s.stop() {
		sub.drop()
	}
	s.watchers.Wait()
}

// stop ends Subscribe and returns what there is to stop.
func (s *subscriber) stop() []*subscription {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.stopped = true
	return s.subscriptions
}

// State implements driver.Subscriber.
func (s *subscriber) State() map[string]driver.SubscriptionState {
	s.mu.Lock()
	defer s.mu.Unlock()
	state := make(map[string]driver.SubscriptionState, len(s.subscriptions))
	for _, sub := range s.subscriptions {
		sub.topic.mu.Lock()
		open := !sub.retired
		sub.topic.mu.Unlock()
		st := state[sub.topic.name]
		st.Connected = st.Connected || open
		state[sub.topic.name] = st
	}
	return state
}

// subscription is a member of a group on one topic. All but the first block of
// fields is guarded by the topic's mu.
type subscription struct {
	subscriber *subscriber
	topic      *topic
	ctx        context.Context // of Subscribe
	messages   chan *message.Message
	idle       chan struct{} // closed when retired and nothing is in flight

	group       *group
	free        int // messages it can take; with inFlight always MaxInFlight
	inFlight    int
	first, last *delivery // in flight, in the order delivered
	retired     bool      // it gets no more, messages is closed
	dropped     int       // given back though a consumer had them
	forgetCtx   func() bool
}

// start joins the group, which begins to deliver.
func (s *subscription) start() {
	s.topic.mu.Lock()
	defer s.topic.mu.Unlock()
	s.group = s.topic.group(s.subscriber.group)
	s.group.join(s)
}

// deliver puts a message into the channel, which has room.
func (s *subscription) deliver(r *record, ticket inflight.Ticket[*record]) {
	d := &delivery{
		Context: s.ctx,
		topic:   s.topic,
		direct:  s.subscriber.opts.DirectSettle,
		sub:     s,
		ticket:  ticket,
		prev:    s.last,
	}
	if s.last != nil {
		s.last.next = d
	} else {
		s.first = d
	}
	s.last = d
	s.free--
	s.group.free--
	s.inFlight++
	if d.msg = r.ready; d.msg != nil {
		r.ready = nil
	} else {
		d.msg = r.message()
	}
	d.msg.SetContext(d)
	if !s.subscriber.opts.DirectSettle {
		s.subscriber.watchers.Go(d.watch)
	}
	s.messages <- d.msg
}

// remove takes a delivery out of what is in flight.
func (s *subscription) remove(d *delivery) {
	if d.prev != nil {
		d.prev.next = d.next
	} else {
		s.first = d.next
	}
	if d.next != nil {
		d.next.prev = d.prev
	} else {
		s.last = d.prev
	}
	d.prev, d.next, d.sub = nil, nil, nil
	s.inFlight--
	s.free++
	if !s.retired {
		s.group.free++
	} else if s.inFlight == 0 {
		close(s.idle)
	}
}

// retire stops delivery: the subscription leaves its group, what is still in the
// channel goes back, and the channel is closed. What a consumer has taken out
// is still waited for.
func (s *subscription) retire() {
	s.topic.mu.Lock()
	defer s.topic.mu.Unlock()
	s.retireLocked()
}

func (s *subscription) retireLocked() {
	if s.retired {
		return
	}
	s.group.leave(s)
	s.retired = true
	// Only this side sends, under mu, so that what comes out now was never seen
	// by the consumer, who may be taking messages at the same time.
	back := make(map[*message.Message]struct{})
	for len(back) < cap(s.messages) {
		select {
		case msg := <-s.messages:
			back[msg] = struct{}{}
			continue
		default:
		}
		break
	}
	close(s.messages)
	s.giveBack(func(d *delivery) bool { _, ok := back[d.msg]; return ok })
	if s.inFlight == 0 && len(back) == 0 {
		close(s.idle)
	}
	s.group.dispatch()
}

// drop ends the subscription and gives back what is not acked.
func (s *subscription) drop() {
	s.topic.mu.Lock()
	defer s.topic.mu.Unlock()
	if s.forgetCtx != nil {
		s.forgetCtx()
	}
	s.retireLocked()
	if s.inFlight == 0 {
		return
	}
	// An ack that nobody has told us yet counts.
	for d := s.first; d != nil; {
		next := d.next
		select {
		case <-d.msg.Acked():
			s.settle(d, true, 0)
		default:
		}
		d = next
	}
	s.dropped = s.inFlight
	s.giveBack(func(*delivery) bool { return true })
	s.group.dispatch()
}

// giveBack returns deliveries to the group, in their order, and ends their
// contexts.
func (s *subscription) giveBack(which func(*delivery) bool) {
	var tickets []inflight.Ticket[*record]
	for d := s.first; d != nil; {
		next := d.next
		if which(d) {
			tickets = append(tickets, d.ticket)
			s.remove(d)
			d.end()
		}
		d = next
	}
	s.group.window.Return(tickets...)
}
