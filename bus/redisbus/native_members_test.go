package redisbus_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/aura360/eventbus/bus/driver"
	"github.com/aura360/eventbus/bus/redisbus"
	"github.com/aura360/eventbus/internal/brokertest"
)

// ledger checks what members of a group handle.
type ledger struct {
	t     *testing.T
	moved sync.Cond // its lock guards the rest

	next             map[string]int // by key, the first not acked
	all, done, again int            // published, acked, delivered after they were acked
}

// handled takes note of a delivery that is about to be acked. An ack that is lost
// in a crash makes a message come again, with all later ones of its key; nothing
// may be skipped.
func (l *ledger) handled(m *message.Message) {
	l.moved.L.Lock()
	defer l.moved.L.Unlock()
	i, err := strconv.Atoi(string(m.Payload))
	key := driver.Key(m)
	switch {
	case err != nil:
		l.t.Error(err)
	case i > l.next[key]:
		l.t.Errorf("%s: %d was handled, and %d was not", key, i, l.next[key])
	case i < l.next[key]:
		l.again++
	default:
		l.next[key]++
		l.done++
		l.moved.Broadcast()
	}
}

func (l *ledger) published(n int) {
	l.moved.L.Lock()
	defer l.moved.L.Unlock()
	l.all += n
	l.moved.Broadcast()
}

// until waits until holds. A test that fails has no more to wait for.
func (l *ledger) until(what string, holds func() bool) {
	late := false
	bell := time.AfterFunc(3*wait, func() {
		l.moved.L.Lock()
		defer l.moved.L.Unlock()
		late = true
		l.moved.Broadcast()
	})
	defer bell.Stop()
	l.moved.L.Lock()
	defer l.moved.L.Unlock()
	for !holds() && !late && !l.t.Failed() {
		l.moved.Wait()
	}
	if late {
		l.t.Errorf("%s: not in time; %d published, %d handled", what, l.all, l.done)
	}
}

// outstanding waits until no more than n are published and not handled.
func (l *ledger) outstanding(n int) {
	l.until("handling the rest", func() bool { return l.all-l.done <= n })
}

// progress waits until n more are handled.
func (l *ledger) progress(n int) {
	from := -1
	l.until("progress", func() bool {
		if from < 0 {
			from = l.done
		}
		return l.done >= from+n
	})
}

// handling is a member that handles what it gets, until its channel closes.
type handling struct {
	n    *redisbus.Native
	sub  driver.Subscriber
	work sync.WaitGroup
}

func (h *handling) run(l *ledger, ch <-chan *message.Message) {
	for m := range ch {
		h.work.Go(func() {
			if rand.IntN(50) == 0 {
				driver.Settle(m, false)
				return
			}
			// What a context that ended says does not count: the member may be dead.
			if m.Context().Err() == nil {
				l.handled(m)
			}
			driver.Settle(m, true)
		})
	}
}

