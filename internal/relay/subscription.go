package relay

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/aura360/eventbus/bus/driver"
)

// errEnded is what State shows when a stock subscriber closed its channel
// without telling why.
var errEnded = errors.New("the adapter ended the subscription")

// subscription is one topic. Its run goroutine owns everything not under mu.
type subscription struct {
	cfg   *Config
	topic string
	out   chan *message.Message

	// ctx carries the stock subscription and so the message contexts; see "What
	// ends what" in the package comment. dial is its child for opening, which a
	// Drain ends too.
	ctx      context.Context
	cancel   context.CancelFunc
	dial     context.Context
	stopDial context.CancelFunc
	forget   func() bool // detaches from Subscribe's context

	drain, stop         chan struct{} // closed by startDrain, stopNow
	drainOnce, stopOnce sync.Once
	closeOut            func() // closes out, once
	done                chan struct{}
	closeErr            error // of the last stock subscriber; read after done

	flight inflight

	mu    sync.Mutex
	st    driver.SubscriptionState
	stock message.Subscriber // the current one, nil while there is none
}

func newSubscription(ctx context.Context, cfg *Config, topic string) *subscription {
	s := &subscription{
		cfg:   cfg,
		topic: topic,
		out:   make(chan *message.Message),
		drain: make(chan struct{}),
		stop:  make(chan struct{}),
		done:  make(chan struct{}),
	}
	s.closeOut = sync.OnceFunc(func() { close(s.out) })
	s.ctx, s.cancel = context.WithCancel(context.WithoutCancel(ctx))
	s.dial, s.stopDial = context.WithCancel(s.ctx)
	s.forget = context.AfterFunc(ctx, s.stopNow)
	return s
}

func (s *subscription) startDrain() {
	s.drainOnce.Do(func() {
		s.forget()
		s.stopDial()
		close(s.drain)
	})
}

func (s *subscription) stopNow() {
	s.stopOnce.Do(func() {
		s.stopDial()
		close(s.stop)
	})
}

func (s *subscription) ended() bool {
	select {
	case <-s.done:
		return true
	default:
		return false
	}
}

// why is the reason for which forwarding ended.
type why uint8

const (
	adapterEnded why = iota
	draining
	stopping
)

// run keeps one stock subscriber subscribed until told to drain or to stop.
func (s *subscription) run() {
	defer close(s.done)
	defer s.cancel()
	defer s.stopDial()
	defer s.forget()
	defer s.closeOut()

	pause, failures := s.cfg.MinBackoff, 0
	for {
		stock, in, err := s.open()
		if err == nil {
			s.connected(stock, failures)
			start := time.Now()
			reason, n := s.forward(in)
			if reason == draining {
				s.closeOut()
				if f, ok := stock.(interface{ StopFetching() }); ok {
					f.StopFetching()
				}
				if !s.settle() {
					reason = stopping
				}
			}
			if reason == stopping {
				s.closeOut()
				s.settleAcked()
				s.cancel()
			}
			s.blocking(func() { err = stock.Close() })
			s.disconnected()
			if reason != adapterEnded {
				s.closeErr = err
				return
			}
			s.flight = inflight{} // the adapter forgot them, and their contexts are over
			if err == nil {
				err = errEnded
			}
			if c, ok := stock.(interface{ Condition() error }); ok && c.Condition() != nil {
				err = c.Condition()
			}
			// Subscribing that succeeds and ends at once is a failure like any other.
			if n > 0 || time.Since(start) >= s.cfg.MaxBackoff {
				pause, failures = s.cfg.MinBackoff, 0
			}
		}
		if s.asked() {
			return
		}
		s.failed(err, failures)
		failures++
		if !s.sleep(pause/2 + rand.N(pause/2+1)) {
			return
		}
		pause = min(2*pause, s.cfg.MaxBackoff)
	}
}

// open opens and subscribes a stock subscriber.
func (s *subscription) open() (stock message.Subscriber, in <-chan *message.Message, err error) {
	s.blocking(func() {
		if stock, err = s.cfg.Open(s.dial, s.topic); err != nil {
			return
		}
		if in, err = stock.Subscribe(s.ctx, s.topic); err != nil {
			_ = stock.Close() // the reason why it could not subscribe says more
		}
	})
	return stock, in, err
}

