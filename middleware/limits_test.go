package middleware

import (
	"context"
	"errors"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/sony/gobreaker/v2"

	"github.com/aura360/eventbus/bus/driver"
)

func TestOpenBreakerPausesConsumingAndCloses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log logBuffer
		var down atomic.Bool
		var calls atomic.Int32
		down.Store(true)
		h := chain(handler(func(context.Context) error {
			calls.Add(1)
			if down.Load() {
				return errBoom
			}
			return nil
		}), CircuitBreaker(BreakerConfig{Failures: 3, OpenFor: time.Minute, Log: log.logger()}))
		for range 3 {
			if _, err := deliver(h, event(t.Context(), "1", "{}")); !errors.Is(err, errBoom) {
				t.Fatal(err)
			}
		}
		var wg sync.WaitGroup
		start := time.Now()
		for range 50 {
			wg.Go(func() {
				for { // delivered again after an error, as a driver does
					if _, err := deliver(h, event(t.Context(), "1", "{}")); err == nil {
						return
					}
				}
			})
		}
		synctest.Wait()
		if n := calls.Load(); n != 3 {
			t.Fatalf("%d calls while the breaker is open", n)
		}
		time.Sleep(90 * time.Second) // virtual: one probe has failed by now
		synctest.Wait()
		if n := calls.Load(); n != 4 {
			t.Fatalf("%d calls after one probe", n)
		}
		down.Store(false)
		wg.Wait()
		if n, took := calls.Load(), time.Since(start).Round(time.Second); n != 54 || took != 2*time.Minute {
			t.Errorf("%d calls, after %v", n, took)
		}
		if s := log.String(); !strings.Contains(s, "circuit breaker opened") || !strings.Contains(s, "now=closed") {
			t.Errorf("log %s", s)
		}
	})
}

func TestBreakerWaitEndsWithTheDelivery(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var q poisonQueue
		h := chain(handler(func(context.Context) error { return errBoom }),
			Poison(q.sink, nil), Retry(RetryPolicy{MaxAttempts: 10}, nil), CircuitBreaker(BreakerConfig{Failures: 1, OpenFor: time.Hour}))
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		d, err := deliver(h, event(ctx, "1", "{}"))
		if err == nil || d.Outcome != OutcomeUnacked || d.Attempt != 2 || len(q.info) != 0 {
			t.Errorf("err %v, outcome %s, attempt %d, poisoned %v", err, d.Outcome, d.Attempt, q.reasons())
		}
	})
}

func TestBreakerDoesNotCountWhatIsWrongWithOneMessage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBreaker(BreakerConfig{Failures: 2, OpenFor: time.Second})
		try := func(err error) {
			done, werr := b.enter(t.Context())
			if werr != nil {
				t.Fatal(werr)
			}
			b.leave(t.Context(), done, err)
		}
		for range 10 {
			try(Permanent(errBoom))
		}
		if s := b.two.State(); s != gobreaker.StateClosed {
			t.Fatalf("state %v", s)
		}
		try(errBoom)
		try(errBoom)
		if s := b.two.State(); s != gobreaker.StateOpen {
			t.Fatalf("state %v", s)
		}
		// A probe that says nothing frees its place for the next one.
		var wg sync.WaitGroup
		for i := range 3 {
			wg.Go(func() {
				done, err := b.enter(t.Context())
				if err != nil {
					t.Error(err)
					return
				}
				time.Sleep(time.Millisecond) // virtual
				b.leave(t.Context(), done, map[bool]error{true: nil, false: Permanent(errBoom)}[i == 2])
			})
		}
		wg.Wait()
		if s := b.two.State(); s != gobreaker.StateClosed {
			t.Errorf("state %v", s)
		}
	})
}

func TestBreakerCountsAPanic(t *testing.T) {
	h := CircuitBreaker(BreakerConfig{Failures: 1, OpenFor: time.Hour})(handler(func(context.Context) error { panic("p") }))
	func() {
		defer func() { _ = recover() }()
		_, _ = deliver(h, event(t.Context(), "1", "{}"))
	}()
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(errBoom)
	if _, err := deliver(h, event(ctx, "1", "{}")); !errors.Is(err, errBoom) {
		t.Errorf("err %v, want to wait until the delivery ends", err)
	}
}

