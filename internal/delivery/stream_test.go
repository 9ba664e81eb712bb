package delivery

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"go.uber.org/goleak"

	"github.com/aura360/eventbus/bus/driver"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// fixture is a stream of strings, "key value" each, with what was acked.
type fixture struct {
	*Stream[string]
	t     *testing.T
	acked []string // read after the stream is quiet
}

func start(t *testing.T, opts Options[string]) *fixture {
	t.Helper()
	f := &fixture{t: t}
	opts.DirectSettle = true
	opts.Message = func(v string) *message.Message { return message.NewMessage("again", message.Payload(v)) }
	opts.Acked = func(v string) { f.acked = append(f.acked, v) }
	f.Stream = New(context.WithValue(context.Background(), ctxKey{}, "inherited"), opts)
	t.Cleanup(func() { f.Close() })
	return f
}

type ctxKey struct{}

func (f *fixture) add(values ...string) {
	f.t.Helper()
	for _, v := range values {
		key, _, _ := strings.Cut(v, " ")
		if !f.Add(Item[string]{Key: key, Value: v, Msg: message.NewMessage("first", message.Payload(v)), Bytes: len(v)}) {
			f.t.Fatalf("Add %q: refused", v)
		}
	}
}

// take returns the next message, which must be want and be there now.
func (f *fixture) take(want string) *message.Message {
	f.t.Helper()
	synctest.Wait()
	select {
	case m, ok := <-f.Messages():
		if !ok || string(m.Payload) != want {
			f.t.Fatalf("got %v, want %q", m, want)
		}
		return m
	default:
		f.t.Fatalf("nothing to take, want %q", want)
		return nil
	}
}

func (f *fixture) none() {
	f.t.Helper()
	synctest.Wait()
	select {
	case m, ok := <-f.Messages():
		if ok {
			f.t.Fatalf("got %q, want nothing yet", m.Payload)
		}
		f.t.Fatal("the channel is closed")
	default:
	}
}

func TestOneOfAKeyAtATimeAndOthersBeside(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := start(t, Options[string]{MaxInFlight: 2})
		f.add("a 1", "a 2", "b 1", "c 1")
		a1, b1 := f.take("a 1"), f.take("b 1")
		f.none() // MaxInFlight
		if v := a1.Context().Value(ctxKey{}); v != "inherited" {
			t.Errorf("the context's value is %v", v)
		}
		driver.Settle(b1, true)
		c1 := f.take("c 1")
		driver.Settle(a1, true)
		driver.Settle(c1, true)
		driver.Settle(f.take("a 2"), true)
		if want := []string{"b 1", "a 1", "c 1", "a 2"}; !slices.Equal(f.acked, want) {
			t.Errorf("acked %q, want %q", f.acked, want)
		}
		if a1.Context().Err() == nil {
			t.Error("the context of an acked message is alive")
		}
	})
}

func TestNackedComesAgainBeforeLaterOfItsKeyAfterAPause(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := start(t, Options[string]{})
		f.add("a 1", "a 2")
		driver.Settle(f.take("a 1"), false)
		f.none()
		f.add("b 1")
		driver.Settle(f.take("b 1"), true)
		time.Sleep(10 * time.Millisecond) // the first pause, in virtual time
		m := f.take("a 1")
		if m.UUID != "again" {
			t.Errorf("the message of the first delivery was used again")
		}
		if !driver.SettleLater(m, time.Minute) {
			t.Error("SettleLater: can't")
		}
		time.Sleep(time.Minute - time.Nanosecond)
		f.none()
		time.Sleep(time.Nanosecond)
		driver.Settle(f.take("a 1"), true)
		driver.Settle(f.take("a 2"), true)
	})
}

func TestRecallWaitsForTheDeliveredAndForgetsTheRest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := start(t, Options[string]{MaxInFlight: 2})
		f.add("p1 1", "p1 2", "p2 1", "p2 2", "p3 1")
		p1, p2 := f.take("p1 1"), f.take("p2 1")
		ended := make(chan error, 1)
		go func() {
			ended <- f.Recall(t.Context(), func(v string) bool { return strings.HasPrefix(v, "p1") || strings.HasPrefix(v, "p3") })
		}()
		synctest.Wait()
		select {
		case err := <-ended:
			t.Fatalf("Recall did not wait: %v", err)
		default:
		}
		driver.Settle(p1, true)
		if err := <-ended; err != nil {
			t.Error(err)
		}
		driver.Settle(p2, true)
		driver.Settle(f.take("p2 2"), true)
		f.none()
		if want := []string{"p1 1", "p2 1", "p2 2"}; !slices.Equal(f.acked, want) {
			t.Errorf("acked %q, want %q", f.acked, want)
		}
		if f.bytes != 0 || f.window.Len() != 0 {
			t.Errorf("%d bytes, %d entries are left", f.bytes, f.window.Len())
		}
	})
}

