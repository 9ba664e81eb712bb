//go:build unix

package kafkabus_test

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/aura360/eventbus/bus/driver"
	"github.com/aura360/eventbus/internal/brokertest"
)

// member consumes and counts until it is drained.
type member struct {
	sub  driver.Subscriber
	done chan struct{}
}

func join(t *testing.T, b driver.Backend, topic, group string, handle func(*message.Message)) *member {
	t.Helper()
	m := &member{sub: subscriber(t, b, group), done: make(chan struct{})}
	ch := subscribe(t, m.sub, topic)
	go func() {
		defer close(m.done)
		var wg sync.WaitGroup
		for msg := range ch {
			wg.Go(func() {
				handle(msg)
				msg.Ack()
			})
		}
		wg.Wait()
	}()
	eventually(t, "joined", func() bool { return m.sub.State()[topic].Connected })
	return m
}

func (m *member) leave(t *testing.T) {
	t.Helper()
	if err := m.sub.Drain(testContext(t)); err != nil {
		t.Error(err)
	}
	<-m.done
	if err := m.sub.Close(); err != nil {
		t.Error(err)
	}
}

// Members come and go while messages are published and handled: nothing is
// lost, and nothing handled twice, with a cooperative and with an eager strategy.
func TestMembersJoinAndLeaveWithoutLossOrRepetition(t *testing.T) {
	builds(t, func(t *testing.T, open opener) {
		for _, strategy := range []string{"cooperative-sticky", "range,roundrobin", "sticky"} {
			t.Run(strategy, func(t *testing.T) {
				each(t, func(t *testing.T, k brokertest.Kafka) {
					cfg := config(k.Addr)
					cfg.GroupStrategy, cfg.HeartbeatInterval = strategy, 100*time.Millisecond
					topic, group := brokertest.Name(t, "members"), brokertest.Name(t, "g")
					b, other := open(t, cfg), open(t, cfg)

					var mu sync.Mutex
					count := map[string]int{}
					seen := make(chan struct{}, 10000)
					handle := func(m *message.Message) {
						mu.Lock()
						count[string(m.Payload)]++
						mu.Unlock()
						seen <- struct{}{}
					}
					ctx, stop := context.WithCancel(testContext(t))
					published := make(chan int)
					go func() {
						n := 0
						for ; ctx.Err() == nil && n < 5000; n++ {
							if err := b.Publish(testContext(t), topic, msg(fmt.Sprint("key-", n%50), fmt.Sprint(n))); err != nil {
								t.Errorf("publish: %v", err)
								break
							}
						}
						published <- n
					}()
					some := func() {
						for range 50 {
							select {
							case <-seen:
							case <-ctx.Done():
								t.Error("handling stopped")
								return
							}
						}
					}
					one := join(t, b, topic, group, handle)
					some()
					two := join(t, other, topic, group, handle)
					some()
					three := join(t, b, topic, group, handle)
					some()
					one.leave(t)
					some()
					three.leave(t)
					some()
					stop()
					n := <-published
					eventually(t, "all handled", func() bool {
						mu.Lock()
						defer mu.Unlock()
						return len(count) == n
					})
					two.leave(t)
					mu.Lock()
					defer mu.Unlock()
					twice := 0
					for _, c := range count {
						twice += c - 1
					}
					t.Logf("%d messages, %d handled twice", n, twice)
					if twice > 0 {
						t.Errorf("%d of %d messages were handled twice", twice, n)
					}
				})
			})
		}
	})
}

