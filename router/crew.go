package router

import (
	"context"
	"errors"
	"runtime/debug"
	"sync"
	"sync/atomic"

	"github.com/ThreeDotsLabs/watermill"
	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/aura360/eventbus/bus/driver"
	"github.com/aura360/eventbus/middleware"
)

// crew is the workers that handle one topic's messages. To Watermill's router it
// is a subscriber that delivers one message, the ticket; handling that one, on
// the router's goroutine, is to let the crew work until the driver's channel is
// closed. So the crew runs inside the router, behind all the middleware that was
// added to it, and the router waits for it; but a message costs no goroutine with
// a new stack, no hop through another channel and no context of Watermill's.
//
// Invariant: while fewer than max work, one more waits for the next message. So
// a delivered message gets a worker at once, whatever the others wait for.
type crew struct {
	router *Router
	topic  string
	sub    driver.Subscriber
	ctx    *topicContext // of the messages
	max    int           // as many as the driver delivers at once

	ticket  *message.Message
	tickets chan *message.Message // the ticket; closed when the crew has done its work, or is given up
	in      <-chan *message.Message
	next    message.HandlerFunc // the router's middleware, then topicHandlers.handle

	workers sync.WaitGroup
	mu      sync.Mutex
	size    int  // workers
	idle    int  // those of them that wait for a message, or are about to
	over    bool // in is closed
	closed  bool // tickets is
}

// maxIdle is how many workers of a crew stay when there is nothing to do.
const maxIdle = 64

func (r *Router) newCrew(ctx context.Context, topic string, sub driver.Subscriber) *crew {
	return &crew{
		router: r, topic: topic, sub: sub, ctx: &topicContext{Context: ctx}, max: r.cfg.MaxInFlight,
		ticket: message.NewMessage(watermill.NewUUID(), nil), tickets: make(chan *message.Message, 1),
	}
}

// topicContext is what a topic's messages have in common: the values that
// Watermill's router gives to the messages of a handler, and the router's own
// context.
type topicContext struct {
	context.Context
	named atomic.Pointer[context.Context] // the ticket's context
}

func (c *topicContext) Value(key any) any {
	if v := c.Context.Value(key); v != nil {
		return v
	}
	if named := c.named.Load(); named != nil {
		return (*named).Value(key)
	}
	return nil
}

// Subscribe implements message.Subscriber. The context that Watermill gives is
// the hasty way to stop, so it goes nowhere; nor does Close do anything.
func (c *crew) Subscribe(_ context.Context, topic string) (<-chan *message.Message, error) {
	in, err := c.sub.Subscribe(c.ctx, topic)
	if err != nil {
		return nil, err
	}
	c.in = in
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.closed { // given up already
		c.tickets <- c.ticket
	}
	return c.tickets, nil
}

// Close implements message.Subscriber.
func (*crew) Close() error { return nil }

// lead is the outermost middleware of Watermill's router, where all others are
// known: it puts a crew to work when its ticket comes. Tickets are known by their
// UUIDs, which a copy has too.
func (r *Router) lead(next message.HandlerFunc) message.HandlerFunc {
	return func(msg *message.Message) ([]*message.Message, error) {
		c := r.crews[msg.UUID]
		if c == nil { // of a handler that the user added to Watermill's router
			return next(msg)
		}
		named := msg.Context()
		c.ctx.named.Store(&named)
		c.next = next
		c.mu.Lock()
		c.hire()
		c.mu.Unlock()
		c.workers.Wait()
		c.close()
		return nil, nil
	}
}

// hire adds a worker. The caller holds mu.
func (c *crew) hire() {
	c.size++
	c.idle++
	c.workers.Go(c.work)
}

// work handles messages until there are no more, or too many wait for them.
func (c *crew) work() {
	growStack()
	busy := false
	defer func() { c.leave(busy) }() // also when a handler ends its goroutine
	for {
		msg, ok := <-c.in
		if !ok {
			c.end()
			return
		}
		c.begin()
		busy = true
		for more := true; more; msg, more = c.another() {
			c.handle(msg)
		}
		if !c.rest() {
			return
		}
		busy = false
	}
}

// another takes a message that is there already: who goes on need not tell.
func (c *crew) another() (*message.Message, bool) {
	select {
	case msg, ok := <-c.in:
		return msg, ok
	default:
		return nil, false
	}
}

// begin makes an idle worker a busy one.
func (c *crew) begin() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.idle--
	c.keepOneWaiting()
}

// keepOneWaiting restores the invariant. The caller holds mu.
func (c *crew) keepOneWaiting() {
	if c.idle == 0 && c.size < c.max && !c.over {
		c.hire()
	}
}

// rest makes a busy worker an idle one, unless enough are.
func (c *crew) rest() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.idle >= maxIdle {
		return false
	}
	c.idle++
	return true
}

// leave takes a worker out.
func (c *crew) leave(busy bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.size--
	if !busy {
		c.idle--
	}
	c.keepOneWaiting()
}

// end keeps more workers from coming: there are no more messages.
func (c *crew) end() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.over = true
}

// close tells Watermill's router that the crew has ended. It waits for the crews
// with its locks held as soon as it knows that all of them have, so it is not told
// while they work: the others' goroutines would wait for those locks, which in
// virtual time they do for ever.
func (c *crew) close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.closed {
		c.closed = true
		close(c.tickets)
	}
}

// handle does what Watermill's router does with a message of a handler that
// publishes nothing, and tells the driver. Guard has settled the message already
// unless middleware of the user's kept it back.
func (c *crew) handle(msg *message.Message) {
	ok := false
	defer func() {
		if v := recover(); v != nil {
			p := &middleware.PanicError{Value: v, Stack: debug.Stack()}
			c.router.log.Error("panic in the router's middleware, message left unacked",
				"topic", c.topic, "message_uuid", msg.UUID, "error", p, "stack", string(p.Stack))
		}
		select {
		case <-msg.Acked():
		case <-msg.Nacked():
		default:
			driver.Settle(msg, ok)
		}
	}()
	_, err := c.next(msg)
	if err != nil && !errors.Is(err, context.Canceled) {
		c.router.log.Error("message left unacked", "topic", c.topic, "message_uuid", msg.UUID, "error", err)
	}
	ok = err == nil
}

// growStack makes the calling goroutine's stack as large as the chain and the
// decoding of an event need, in one step. A worker's small first stack would
// otherwise be doubled and copied several times on the way down to the handler,
// which costs more than everything the chain does. The runtime grows a stack by
// the frame of the function that asks, and does not shrink it when that function
// returns.
//
//go:noinline
func growStack() byte {
	var room [12 << 10]byte // together with what is in use, 16 KiB: the largest that is cached
	return room[len(room)-1-int(stackUse.Load()&1)]
}

// stackUse keeps the compiler from seeing that the room is not used.
var stackUse atomic.Int32
