package relay_test

import (
	"bytes"
	"context"
	"errors"
	"reflect"
	"testing"
	"testing/synctest"
	"time"

	"github.com/aura360/eventbus/bus/driver"
)

func TestDrainWaitsUntilTheAdapterTookNoteOfEveryAck(t *testing.T) {
	for _, dropCtx := range []bool{false, true} {
		bubble(t, 3, func(t *testing.T, b *fakeBroker, s driver.Subscriber, _ *bytes.Buffer) {
			b.set(func(b *fakeBroker) { b.ackTakes, b.dropCtx = 2*time.Second, dropCtx })
			b.add(0, "a", "never forwarded")
			b.add(1, "b")
			b.add(2, "nacked")
			ch := subscribe(t, s)
			x, y, z := <-ch, <-ch, <-ch
			for z.UUID != "nacked" {
				x, y, z = y, z, x
			}
			z.Nack()
			z = <-ch // its redelivery
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			start := time.Now()
			drained := make(chan error, 1)
			go func() { drained <- s.Drain(ctx) }()
			mustClosed(t, ch)
			if _, err := s.Subscribe(t.Context(), "topic"); !errors.Is(err, driver.ErrClosed) {
				t.Errorf("Subscribe while draining: %v, want ErrClosed", err)
			}
			if x.Context().Err() != nil {
				t.Error("a message's context ended when draining began")
			}
			time.Sleep(10 * time.Second)
			x.SetContext(context.Background()) // as a router does
			x.Ack()
			y.Ack()
			z.Nack() // not waited for
			if err := <-drained; err != nil {
				t.Fatal(err)
			}
			if got := time.Since(start); got != 12*time.Second {
				t.Errorf("Drain took %v, want 12 s", got)
			}
			if got := len(b.acked()); got != 2 {
				t.Errorf("acked %v, want a and b", b.acked())
			}
			b.mu.Lock()
			defer b.mu.Unlock()
			if !b.current.stopFetching {
				t.Error("the adapter was not told to stop fetching")
			}
			want := [][]string{{"never forwarded"}, {}, {"nacked"}}
			if !reflect.DeepEqual(b.queue, want) {
				t.Errorf("left at the broker: %v, want %v", b.queue, want)
			}
		})
	}
}

func TestDrainGivesUpWithItsContextAndCloseEndsTheRest(t *testing.T) {
	bubble(t, 2, func(t *testing.T, b *fakeBroker, s driver.Subscriber, _ *bytes.Buffer) {
		b.add(0, "stuck")
		b.add(1, "acked late")
		ch := subscribe(t, s)
		stuck, late := <-ch, <-ch
		if stuck.UUID != "stuck" {
			stuck, late = late, stuck
		}
		cause := errors.New("no more time")
		ctx, cancel := context.WithTimeoutCause(t.Context(), 5*time.Second, cause)
		defer cancel()
		if err := s.Drain(ctx); !errors.Is(err, cause) {
			t.Fatalf("Drain = %v, want %v", err, cause)
		}
		mustClosed(t, ch)
		if stuck.Context().Err() != nil {
			t.Error("the end of Drain's context ended a message's")
		}
		b.set(func(b *fakeBroker) { b.ackTakes = 100 * time.Millisecond })
		late.Ack()
		if err := s.Close(); err != nil {
			t.Error(err)
		}
		if stuck.Context().Err() == nil {
			t.Error("Close left a message's context alive")
		}
		if got := b.acked(); !reflect.DeepEqual(got, []string{"acked late"}) {
			t.Errorf("acked %v, want what was acked before Close", got)
		}
		if err := s.Drain(t.Context()); err != nil {
			t.Errorf("Drain after Close: %v", err)
		}
	})
}

func TestCloseWaitsForASlowAckOnlyAMoment(t *testing.T) {
	bubble(t, 1, func(t *testing.T, b *fakeBroker, s driver.Subscriber, _ *bytes.Buffer) {
		b.set(func(b *fakeBroker) { b.ackTakes = time.Second })
		b.add(0, "a")
		m := <-subscribe(t, s)
		m.Ack()
		start := time.Now()
		if err := s.Close(); err != nil {
			t.Error(err)
		}
		// 500 ms of grace; the fake cannot be interrupted, a stock adapter can.
		if got := time.Since(start); got != time.Second || len(b.acked()) != 0 {
			t.Errorf("Close took %v, acked %v", got, b.acked())
		}
	})
}

