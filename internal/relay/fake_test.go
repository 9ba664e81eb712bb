package relay_test

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
)

// fakeBroker stands for a topic's backlog; fakeStock mimics the way in which the
// stock adapters handle a message (messageHandler.processMessage).
type fakeBroker struct {
	mu       sync.Mutex
	opened   int
	closed   int
	openErr  error // returned by Open while set
	subErr   error // returned by Subscribe while set
	partitns int
	dropCtx  bool          // after a nack, as the Redis adapter does
	noCtx    bool          // an adapter that sets no contexts at all
	ackTakes time.Duration // to take note of an ack
	openWait chan struct{} // Open blocks until closed, if set
	acks     []string      // taken note of
	queue    [][]string    // per partition, UUIDs not yet acked
	wake     chan struct{} // closed and replaced when the queue grows
	current  *fakeStock
}

func newBroker(partitions int) *fakeBroker {
	return &fakeBroker{partitns: partitions, queue: make([][]string, partitions), wake: make(chan struct{})}
}

func (b *fakeBroker) add(partition int, uuids ...string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.queue[partition] = append(b.queue[partition], uuids...)
	close(b.wake)
	b.wake = make(chan struct{})
}

func (b *fakeBroker) set(f func(b *fakeBroker)) {
	b.mu.Lock()
	defer b.mu.Unlock()
	f(b)
}

func (b *fakeBroker) acked() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return append([]string(nil), b.acks...)
}

func (b *fakeBroker) counts() (opened, closed int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.opened, b.closed
}

func (b *fakeBroker) Open(_ context.Context, _ string) (message.Subscriber, error) {
	b.mu.Lock()
	wait := b.openWait
	b.mu.Unlock()
	if wait != nil {
		<-wait
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.opened++
	if b.openErr != nil {
		b.closed++ // nothing to close
		return nil, b.openErr
	}
	b.current = &fakeStock{b: b, closing: make(chan struct{}), broken: make(chan struct{})}
	return b.current, nil
}

// breakIt ends the current stock subscription from inside, as NOGROUP does.
func (b *fakeBroker) breakIt() {
	b.mu.Lock()
	defer b.mu.Unlock()
	close(b.current.broken)
}

type fakeStock struct {
	b               *fakeBroker
	closing, broken chan struct{}
	wg              sync.WaitGroup
	stopFetching    bool
	condition       error
}

func (s *fakeStock) StopFetching() {
	s.b.mu.Lock()
	defer s.b.mu.Unlock()
	s.stopFetching = true
}

func (s *fakeStock) Condition() error {
	s.b.mu.Lock()
	defer s.b.mu.Unlock()
	return s.condition
}

func (s *fakeStock) Subscribe(ctx context.Context, _ string) (<-chan *message.Message, error) {
	s.b.mu.Lock()
	err := s.b.subErr
	s.b.mu.Unlock()
	if err != nil {
		return nil, err
	}
	out := make(chan *message.Message)
	for p := range s.b.partitns {
		s.wg.Go(func() { s.consume(ctx, p, out) })
	}
	go func() {
		s.wg.Wait()
		close(out)
	}()
	return out, nil
}

func (s *fakeStock) consume(ctx context.Context, p int, out chan<- *message.Message) {
	for {
		s.b.mu.Lock()
		var uuid string
		if len(s.b.queue[p]) > 0 {
			uuid = s.b.queue[p][0]
		}
		wake := s.b.wake
		s.b.mu.Unlock()
		if uuid == "" {
			select {
			case <-wake:
				continue
			case <-s.closing:
			case <-s.broken:
			case <-ctx.Done():
			}
			return
		}
		if !s.process(ctx, p, uuid, out) {
			return
		}
	}
}

func (s *fakeStock) process(ctx context.Context, p int, uuid string, out chan<- *message.Message) bool {
	base := ctx
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	msg := message.NewMessage(uuid, message.Payload(uuid))
	if !s.b.noCtx {
		msg.SetContext(ctx)
	}
	for {
		select {
		case out <- msg:
		case <-s.closing:
			return false
		case <-s.broken:
			return false
		case <-ctx.Done():
			return false
		}
		select {
		case <-msg.Acked():
			if s.b.ackTakes > 0 {
				time.Sleep(s.b.ackTakes)
			}
			if base.Err() != nil {
				return false // the ack is lost, as XACK with a dead context
			}
			s.b.mu.Lock()
			s.b.acks = append(s.b.acks, uuid)
			s.b.queue[p] = s.b.queue[p][1:]
			s.b.mu.Unlock()
			return true
		case <-msg.Nacked():
			msg = msg.Copy()
			if !s.b.dropCtx && !s.b.noCtx {
				msg.SetContext(ctx)
			}
			time.Sleep(100 * time.Millisecond)
		case <-s.closing:
			return false
		case <-s.broken:
			return false
		case <-ctx.Done():
			return false
		}
	}
}

func (s *fakeStock) Close() error {
	close(s.closing) // a second Close would panic: the relay must not
	s.wg.Wait()
	s.b.mu.Lock()
	defer s.b.mu.Unlock()
	s.b.closed++
	return nil
}

var errDown = errors.New("connection refused")