func TestRecallLeavesANackToTheNextOwner(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := start(t, Options[string]{})
		f.add("a 1")
		m := f.take("a 1")
		ended := make(chan error, 1)
		go func() { ended <- f.Recall(t.Context(), func(string) bool { return true }) }()
		synctest.Wait()
		driver.Settle(m, false)
		if err := <-ended; err != nil {
			t.Error(err)
		}
		time.Sleep(time.Hour)
		f.none()
	})
}

func TestRecallDropsWhatItsContextDoesNotWaitFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := start(t, Options[string]{MaxInFlight: 1})
		f.add("a 1", "a 2")
		m := f.take("a 1")
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		err := f.Recall(ctx, func(v string) bool { return strings.HasPrefix(v, "a") })
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("Recall: %v", err)
		}
		if m.Context().Err() == nil {
			t.Error("the context of a dropped message is alive")
		}
		f.add("a 3")
		m3 := f.take("a 3") // the slot and the key are free
		driver.Settle(m, true)
		driver.Settle(m3, true)
		if want := []string{"a 3"}; !slices.Equal(f.acked, want) {
			t.Errorf("acked %q, want %q", f.acked, want)
		}
	})
}

func TestWhatWaitsInTheChannelIsTakenBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := start(t, Options[string]{})
		f.add("a 1", "b 1", "c 1")
		if n := f.Drop(func(v string) bool { return v == "b 1" }); n != 0 {
			t.Errorf("%d delivered were dropped", n)
		}
		a, c := f.take("a 1"), f.take("c 1")
		f.none()
		f.add("d 1")
		f.Retire()
		if _, ok := <-f.Messages(); ok {
			t.Error("a retired stream gave a message")
		}
		driver.Settle(a, true)
		select {
		case <-f.Settled():
			t.Error("settled with a message in flight")
		default:
		}
		c.Ack() // not told
		if n := f.Close(); n != 0 {
			t.Errorf("%d given up", n)
		}
		<-f.Settled()
		driver.Settle(c, true) // too late to count twice
		if want := []string{"a 1", "c 1"}; !slices.Equal(f.acked, want) {
			t.Errorf("acked %q, want %q", f.acked, want)
		}
		if f.Add(Item[string]{Value: "late"}) {
			t.Error("a closed stream took an entry")
		}
	})
}

func TestRoomWaitsForAQuarterOfTheBuffer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := start(t, Options[string]{MaxBuffered: 4})
		for i := range 4 {
			if err := f.Room(t.Context()); err != nil {
				t.Fatal(err)
			}
			f.add(fmt.Sprint(i))
		}
		room := make(chan error)
		go func() { room <- f.Room(t.Context()) }()
		synctest.Wait()
		select {
		case err := <-room:
			t.Fatalf("there was room: %v", err)
		default:
		}
		driver.Settle(f.take("0"), true)
		if err := <-room; err != nil {
			t.Error(err)
		}
		f.add("4")
		go func() { room <- f.Room(t.Context()) }()
		synctest.Wait()
		f.Retire()
		if err := <-room; !errors.Is(err, driver.ErrClosed) {
			t.Errorf("Room of a retired stream: %v", err)
		}
	})
}

func TestAcksThatNobodyTellsAreHeard(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		acked := make(chan string, 2)
		s := New(t.Context(), Options[string]{
			Message: func(v string) *message.Message { return message.NewMessage("", message.Payload(v)) },
			Acked:   func(v string) { acked <- v },
		})
		s.Add(Item[string]{Key: "a", Value: "1"}, Item[string]{Key: "a", Value: "2"})
		(<-s.Messages()).Ack()
		if got := <-acked; got != "1" {
			t.Errorf("acked %q", got)
		}
		(<-s.Messages()).Nack()
		(<-s.Messages()).Ack()
		if got := <-acked; got != "2" {
			t.Errorf("acked %q", got)
		}
		s.Close()
	})
}