func TestEndOfSubscribesContextDropsWhatIsUnacked(t *testing.T) {
	bubble(t, 1, func(t *testing.T, b *fakeBroker, s driver.Subscriber, _ *bytes.Buffer) {
		b.add(0, "a")
		ctx, cancel := context.WithCancel(t.Context())
		ch, err := s.Subscribe(ctx, "topic")
		if err != nil {
			t.Fatal(err)
		}
		m := <-ch
		cancel()
		mustClosed(t, ch)
		if m.Context().Err() == nil {
			t.Error("the message's context is alive")
		}
		// The subscriber itself goes on, with the message again.
		m = <-subscribe(t, s)
		if m.UUID != "a" {
			t.Errorf("got %s", m.UUID)
		}
		m.Ack()
		if err := s.Drain(t.Context()); err != nil {
			t.Error(err)
		}
		if got := b.acked(); !reflect.DeepEqual(got, []string{"a"}) {
			t.Errorf("acked %v", got)
		}
	})
}

func TestDrainOutlivesSubscribesContext(t *testing.T) {
	bubble(t, 1, func(t *testing.T, b *fakeBroker, s driver.Subscriber, _ *bytes.Buffer) {
		b.add(0, "a")
		ctx, cancel := context.WithCancel(t.Context())
		ch, err := s.Subscribe(ctx, "topic")
		if err != nil {
			t.Fatal(err)
		}
		m := <-ch
		drained := make(chan error, 1)
		go func() { drained <- s.Drain(t.Context()) }()
		mustClosed(t, ch)
		cancel()
		synctest.Wait()
		if m.Context().Err() != nil {
			t.Error("the message's context ended with Subscribe's while draining")
		}
		m.Ack()
		if err := <-drained; err != nil {
			t.Error(err)
		}
		if got := b.acked(); !reflect.DeepEqual(got, []string{"a"}) {
			t.Errorf("acked %v", got)
		}
	})
}

func TestDrainWhileConnectingClosesTheOutputAtOnce(t *testing.T) {
	for _, how := range []string{"drain", "close", "drain, then close"} {
		bubble(t, 1, func(t *testing.T, b *fakeBroker, s driver.Subscriber, _ *bytes.Buffer) {
			wait := make(chan struct{})
			b.set(func(b *fakeBroker) { b.openWait = wait })
			ch := subscribe(t, s)
			synctest.Wait()
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			if how != "close" {
				if err := s.Drain(ctx); !errors.Is(err, context.DeadlineExceeded) {
					t.Errorf("Drain = %v", err)
				}
				mustClosed(t, ch)
			}
			closed := make(chan error, 1)
			if how != "drain" {
				go func() { closed <- s.Close() }()
				mustClosed(t, ch)
			}
			close(wait)
			if how != "drain" {
				if err := <-closed; err != nil {
					t.Error(err)
				}
			}
		})
	}
}

func TestDrainWhileWaitingToTryAgain(t *testing.T) {
	bubble(t, 1, func(t *testing.T, b *fakeBroker, s driver.Subscriber, _ *bytes.Buffer) {
		b.set(func(b *fakeBroker) { b.openErr = errDown })
		ch := subscribe(t, s)
		time.Sleep(time.Minute)
		start := time.Now()
		if err := s.Drain(t.Context()); err != nil || time.Since(start) != 0 {
			t.Errorf("Drain = %v after %v", err, time.Since(start))
		}
		mustClosed(t, ch)
	})
}

func TestDrainWorksWithAnAdapterWithoutContexts(t *testing.T) {
	bubble(t, 1, func(t *testing.T, b *fakeBroker, s driver.Subscriber, _ *bytes.Buffer) {
		b.set(func(b *fakeBroker) { b.noCtx = true })
		b.add(0, "a", "b")
		ch := subscribe(t, s)
		m := <-ch
		m.Nack()
		m = <-ch
		m.Ack()
		m = <-ch
		drained := make(chan error, 1)
		go func() { drained <- s.Drain(t.Context()) }()
		mustClosed(t, ch)
		m.Ack()
		if err := <-drained; err != nil {
			t.Error(err)
		}
	})
}

func TestDrainDoesNotWaitForWhatTheAdapterGaveUp(t *testing.T) {
	bubble(t, 1, func(t *testing.T, b *fakeBroker, s driver.Subscriber, _ *bytes.Buffer) {
		b.add(0, "a")
		ch := subscribe(t, s)
		<-ch
		drained := make(chan error, 1)
		go func() { drained <- s.Drain(t.Context()) }()
		mustClosed(t, ch)
		b.breakIt()
		if err := <-drained; err != nil {
			t.Error(err)
		}
	})
}
