package relay_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"reflect"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"go.uber.org/goleak"

	"github.com/aura360/eventbus/bus/driver"
	"github.com/aura360/eventbus/internal/relay"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// bubble runs f with a broker and a relay over it, and checks afterwards that
// every stock subscriber was closed once.
func bubble(t *testing.T, partitions int, f func(t *testing.T, b *fakeBroker, s driver.Subscriber, log *bytes.Buffer)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		b := newBroker(partitions)
		var log bytes.Buffer
		s := relay.New(relay.Config{
			Backend: "fake", Group: "g", Open: b.Open,
			Log: slog.New(slog.NewTextHandler(&log, nil)),
			Prepare: func(m *message.Message) {
				m.Metadata.Set("prepared", "yes")
			},
		})
		f(t, b, s, &log)
		if err := s.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
		if err := s.Close(); err != nil {
			t.Errorf("second Close: %v", err)
		}
		if opened, closed := b.counts(); opened != closed {
			t.Errorf("%d stock subscribers opened, %d closed", opened, closed)
		}
		if _, err := s.Subscribe(t.Context(), "topic"); !errors.Is(err, driver.ErrClosed) {
			t.Errorf("Subscribe after Close: %v, want ErrClosed", err)
		}
	})
}

func subscribe(t *testing.T, s driver.Subscriber) <-chan *message.Message {
	t.Helper()
	ch, err := s.Subscribe(t.Context(), "topic")
	if err != nil {
		t.Fatal(err)
	}
	return ch
}

func mustClosed(t *testing.T, ch <-chan *message.Message) {
	t.Helper()
	synctest.Wait()
	select {
	case m, ok := <-ch:
		if ok {
			t.Fatalf("got message %s, want the channel closed", m.UUID)
		}
	default:
		t.Fatal("the channel is still open")
	}
}

func TestMessagesArriveInOrderAndAcksReachTheAdapter(t *testing.T) {
	bubble(t, 1, func(t *testing.T, b *fakeBroker, s driver.Subscriber, _ *bytes.Buffer) {
		b.add(0, "a", "b", "c")
		ch := subscribe(t, s)
		for _, want := range []string{"a", "b", "c"} {
			m := <-ch
			if m.UUID != want || m.Metadata.Get("prepared") != "yes" {
				t.Fatalf("got %s %v, want %s, prepared", m.UUID, m.Metadata, want)
			}
			m.Ack()
			<-m.Context().Done()
		}
		if got := b.acked(); !reflect.DeepEqual(got, []string{"a", "b", "c"}) {
			t.Errorf("acked %v", got)
		}
		want := map[string]driver.SubscriptionState{"topic": {Connected: true}}
		if got := s.State(); !reflect.DeepEqual(got, want) {
			t.Errorf("State = %+v, want %+v", got, want)
		}
	})
}

func TestMessageContextCarriesTheValuesOfSubscribesContext(t *testing.T) {
	type key struct{}
	for _, noCtx := range []bool{false, true} {
		bubble(t, 1, func(t *testing.T, b *fakeBroker, s driver.Subscriber, _ *bytes.Buffer) {
			b.set(func(b *fakeBroker) { b.noCtx = noCtx })
			b.add(0, "a")
			ch, err := s.Subscribe(context.WithValue(t.Context(), key{}, "v"), "topic")
			if err != nil {
				t.Fatal(err)
			}
			m := <-ch
			if got := m.Context().Value(key{}); got != "v" {
				t.Errorf("noCtx=%v: value %v", noCtx, got)
			}
			m.Ack()
		})
	}
}