// TestNativeMembersComeAndGo: members that join, stop and die at random lose
// nothing and keep each key in order; those that stop do nothing twice.
func TestNativeMembersComeAndGo(t *testing.T) {
	for _, kill := range []bool{false, true} {
		t.Run(fmt.Sprintf("kill=%v", kill), func(t *testing.T) {
			r := brokertest.StartRedis(t, brokertest.RedisOptions{Fsync: "no"})
			const keys, changes, most = 50, 25, 3000
			n, topic := native(t, r.URL, 5), brokertest.Name(t, "topic")
			l := &ledger{t: t, next: map[string]int{}, moved: sync.Cond{L: new(sync.Mutex)}}
			enough := make(chan struct{})
			var publishing sync.WaitGroup
			publishing.Go(func() {
				for i := 0; ; i++ {
					l.outstanding(most) // members have something to do, and not all at once
					select {
					case <-enough:
						return
					default:
					}
					var batch []*message.Message
					for k := range keys {
						batch = append(batch, keyed(fmt.Sprint("key-", k), fmt.Sprint(i)))
					}
					l.published(keys)
					if err := n.Publish(context.Background(), topic, batch...); err != nil {
						t.Error(err)
						return
					}
				}
			})
			var members []*handling
			join := func() {
				h := &handling{n: native(t, r.URL, 5)}
				h.n.SetLease(time.Second)
				var err error
				if h.sub, err = h.n.Subscriber("g", driver.SubscriberOptions{MaxInFlight: 32, DirectSettle: true}); err != nil {
					t.Fatal(err)
				}
				ch, err := h.sub.Subscribe(t.Context(), topic)
				if err != nil {
					t.Fatal(err)
				}
				h.work.Go(func() { h.run(l, ch) })
				members = append(members, h)
			}
			leave := func() {
				i := rand.IntN(len(members))
				h := members[i]
				members = append(members[:i], members[i+1:]...)
				if kill && rand.IntN(2) == 0 {
					redisbus.Abandon(h.sub)
				} else {
					drain(t, h.sub)
				}
				h.work.Wait()
				if err := h.sub.Close(); err != nil {
					t.Error(err)
				}
			}
			for range changes {
				if len(members) < 4 && (len(members) == 0 || rand.IntN(5) < 3) {
					join()
				} else {
					leave()
				}
				if len(members) > 0 {
					l.progress(rand.IntN(2000))
				}
			}
			if len(members) == 0 {
				join()
			}
			close(enough)
			publishing.Wait()
			l.outstanding(0)
			for len(members) > 0 {
				leave()
			}
			l.moved.L.Lock()
			defer l.moved.L.Unlock()
			if l.again > 0 && !kill {
				t.Errorf("%d messages were handled twice though every member stopped in order", l.again)
			}
			t.Logf("%d messages, %d came again", l.all, l.again)
		})
	}
}

func TestNativeSubscriptionSurvivesAFailoverUnderSentinel(t *testing.T) {
	s := brokertest.StartRedisSentinel(t)
	n, topic := native(t, "redis+sentinel://"+s.Sentinel.Addr+"/"+s.Master+"/0", 3), brokertest.Name(t, "topic")
	sub := subscriber(t, n, "g")
	ch := subscribe(t, sub, topic)
	publishKeyed(t, n, topic, keyed("a", "1"), keyed("b", "2"))
	takeSet(t, ch, "1", "2")
	untilReplicated(t, s)
	s.Primary.Kill()
	until(t, func() error {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		return n.Publish(ctx, topic, keyed("a", "3"))
	})
	for { // what was published and not confirmed may be there more than once
		m := next(t, ch)
		m.Ack()
		if string(m.Payload) == "3" {
			break
		}
	}
	untilState(t, sub, topic, true)
}

func untilReplicated(t *testing.T, s *brokertest.RedisSentinel) {
	t.Helper()
	c := client(t, "redis://"+s.Primary.Addr)
	until(t, func() error {
		if n, err := c.Wait(t.Context(), 1, time.Second).Result(); err != nil || n != 1 {
			return errors.Join(err, fmt.Errorf("%d replicas", n))
		}
		return nil
	})
}

func TestNativeConsumesFromACluster(t *testing.T) {
	cl := brokertest.StartRedisCluster(t)
	n := native(t, "redis+cluster://"+cl.Addrs[0]+","+cl.Addrs[1], 5)
	topic := brokertest.Name(t, "topic")
	sub := subscriber(t, n, "g")
	ch := subscribe(t, sub, topic)
	const all = 200
	next := map[string]int{}
	for i := range all {
		key := fmt.Sprint("key-", i%10)
		publishKeyed(t, n, topic, keyed(key, fmt.Sprint(i/10)))
		if i == all/2 {
			cl.Nodes[1].Kill()
			cl.Nodes[1].Start()
			until(t, func() error { return n.Ping(t.Context()) })
			until(t, func() error { // every slot is served again
				for k := range 10 {
					ctx, cancel := context.WithTimeout(t.Context(), time.Second)
					err := n.Publish(ctx, topic+".other", keyed(fmt.Sprint("key-", k), "x"))
					cancel()
					if err != nil {
						return err
					}
				}
				return nil
			})
		}
	}
	for range all {
		m := nextOf(t, ch)
		key := driver.Key(m)
		if want := fmt.Sprint(next[key]); string(m.Payload) != want {
			t.Fatalf("%s: %s, want %s", key, m.Payload, want)
		}
		next[key]++
		m.Ack()
	}
	drain(t, sub)
}

func nextOf(t *testing.T, ch <-chan *message.Message) *message.Message { return next(t, ch) }
