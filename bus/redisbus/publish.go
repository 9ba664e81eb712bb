package redisbus

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ThreeDotsLabs/watermill-redisstream/pkg/redisstream"
	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/redis/go-redis/v9"

	"github.com/aura360/eventbus/bus/driver"
)

// ctxGrace is how long Publish waits after its context ended for the client to
// say what became of the message: one that is being dialled for is Rejected, not
// Unknown.
const ctxGrace = 50 * time.Millisecond

// Publish implements driver.Backend: one XADD after another, stopping at the
// first that fails.
func (b *Backend) Publish(ctx context.Context, topic string, msgs ...*message.Message) error {
	if len(msgs) == 0 {
		return nil
	}
	if !b.begin() {
		return driver.Fail(name, topic, len(msgs), driver.Rejected, driver.ErrClosed)
	}
	if topic == "" {
		b.end()
		return driver.Fail(name, topic, len(msgs), driver.Rejected, fmt.Errorf("%w: no topic", driver.ErrPermanent))
	}
	if b.lanes != nil {
		defer b.end()
		return b.publishOnLane(ctx, topic, msgs)
	}
	s := &sends{b: b, ctx: ctx, topic: topic, results: make([]driver.Result, len(msgs))}
	// In a goroutine, since go-redis does not listen to a context that is
	// cancelled. It is bounded by the client's timeouts, and Close waits for it.
	s.done = make(chan struct{})
	go func() {
		defer b.end()
		defer close(s.done)
		s.run(b.publisher, msgs)
	}()
	select {
	case <-s.done:
	case <-ctx.Done():
		t := time.NewTimer(ctxGrace)
		defer t.Stop()
		select {
		case <-s.done:
		case <-t.C:
		}
	}
	return s.err()
}

// sends is one call of Publish.
type sends struct {
	b     *Backend
	ctx   context.Context
	topic string
	done  chan struct{} // nil on a lane

	mu        sync.Mutex // guards all below
	results   []driver.Result
	known     int  // how many of the results are known
	started   bool // whether the next one is being sent
	abandoned bool // Publish returned
}

func (s *sends) run(p *redisstream.Publisher, msgs []*message.Message) {
	for _, msg := range msgs {
		if !s.start() {
			return
		}
		r := s.b.send(s.ctx, p, s.topic, msg)
		s.mu.Lock()
		if !s.abandoned {
			s.results[s.known] = r
			s.known, s.started = s.known+1, false
		}
		s.mu.Unlock()
		if r.Err != nil {
			return
		}
	}
}

// start tells whether the next message is to be sent.
func (s *sends) start() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.abandoned {
		return false
	}
	s.started = true
	return true
}

// err settles what the results are and returns them, nil if all are Confirmed.
func (s *sends) err() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.abandoned = true
	failed := s.known < len(s.results)
	for i := range s.results {
		switch {
		case i < s.known:
			failed = failed || s.results[i].Err != nil
		case i == s.known && s.started:
			s.results[i] = driver.Result{Outcome: driver.Unknown, Err: context.Cause(s.ctx)}
		default:
			s.results[i] = driver.Result{Outcome: driver.Rejected, Err: driver.ErrNotSent}
		}
	}
	if !failed {
		return nil
	}
	return &driver.PublishError{Backend: name, Topic: s.topic, Results: s.results}
}

// send publishes one message with the stock publisher and tells what became of
// it.
func (b *Backend) send(ctx context.Context, p *redisstream.Publisher, topic string, msg *message.Message) driver.Result {
	if ctx.Err() != nil {
		return driver.Result{Outcome: driver.Rejected, Err: context.Cause(ctx)}
	}
	// The stock publisher takes the context from the message, which is not ours
	// to change.
	a := &attempt{Context: ctx, onLane: b.lanes != nil}
	cp := &message.Message{UUID: msg.UUID, Payload: msg.Payload, Metadata: msg.Metadata}
	cp.SetContext(a)
	err := p.Publish(topic, cp)
	if err == nil {
		return driver.Result{}
	}
	if ctx.Err() != nil {
		err = fmt.Errorf("%w: %w", context.Cause(ctx), err)
	}
	outcome, err := classify(err, a)
	return driver.Result{Outcome: outcome, Err: err}
}