// blocking runs f, which may wait for the broker, and returns after it. When
// asked to drain or stop meanwhile, the output is closed at once all the same.
func (s *subscription) blocking(f func()) {
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		f()
	}()
	select {
	case <-ended:
		return
	case <-s.drain:
	case <-s.stop:
	}
	s.closeOut()
	<-ended
}

// forward hands messages over until the adapter ends or the relay is asked to,
// and returns how many it handed over.
func (s *subscription) forward(in <-chan *message.Message) (reason why, n int) {
	var held pauses
	defer held.stop()
	for {
		var d delivery
		select {
		case msg, ok := <-in:
			if !ok {
				return adapterEnded, n
			}
			d = s.flight.arrived(s.ctx, msg)
			if s.cfg.Prepare != nil {
				s.cfg.Prepare(msg)
			}
			if wait := nackPause(d.nacks); wait > 0 {
				held.add(d, wait)
				continue
			}
		case <-held.due():
			d = held.pop()
		case <-s.drain:
			return draining, n
		case <-s.stop:
			return stopping, n
		}
		select {
		case s.out <- d.msg:
			s.flight.add(d)
			n++
		case <-d.done:
			// The adapter gave it up: nobody would hear the ack.
		case <-s.drain:
			return draining, n
		case <-s.stop:
			return stopping, n
		}
	}
}

// settle waits until every message forwarded is nacked, or acked and the
// adapter has taken note. It returns false when told to stop first.
func (s *subscription) settle() bool {
	for _, d := range s.flight.list {
		select {
		case <-d.msg.Acked():
			if d.done == nil {
				continue
			}
			select {
			case <-d.done:
			case <-s.stop:
				return false
			}
		case <-d.msg.Nacked():
		case <-d.done:
		case <-s.stop:
			return false
		}
	}
	return true
}

// settleAcked gives the adapter a moment to take note of what is acked already.
func (s *subscription) settleAcked() {
	grace := time.NewTimer(closeGrace)
	defer grace.Stop()
	for _, d := range s.flight.list {
		if !isClosed(d.msg.Acked()) || d.done == nil || isClosed(d.done) {
			continue
		}
		select {
		case <-d.done:
		case <-grace.C:
			return
		}
	}
}

// asked tells whether a drain or a stop was asked for.
func (s *subscription) asked() bool { return isClosed(s.drain) || isClosed(s.stop) }

// sleep waits and returns false when asked to drain or stop meanwhile.
func (s *subscription) sleep(d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-s.drain:
	case <-s.stop:
	}
	return false
}

func (s *subscription) connected(stock message.Subscriber, failures int) {
	s.mu.Lock()
	s.stock = stock
	s.st.Connected = true
	if failures > 0 {
		s.st.Resubscribed++
	}
	s.mu.Unlock()
	if failures > 0 {
		s.cfg.Log.Info("subscription restored", "backend", s.cfg.Backend, "topic", s.topic,
			"group", s.cfg.Group, "attempts", failures)
	}
}

func (s *subscription) disconnected() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.stock = nil
	s.st.Connected = false
}

// failed notes why there is no subscription, and logs it the first time.
func (s *subscription) failed(err error, failures int) {
	s.mu.Lock()
	s.st.LastError = err.Error()
	s.mu.Unlock()
	if failures == 0 {
		s.cfg.Log.Warn("subscription lost, trying again", "backend", s.cfg.Backend, "topic", s.topic,
			"group", s.cfg.Group, "error", err.Error())
	}
}

func (s *subscription) state() driver.SubscriptionState {
	s.mu.Lock()
	defer s.mu.Unlock()
	st := s.st
	if c, ok := s.stock.(interface{ Condition() error }); ok {
		if err := c.Condition(); err != nil {
			st.Connected, st.LastError = false, err.Error()
		}
	}
	return st
}

func isClosed(ch <-chan struct{}) bool {
	select {
	case <-ch:
		return true
	default:
		return false
	}
}
