package redisbus

import (
	"context"
	"net"
	"runtime"
	"sync"

	"github.com/ThreeDotsLabs/watermill"
	"github.com/ThreeDotsLabs/watermill-redisstream/pkg/redisstream"
	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/redis/go-redis/v9"

	"github.com/aura360/eventbus/bus/driver"
)

// A lane is one connection with a stock publisher on it. go-redis looks at a
// context's deadline while it waits for an answer, but not at its cancellation,
// and offers no way to reach the connection a command is on. With one connection
// per client there is only one, and cutting it ends the command: so a publish
// needs no second goroutine to be able to leave it, whose wake-ups would cost as
// much as the round trip.
type lane struct {
	client    redis.UniversalClient
	publisher *redisstream.Publisher

	mu     sync.Mutex
	conn   net.Conn           // the last one dialled
	cancel context.CancelFunc // of dialling, nil while nothing is dialled
}

// cut ends what is being sent: the caller's context was cancelled.
func (l *lane) cut() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.conn != nil {
		_ = l.conn.Close() // the command on it fails, which is the point
	}
	if l.cancel != nil {
		l.cancel()
	}
}

// DialHook implements redis.Hook: it remembers the connection.
func (l *lane) DialHook(next redis.DialHook) redis.DialHook {
	return func(ctx context.Context, network, addr string) (net.Conn, error) {
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		l.mu.Lock()
		l.cancel = cancel
		l.mu.Unlock()
		conn, err := next(ctx, network, addr)
		l.mu.Lock()
		defer l.mu.Unlock()
		l.conn, l.cancel = conn, nil
		return conn, err
	}
}

// ProcessHook implements redis.Hook.
func (*lane) ProcessHook(next redis.ProcessHook) redis.ProcessHook { return next }

// ProcessPipelineHook implements redis.Hook.
func (*lane) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return next
}

// lanes hands out a backend's lanes, each to one call of Publish at a time. They
// are made when first needed, up to as many as go-redis would open connections.
type lanes struct {
	b     *Backend
	slots chan struct{} // one for each lane in use; its capacity is the most there may be

	mu   sync.Mutex // guards all below
	free []*lane    // not in use, the last one used at the end
	all  []*lane
}

func newLanes(b *Backend) *lanes {
	return &lanes{b: b, slots: make(chan struct{}, max(32, 10*runtime.GOMAXPROCS(0)))}
}

// take waits for a lane. Its error means that nothing was sent. It is the lane
// used last: its buffers and its socket's, here and at the server, are in the
// processor's cache still. One used in turn with others costs 10 us more.
func (ls *lanes) take(ctx context.Context) (*lane, error) {
	select {
	case ls.slots <- struct{}{}:
	default:
		select {
		case ls.slots <- struct{}{}:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
	ls.mu.Lock()
	defer ls.mu.Unlock()
	if n := len(ls.free); n > 0 {
		l := ls.free[n-1]
		ls.free = ls.free[:n-1]
		return l, nil
	}
	l, err := ls.add()
	if err != nil {
		<-ls.slots
	}
	return l, err
}

// add makes a lane; it is called with mu held.
func (ls *lanes) add() (*lane, error) {
	l := &lane{client: ls.b.opts.NewSingleConn()}
	l.client.AddHook(l)
	var err error
	if l.publisher, err = ls.b.newPublisher(l.client); err != nil {
		return nil, err
	}
	ls.all = append(ls.all, l)
	return l, nil
}

func (ls *lanes) put(l *lane) {
	ls.mu.Lock()
	ls.free = append(ls.free, l)
	ls.mu.Unlock()
	<-ls.slots
}

// close closes every lane, and so cuts what is being sent on it.
func (ls *lanes) close() []error {
	ls.mu.Lock()
	defer ls.mu.Unlock()
	var errs []error
	for _, l := range ls.all {
		errs = append(errs, closed(l.client.Close()))
	}
	return errs
}

// newPublisher makes a stock publisher. Maxlens are left out: a stream that is
// trimmed loses what was not read.
func (b *Backend) newPublisher(c redis.UniversalClient) (*redisstream.Publisher, error) {
	addHook(c, answers{})
	return redisstream.NewPublisher(redisstream.PublisherConfig{
		Client:     publishClient{UniversalClient: c, create: b.cfg.Provision.Create},
		Marshaller: wire{maxBytes: b.cfg.MaxMessageBytes},
	}, watermill.NopLogger{})
}

// publishOnLane is Publish on a connection of its own, on the caller's goroutine.
func (b *Backend) publishOnLane(ctx context.Context, topic string, msgs []*message.Message) error {
	l, err := b.lanes.take(ctx)
	if err != nil {
		return driver.Fail(name, topic, len(msgs), driver.Rejected, err)
	}
	defer b.lanes.put(l)
	if cancelled := driver.Cancellation(ctx); cancelled != nil { // go-redis watches the deadline
		cut := make(chan struct{})
		stop := context.AfterFunc(cancelled, func() {
			defer close(cut)
			l.cut()
		})
		defer func() {
			if !stop() {
				<-cut // or it would cut the connection under the next call
			}
		}()
	}
	if len(msgs) == 1 { // the common case needs no account of what is known
		r := b.send(ctx, l.publisher, topic, msgs[0])
		if r.Err == nil {
			return nil
		}
		return &driver.PublishError{Backend: name, Topic: topic, Results: []driver.Result{r}}
	}
	s := &sends{b: b, ctx: ctx, topic: topic, results: make([]driver.Result, len(msgs))}
	s.run(l.publisher, msgs)
	return s.err()
}