func TestThrottleSpacesTries(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := 0
		h := Throttle(10, 5)(handler(func(context.Context) error { n++; return nil }))
		start := time.Now()
		for range 25 {
			if _, err := deliver(h, event(t.Context(), "1", "{}")); err != nil {
				t.Fatal(err)
			}
		}
		if took := time.Since(start).Round(10 * time.Millisecond); n != 25 || took != 2*time.Second {
			t.Errorf("%d in %v, want 25 in 2s", n, took)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
		defer cancel()
		if d, err := deliver(Poison((&poisonQueue{}).sink, nil)(h), event(ctx, "1", "{}")); err == nil || d.Outcome != OutcomeUnacked {
			t.Errorf("ended while waiting: err %v, outcome %s", err, d.Outcome)
		}
	})
}

func TestConcurrencyBoundsTries(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var now atomic.Int32
		var mu sync.Mutex
		var most int32
		h := Concurrency(3)(handler(func(context.Context) error {
			n := now.Add(1)
			mu.Lock()
			most = max(most, n)
			mu.Unlock()
			time.Sleep(time.Second) // virtual
			now.Add(-1)
			return nil
		}))
		start := time.Now()
		var wg sync.WaitGroup
		for range 9 {
			wg.Go(func() { _, _ = deliver(h, event(t.Context(), "1", "{}")) })
		}
		synctest.Wait()
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := deliver(h, event(ctx, "1", "{}")); err == nil {
			t.Error("a delivery that has ended got a place")
		}
		wg.Wait()
		if most != 3 || time.Since(start) != 3*time.Second {
			t.Errorf("%d at a time, %v", most, time.Since(start))
		}
	})
}

func TestLimitsOfZeroAreNone(t *testing.T) {
	called := 0
	h := chain(handler(func(context.Context) error { called++; return nil }), Timeout(0), Throttle(0, 0), Concurrency(0))
	if _, err := deliver(h, event(t.Context(), "1", "{}")); err != nil || called != 1 {
		t.Error(err, called)
	}
}

// settled makes a message whose driver asked to be told.
func settled(t *testing.T) (*message.Message, *[]bool) {
	var got []bool
	msg := event(driver.WithSettle(t.Context(), func(ack bool) { got = append(got, ack) }), "1", "{}")
	return msg, &got
}

func TestGuardSettlesEveryMessage(t *testing.T) {
	var log logBuffer
	g := Guard(log.logger())
	for name, c := range map[string]struct {
		h    message.HandlerFunc
		ack  bool
		want string
	}{
		"handled": {handler(func(context.Context) error { return nil }), true, "acked"},
		"failed":  {handler(func(context.Context) error { return errBoom }), false, "nacked"},
		"panic":   {handler(func(context.Context) error { panic("chain broke") }), false, "nacked"},
	} {
		msg, got := settled(t)
		_, err := deliver(g(c.h), msg)
		if (err == nil) != c.ack || len(*got) != 1 || (*got)[0] != c.ack || acked(msg) != c.want {
			t.Errorf("%s: err %v, driver told %v, message %s", name, err, *got, acked(msg))
		}
	}
	if s := log.String(); !strings.Contains(s, "chain broke") || !strings.Contains(s, "event_id=1") || !strings.Contains(s, "limits_test.go") {
		t.Errorf("log %s", s)
	}
}

func TestGuardLeavesProducedMessagesToTheRouter(t *testing.T) {
	for _, ack := range []bool{true, false} {
		synctest.Test(t, func(t *testing.T) {
			msg, got := settled(t)
			h := Guard(nil)(func(*message.Message) ([]*message.Message, error) {
				return []*message.Message{message.NewMessage("out", nil)}, nil
			})
			if _, err := deliver(h, msg); err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
			if len(*got) != 0 || acked(msg) != "unsettled" {
				t.Fatalf("settled before the router published: %v, %s", *got, acked(msg))
			}
			if ack {
				msg.Ack()
			} else {
				msg.Nack()
			}
			synctest.Wait()
			if len(*got) != 1 || (*got)[0] != ack {
				t.Errorf("driver told %v, want %v", *got, ack)
			}
		})
	}
}