// classify tells what an error of the stock publisher means for the message.
func classify(err error, a *attempt) (driver.Outcome, error) {
	msg := err.Error()
	switch {
	case errors.Is(err, redis.Nil):
		return driver.Rejected, errNoStream
	case a.state.Load() == unanswered:
		// Part of it may have left: only the server could tell.
		return driver.Unknown, err
	case !a.marshalled.Load() && strings.HasPrefix(msg, "cannot marshal"):
		return driver.Rejected, fmt.Errorf("%w: %w", driver.ErrPermanent, err)
	case errors.Is(err, redis.ErrClosed):
		return driver.Rejected, fmt.Errorf("%w: %w", driver.ErrClosed, err)
	case !isReply(err):
		return driver.Rejected, fmt.Errorf("%w: %w", driver.ErrUnavailable, err)
	case strings.Contains(msg, "WRONGTYPE"), strings.Contains(msg, "exceeds maximum allowed size"),
		strings.Contains(msg, "invalid bulk length"):
		return driver.Rejected, fmt.Errorf("%w: %w", driver.ErrPermanent, err)
	}
	return driver.Rejected, err // the server said no: OOM, READONLY, NOPERM, LOADING ...
}

// errNoStream is why a message is rejected, and a subscription waits, where
// creating streams is turned off.
var errNoStream = errors.New("the stream does not exist, and creating streams is turned off (Provision.Create)")

// attempt follows one message through go-redis, as its context.
type attempt struct {
	context.Context
	onLane     bool
	marshalled atomic.Bool
	state      atomic.Int32
}

// Done is never closed on a lane, where cutting the connection ends a command:
// waiting on the publish path's context would start a timer for each event.
func (a *attempt) Done() <-chan struct{} {
	if a.onLane {
		return nil
	}
	return a.Context.Done()
}

// Value returns the attempt itself for attemptKey.
func (a *attempt) Value(key any) any {
	if key == (attemptKey{}) {
		return a
	}
	return a.Context.Value(key)
}

const (
	unwritten  = iota // no connection took it, or the server refused it
	unanswered        // written, in part or whole; the server has not answered
)

var errSentTwice = errors.New("the connection failed after the message was sent; not sending it twice")

type attemptKey struct{}

func attemptOf(ctx context.Context) *attempt {
	a, _ := ctx.Value(attemptKey{}).(*attempt)
	if a != nil {
		a.marshalled.Store(true)
	}
	return a
}

// written is a payload that notes when go-redis puts it into a connection's
// buffer. Before that nothing of the entry can reach the server, and after that
// anything may. A Cluster client sends again by itself, also after a connection
// failed, which would be a duplicate below the bus: that is refused here. After
// an answer (MOVED, READONLY) it may.
type written struct {
	*attempt
	payload []byte
}

// MarshalBinary implements encoding.BinaryMarshaler.
func (w written) MarshalBinary() ([]byte, error) {
	if !w.state.CompareAndSwap(unwritten, unanswered) {
		return nil, errSentTwice
	}
	return w.payload, nil
}

// addHook puts a hook around each attempt to send a command. A hook on a Cluster
// client itself would see one command where its nodes see several attempts.
func addHook(c redis.UniversalClient, h redis.Hook) {
	if cluster, ok := c.(*redis.ClusterClient); ok {
		cluster.OnNewNode(func(node *redis.Client) { node.AddHook(h) })
		return
	}
	c.AddHook(h)
}

// answers is a hook that marks what the server answered as answered.
type answers struct{}

func (answers) DialHook(next redis.DialHook) redis.DialHook { return next }

func (answers) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		err := next(ctx, cmd)
		answered(ctx, cmd, err)
		return err
	}
}

func (answers) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []redis.Cmder) error {
		err := next(ctx, cmds) // after ASK: ASKING and the command
		for _, cmd := range cmds {
			answered(ctx, cmd, cmd.Err())
		}
		return err
	}
}

func answered(ctx context.Context, cmd redis.Cmder, err error) {
	// The handshake of a new connection passes by here too, with the same ctx.
	if cmd.Name() != "xadd" || err != nil && !isReply(err) {
		return
	}
	if a, ok := ctx.Value(attemptKey{}).(*attempt); ok {
		a.state.Store(unwritten)
	}
}

// publishClient is the client as the stock publisher sees it: it does not create
// a stream that must not be created, and closing it is the backend's business.
type publishClient struct {
	redis.UniversalClient
	create bool
}

func (c publishClient) XAdd(ctx context.Context, a *redis.XAddArgs) *redis.StringCmd {
	a.NoMkStream = !c.create
	return c.UniversalClient.XAdd(ctx, a)
}

func (publishClient) Close() error { return nil }
