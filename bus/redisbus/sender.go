package redisbus

import (
	"context"
	"errors"
	"math"
	"slices"
	"sync"
	"time"

	"github.com/aura360/eventbus/bus/driver"
)

// sender sends requests to one server, with as few round trips and goroutines as
// it takes. A publisher that finds a line free sends by itself, at once. One that
// finds none waits in the queue, which goes out together as the next batch, sent
// by a worker of the line for as long as there is a queue.
//
// A publisher whose context ends leaves at once: its request is not sent, if it
// was not, or its outcome is unknown. A worker takes the answers in its place,
// since others' requests may be in the batch, and the connection is good.
type sender struct {
	dial func(context.Context) (connection, error)

	requests sync.Pool // of *request

	ctx     context.Context // ends dialling
	cancel  context.CancelFunc
	workers sync.WaitGroup

	mu     sync.Mutex // guards all below, and line.conn
	closed bool
	queue  []*request
	idle   []*line // the one used last is last
	lines  []*line // all
}

const (
	// maxLines: a few connections let few publishers go out at once, and the server
	// work on one batch while answers to another are taken. With many publishers
	// more lines make batches smaller and everything slower (measured with 1 to 8).
	maxLines = 4
	// maxBatchBytes and maxBatch bound a batch, or one request alone.
	maxBatchBytes = 1 << 20
	maxBatch      = 1000
	// maxDirect is the most that a publisher writes by itself: as much as always
	// has room in the buffers of an idle connection, so that it cannot be held up.
	maxDirect = 16 << 10
)

func newSender(dial func(context.Context) (connection, error)) *sender {
	s := &sender{dial: dial}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	return s
}

// maxPooled keeps an occasional large message from staying in memory.
const maxPooled = 1 << 20

func (s *sender) newRequest() *request {
	r, ok := s.requests.Get().(*request)
	if !ok {
		return &request{done: make(chan struct{}, 1)}
	}
	r.buf, r.parts, r.count, r.results = r.buf[:0], r.parts[:0], 0, nil
	r.state.Store(waiting)
	return r
}

// free takes back a request that nobody else knows any more.
func (s *sender) free(r *request) {
	if cap(r.buf) <= maxPooled {
		s.requests.Put(r)
	}
}

// send sends r and waits for its results, or until ctx ends. A result is the
// outcome of all messages, and r is gone then; nil: r is the caller's again.
func (s *sender) send(ctx context.Context, r *request) *driver.Result {
	l, err := s.enqueue(r)
	switch {
	case err != nil:
		return &driver.Result{Outcome: driver.Rejected, Err: err}
	case l != nil && len(r.buf) <= maxDirect && l.conn != nil:
		return s.sendDirectly(ctx, l, r)
	case l != nil:
		s.workers.Go(func() { s.work(l, []*request{r}) })
	}
	return s.wait(ctx, r)
}

// submit sends r on another goroutine. Without an error wait must follow.
func (s *sender) submit(r *request) error {
	l, err := s.enqueue(r)
	if l != nil {
		s.workers.Go(func() { s.work(l, []*request{r}) })
	}
	return err
}

// enqueue returns the line on which r is to be sent now, nil if r is in the
// queue.
func (s *sender) enqueue(r *request) (*line, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, driver.ErrClosed
	}
	l := s.takeLine()
	if l == nil {
		s.queue = append(s.queue, r)
	}
	return l, nil
}

// takeLine returns a line that nobody uses, nil when there may be no more. s.mu
// is held.
func (s *sender) takeLine() *line {
	if n := len(s.idle); n > 0 {
		l := s.idle[n-1]
		s.idle = s.idle[:n-1]
		return l
	}
	if len(s.lines) == maxLines {
		return nil
	}
	l := &line{}
	s.lines = append(s.lines, l)
	return l
}

// wait waits for the results of a request that another goroutine sends.
func (s *sender) wait(ctx context.Context, r *request) *driver.Result {
	select {
	case <-r.done:
		return nil
	case <-ctx.Done():
	}
	if r.state.CompareAndSwap(waiting, left) {
		return &driver.Result{Outcome: driver.Rejected, Err: context.Cause(ctx)}
	}
	select {
	case <-r.done: // both at once
		return nil
	default:
		return &driver.Result{Outcome: driver.Unknown, Err: context.Cause(ctx)}
	}
}