func TestSubscribeReturnsAtOnceAndKeepsTryingWhileTheBrokerIsDown(t *testing.T) {
	for _, step := range []string{"open", "subscribe"} {
		t.Run(step, func(t *testing.T) {
			bubble(t, 1, func(t *testing.T, b *fakeBroker, s driver.Subscriber, log *bytes.Buffer) {
				fail := func(err error) {
					b.set(func(b *fakeBroker) {
						if step == "open" {
							b.openErr = err
						} else {
							b.subErr = err
						}
					})
				}
				fail(errDown)
				b.add(0, "a")
				start := time.Now()
				ch := subscribe(t, s)
				if time.Since(start) != 0 {
					t.Error("Subscribe waited")
				}
				time.Sleep(time.Hour)
				synctest.Wait()
				want := map[string]driver.SubscriptionState{"topic": {LastError: errDown.Error()}}
				if got := s.State(); !reflect.DeepEqual(got, want) {
					t.Errorf("State = %+v, want %+v", got, want)
				}
				if opened, _ := b.counts(); opened < 360 || opened > 800 {
					t.Errorf("%d attempts in an hour, want one in 5-10 s", opened)
				}
				fail(nil)
				m := <-ch
				m.Ack()
				synctest.Wait()
				want["topic"] = driver.SubscriptionState{Connected: true, Resubscribed: 1, LastError: errDown.Error()}
				if got := s.State(); !reflect.DeepEqual(got, want) {
					t.Errorf("State = %+v, want %+v", got, want)
				}
				if lost, back := strings.Count(log.String(), "subscription lost"),
					strings.Count(log.String(), "subscription restored"); lost != 1 || back != 1 {
					t.Errorf("logged %d losses and %d recoveries, want 1 and 1:\n%s", lost, back, log)
				}
			})
		})
	}
}

func TestSubscriptionIsOpenedAgainWhenTheAdapterEnds(t *testing.T) {
	bubble(t, 2, func(t *testing.T, b *fakeBroker, s driver.Subscriber, log *bytes.Buffer) {
		ch := subscribe(t, s)
		for i := range 5 {
			b.add(i%2, fmt.Sprint(i))
			m := <-ch
			if m.UUID != fmt.Sprint(i) {
				t.Fatalf("got %s, want %d", m.UUID, i)
			}
			m.Ack()
			<-m.Context().Done()
			b.breakIt()
			synctest.Wait()
		}
		b.add(0, "last")
		(<-ch).Ack()
		if got := s.State()["topic"]; got.Resubscribed != 5 || !got.Connected {
			t.Errorf("State = %+v, want connected, resubscribed 5 times", got)
		}
		if got := strings.Count(log.String(), "subscription restored"); got != 5 {
			t.Errorf("logged %d recoveries, want 5", got)
		}
	})
}

func TestConditionOfTheAdapterShowsInState(t *testing.T) {
	bubble(t, 1, func(t *testing.T, b *fakeBroker, s driver.Subscriber, _ *bytes.Buffer) {
		subscribe(t, s)
		synctest.Wait()
		b.set(func(b *fakeBroker) { b.current.condition = errDown })
		want := driver.SubscriptionState{LastError: errDown.Error()}
		if got := s.State()["topic"]; got != want {
			t.Errorf("State = %+v, want %+v", got, want)
		}
		b.breakIt()
		time.Sleep(time.Second)
		synctest.Wait()
		want = driver.SubscriptionState{Connected: true, Resubscribed: 1, LastError: errDown.Error()}
		if got := s.State()["topic"]; got != want {
			t.Errorf("State = %+v, want %+v", got, want)
		}
	})
}

func TestNackedMessageComesAgainAfterAGrowingPause(t *testing.T) {
	for _, dropCtx := range []bool{false, true} {
		t.Run(fmt.Sprintf("dropCtx=%v", dropCtx), func(t *testing.T) {
			bubble(t, 2, func(t *testing.T, b *fakeBroker, s driver.Subscriber, _ *bytes.Buffer) {
				b.set(func(b *fakeBroker) { b.dropCtx = dropCtx })
				b.add(0, "bad", "next")
				ch := subscribe(t, s)
				m := <-ch
				want := []int64{100, 200, 400, 800, 1600, 3200, 5000, 5000}
				for i, w := range want {
					start := time.Now()
					ctx := m.Context()
					m.SetContext(context.Background()) // as a router does
					m.Nack()
					m = <-ch
					if got := time.Since(start); m.UUID != "bad" || got.Milliseconds() != w {
						t.Fatalf("nack %d: %s after %v, want bad after %v ms", i+1, m.UUID, got, w)
					}
					if ctx.Err() == nil || m.Context().Err() != nil {
						t.Fatalf("nack %d: the context of the message nacked ended: %v, of the next: %v", i+1, ctx.Err(), m.Context().Err())
					}
				}
				// Another partition does not wait.
				m.Nack()
				b.add(1, "other")
				start := time.Now()
				o := <-ch
				if o.UUID != "other" || time.Since(start) > 100*time.Millisecond {
					t.Fatalf("got %s after %v", o.UUID, time.Since(start))
				}
				o.Ack()
				m = <-ch
				m.Ack()
				<-m.Context().Done()
				m = <-ch
				if m.UUID != "next" {
					t.Fatalf("got %s, want next", m.UUID)
				}
				m.Ack()
				<-m.Context().Done()
				if got := b.acked(); !reflect.DeepEqual(got, []string{"other", "bad", "next"}) {
					t.Errorf("acked %v", got)
				}
			})
		})
	}
}