// A handler that takes longer than the session and than MaxProcessingTime keeps
// its place in the group, and the messages behind it are not lost.
func TestASlowHandlerKeepsItsPartition(t *testing.T) {
	builds(t, func(t *testing.T, open opener) {
		k := brokertest.FakeKafka(t, kfake.GroupMinSessionTimeout(100*time.Millisecond))
		cfg := config(k.Addr)
		cfg.SessionTimeout, cfg.HeartbeatInterval = 3*time.Second, 100*time.Millisecond
		b := open(t, cfg)
		publish(t, b, "topic", numbered("a", 40)...)
		var beats, joins atomic.Int64
		enough := make(chan struct{})
		k.Fake.ControlKey(int16(kmsg.Heartbeat), func(kmsg.Request) (kmsg.Response, error, bool) {
			k.Fake.KeepControl()
			if beats.Add(1) == 60 { // 2 sessions
				close(enough)
			}
			return nil, nil, false
		})
		s := subscriber(t, b, "g")
		ch := subscribe(t, s, "topic")
		first := receive(t, ch)
		k.Fake.ControlKey(int16(kmsg.JoinGroup), func(kmsg.Request) (kmsg.Response, error, bool) {
			k.Fake.KeepControl()
			joins.Add(1)
			return nil, nil, false
		})
		select {
		case <-enough:
		case <-time.After(long):
			t.Fatal("no heartbeats while a handler is busy")
		}
		if first.Context().Err() != nil {
			t.Error("the message's context ended")
		}
		first.Ack()
		got := map[string]bool{string(first.Payload): true}
		for _, p := range take(t, ch, 39) {
			if got[p] {
				t.Errorf("%s came twice", p)
			}
			got[p] = true
		}
		if n := joins.Load(); n != 0 {
			t.Errorf("joined again %d times", n)
		}
	})
}

// A group that may not be joined is tried again with pauses, and State tells.
func TestAGroupThatCannotBeJoinedIsTriedWithPauses(t *testing.T) {
	builds(t, func(t *testing.T, open opener) {
		k := brokertest.FakeKafka(t)
		var tries atomic.Int64
		k.Fake.ControlKey(int16(kmsg.JoinGroup), func(req kmsg.Request) (kmsg.Response, error, bool) {
			k.Fake.KeepControl()
			tries.Add(1)
			resp := req.ResponseKind().(*kmsg.JoinGroupResponse)
			resp.ErrorCode = kerr.GroupAuthorizationFailed.Code
			return resp, nil, true
		})
		var log logs
		cfg := config(k.Addr)
		cfg.Log = log.logger()
		b := open(t, cfg)
		publish(t, b, "topic", msg("k", "1"))
		s := subscriber(t, b, "forbidden")
		ch := subscribe(t, s, "topic")
		start := time.Now()
		eventually(t, "four tries", func() bool { return tries.Load() >= 4 })
		if d := time.Since(start); d < 100*time.Millisecond {
			t.Errorf("four tries in %v", d)
		}
		if st := s.State()["topic"]; st.Connected || !strings.Contains(strings.ToLower(st.LastError), "not authorized to access") {
			t.Errorf("state %+v", st)
		}
		if n := strings.Count(log.String(), "level=WARN"); n != 1 {
			t.Errorf("%d warnings of one error, tried %d times", n, tries.Load())
		}
		k.Fake.Control(func(kmsg.Request) (kmsg.Response, error, bool) { return nil, nil, false })
		if err := s.Close(); err != nil {
			t.Error(err)
		}
		if _, open := <-ch; open {
			t.Error("the channel is open after Close")
		}
	})
}

func TestAMissingTopicIsWaitedFor(t *testing.T) {
	builds(t, func(t *testing.T, open opener) {
		each(t, func(t *testing.T, k brokertest.Kafka) {
			cfg := config(k.Addr)
			cfg.Provision.Create = false
			b := open(t, cfg)
			topic := brokertest.Name(t, "missing")
			err := b.Publish(testContext(t), topic, msg("k", "x"))
			if r := driver.Results(err, 1)[0]; r.Outcome != driver.Rejected || !strings.Contains(err.Error(), "topic "+topic+" does not exist, and creating topics is turned off") {
				t.Errorf("publish: %v", err)
			}
			s := subscriber(t, b, brokertest.Name(t, "g"))
			ch := subscribe(t, s, topic)
			eventually(t, "State tells", func() bool { return strings.Contains(s.State()[topic].LastError, "does not exist") })
			if err := b.EnsureTopic(testContext(t), driver.TopicSpec{Name: topic, Partitions: 1}); err != nil {
				t.Fatal(err)
			}
			publish(t, b, topic, msg("k", "now"))
			if got := take(t, ch, 1); got[0] != "now" {
				t.Error(got)
			}
		})
	})
}

func TestSubscriberChecksItsArguments(t *testing.T) {
	builds(t, func(t *testing.T, open opener) {
		b := open(t, config("127.0.0.1:1"))
		if _, err := b.Subscriber("", driver.SubscriberOptions{}); err == nil {
			t.Error("no group")
		}
		s := subscriber(t, b, "g")
		if _, err := s.Subscribe(context.Background(), "a/b"); err == nil {
			t.Error("an impossible topic")
		}
	})
}