// sendDirectly sends r on its publisher's goroutine.
func (s *sender) sendDirectly(ctx context.Context, l *line, r *request) *driver.Result {
	end := time.Now().Add(l.read)
	deadline, ok := ctx.Deadline()
	if !ok || end.Before(deadline) {
		deadline = end
	}
	if !l.alive(deadline) {
		s.drop(l)
		s.workers.Go(func() { s.work(l, []*request{r}) })
		return s.wait(ctx, r)
	}
	r.state.Store(sent)
	l.spare = append(l.spare[:0], r)
	if l.send(l.spare) != nil {
		s.drop(l)
		s.pass(l)
		return nil
	}
	interrupted := func() bool { return false }
	if cancelled := driver.Cancellation(ctx); cancelled != nil {
		over := make(chan struct{})
		stop := context.AfterFunc(cancelled, func() {
			defer close(over)
			l.interrupt()
		})
		interrupted = func() bool {
			if stop() {
				return false
			}
			<-over // or it would interrupt the next batch
			return true
		}
	}
	err := l.receive(false)
	if left := interrupted(); err != nil && isTimeout(err) && (left || time.Now().Before(end)) {
		s.workers.Go(func() { s.finish(l) })
		return &driver.Result{Outcome: driver.Unknown, Err: stopped(ctx)}
	}
	s.end(l, err)
	s.pass(l)
	return nil
}

// end ends a batch for which receive returned err.
func (s *sender) end(l *line, err error) {
	if err != nil {
		l.fail(math.MaxInt, err)
	}
	if err != nil || l.reconnect {
		s.drop(l)
	}
}

// finish takes the answers to a batch whose publisher left, and works on.
func (s *sender) finish(l *line) {
	s.end(l, l.receive(true))
	if batch := s.next(l); batch != nil {
		s.work(l, batch)
	}
}

// work sends batches until the queue is empty.
func (s *sender) work(l *line, batch []*request) {
	for batch != nil {
		last := s.sendBatch(l, batch)
		batch = s.next(l)
		if last != nil {
			last.settle()
		}
	}
}

// sendBatch returns the request that is to be settled when the line is free, if
// any.
func (s *sender) sendBatch(l *line, batch []*request) (last *request) {
	if l.conn != nil && !l.alive(time.Now().Add(l.read)) {
		s.drop(l)
	}
	if l.conn == nil {
		if err := s.connect(l); err != nil {
			s.reject(batch, err)
			return nil
		}
	}
	marked := batch[:0]
	for _, r := range batch {
		if r.state.CompareAndSwap(waiting, sent) {
			marked = append(marked, r)
		}
	}
	if len(marked) == 0 {
		return nil
	}
	if l.send(marked) != nil {
		s.drop(l)
	} else {
		s.end(l, l.receive(true))
	}
	return l.last
}

// connect dials. Publishers that wait can still leave.
func (s *sender) connect(l *line) error {
	c, err := s.dial(s.ctx)
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return errors.Join(driver.ErrClosed, c.Close())
	}
	l.connected(c)
	return nil
}

// reject settles a batch that no connection could be made for. Those in the
// queue waited for the same, unless another line works.
func (s *sender) reject(batch []*request, err error) {
	err = unavailable(err)
	s.mu.Lock()
	if !slices.ContainsFunc(s.lines, func(l *line) bool { return l.conn != nil }) {
		batch = append(batch, s.queue...)
		s.queue = nil
	}
	s.mu.Unlock()
	for _, r := range batch {
		r.reject(err)
	}
}

// drop closes a line's connection; the next batch makes another.
func (s *sender) drop(l *line) {
	s.mu.Lock()
	c := l.conn
	l.conn = nil
	s.mu.Unlock()
	if c != nil {
		_ = c.Close()
	}
}

// next returns the batch that is due on l. When there is none l is free.
func (s *sender) next(l *line) []*request {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.queue) == 0 {
		s.idle = append(s.idle, l)
		return nil
	}
	n, messages, bytes := 0, 0, 0
	for _, r := range s.queue {
		messages, bytes = messages+r.count, bytes+len(r.buf)
		if n > 0 && (messages > maxBatch || bytes > maxBatchBytes) {
			break
		}
		n++
	}
	l.spare = append(l.spare[:0], s.queue[:n]...)
	rest := copy(s.queue, s.queue[n:])
	clear(s.queue[rest:])
	s.queue = s.queue[:rest]
	return l.spare
}

// pass hands a line that a publisher used to a worker if there is a queue.
func (s *sender) pass(l *line) {
	if batch := s.next(l); batch != nil {
		s.workers.Go(func() { s.work(l, batch) })
	}
}

// cut ends what is being sent, and sending: outcomes that are not known stay so.
func (s *sender) cut() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	s.cancel()
	for _, l := range s.lines {
		if l.conn != nil {
			_ = l.conn.Close() // what waits for it fails, and drops it
		}
	}
}

// close is cut for when nobody sends any more. It waits for the workers, who may
// be taking answers that nobody waits for.
func (s *sender) close() {
	s.cut()
	s.workers.Wait()
	for _, l := range s.idle {
		s.drop(l)
	}
}