func TestAMessageThatTheAdapterGaveUpIsNotForwarded(t *testing.T) {
	bubble(t, 1, func(t *testing.T, b *fakeBroker, s driver.Subscriber, _ *bytes.Buffer) {
		b.add(0, "a")
		ch := subscribe(t, s)
		synctest.Wait() // the relay has it and nobody takes it
		b.breakIt()
		synctest.Wait()
		m := <-ch // from the next subscription
		if m.Context().Err() != nil {
			t.Error("forwarded a message whose context was over")
		}
		m.Ack()
		<-m.Context().Done()
		if got := b.acked(); !reflect.DeepEqual(got, []string{"a"}) {
			t.Errorf("acked %v", got)
		}
	})
}

func TestTopicsThatCannotBeAreRefused(t *testing.T) {
	s := relay.New(relay.Config{Backend: "fake", CheckTopic: func(topic string) error {
		if topic == "bad" {
			return errors.New("bad name")
		}
		return nil
	}})
	for _, topic := range []string{"", "bad"} {
		if _, err := s.Subscribe(t.Context(), topic); !errors.Is(err, driver.ErrPermanent) {
			t.Errorf("Subscribe(%q) = %v, want ErrPermanent", topic, err)
		}
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
}

func TestStateSumsSubscriptionsOfOneTopicAndForgetsThoseThatEnded(t *testing.T) {
	bubble(t, 1, func(t *testing.T, b *fakeBroker, s driver.Subscriber, _ *bytes.Buffer) {
		subscribe(t, s)
		subscribe(t, s)
		synctest.Wait()
		b.breakIt() // the last opened
		synctest.Wait()
		if got := s.State()["topic"]; got.Connected || got.LastError == "" {
			t.Errorf("State = %+v, want one of two not connected, and why", got)
		}
		time.Sleep(time.Second)
		if got := s.State()["topic"]; !got.Connected || got.Resubscribed != 1 {
			t.Errorf("State = %+v, want connected", got)
		}
		ctx, cancel := context.WithCancel(t.Context())
		if _, err := s.Subscribe(ctx, "other"); err != nil {
			t.Fatal(err)
		}
		cancel()
		synctest.Wait()
		subscribe(t, s)
		if _, ok := s.State()["other"]; ok {
			t.Error("a subscription that ended is still shown")
		}
	})
}

// passThrough is a stock subscriber that costs nothing.
type passThrough struct{ ch chan *message.Message }

func (p passThrough) Subscribe(context.Context, string) (<-chan *message.Message, error) {
	return p.ch, nil
}
func (p passThrough) Close() error { return nil }

// BenchmarkForward is the cost of one message, two channel hand-overs included
// (raw: the same without the relay, one hand-over).
func BenchmarkForward(b *testing.B) {
	for _, raw := range []bool{true, false} {
		b.Run(fmt.Sprintf("raw=%v", raw), func(b *testing.B) {
			in := make(chan *message.Message)
			var out <-chan *message.Message = in
			if !raw {
				s := relay.New(relay.Config{Open: func(context.Context, string) (message.Subscriber, error) {
					return passThrough{in}, nil
				}})
				defer s.Close()
				var err error
				if out, err = s.Subscribe(b.Context(), "t"); err != nil {
					b.Fatal(err)
				}
			}
			msgs := make([]*message.Message, b.N)
			ends := make([]context.CancelFunc, b.N)
			for i := range msgs {
				msgs[i] = message.NewMessage("u", nil)
				var ctx context.Context
				ctx, ends[i] = context.WithCancel(context.Background())
				msgs[i].SetContext(ctx)
			}
			b.ReportAllocs()
			b.ResetTimer()
			go func() {
				for _, m := range msgs {
					in <- m
				}
			}()
			for i := range b.N {
				m := <-out
				m.Ack()
				ends[i]()
			}
		})
	}
}
