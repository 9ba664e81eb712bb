package redisbus_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill"
	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/redis/go-redis/v9"

	"github.com/aura360/eventbus/bus/driver"
	"github.com/aura360/eventbus/bus/redisbus"
	"github.com/aura360/eventbus/internal/brokertest"
)

func TestEventsArriveInOrderInEachGroup(t *testing.T) {
	eachRedis(t, func(t *testing.T, r brokertest.Redis) {
		b, topic := open(t, creating(r.URL)), brokertest.Name(t, "topic")
		publish(t, b, topic, "before")
		one := subscribe(t, subscriber(t, b, "one"), topic)
		take(t, one, "before")
		publish(t, b, topic, "1", "2", "3")
		take(t, one, "1", "2", "3")
		take(t, subscribe(t, subscriber(t, b, "two"), topic), "before", "1", "2", "3")
		untilPending(t, client(t, r.URL), topic, "one", 0)
	})
}

func TestNackedEventComesAgainBeforeLaterOnes(t *testing.T) {
	eachRedis(t, func(t *testing.T, r brokertest.Redis) {
		b, topic := open(t, creating(r.URL)), brokertest.Name(t, "topic")
		publish(t, b, topic, "bad", "next")
		s := subscriber(t, b, "g")
		ch := subscribe(t, s, topic)
		for range 3 {
			m := next(t, ch)
			if string(m.Payload) != "bad" {
				t.Fatalf("got %q", m.Payload)
			}
			m.Nack()
		}
		take(t, ch, "bad", "next")
		drain(t, s)
		untilPending(t, client(t, r.URL), topic, "g", 0)
	})
}

// The stock adapter fetches up to two entries beyond the one being handled, and
// forgets them when it closes: they would wait for ClaimAfter.
func TestWhatWasFetchedAndNotDeliveredIsThereAtOnceAndInOrder(t *testing.T) {
	for _, how := range []string{"drain", "close", "end of context"} {
		t.Run(how, func(t *testing.T) {
			eachRedis(t, func(t *testing.T, r brokertest.Redis) {
				b, topic := open(t, creating(r.URL)), brokertest.Name(t, "topic")
				publish(t, b, topic, "1", "2", "3", "4", "5")
				s := subscriber(t, b, "g")
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				ch, err := s.Subscribe(ctx, topic)
				if err != nil {
					t.Fatal(err)
				}
				m := next(t, ch)
				c := client(t, r.URL)
				untilPending(t, c, topic, "g", 3)
				switch how {
				case "drain":
					m.Ack()
					drain(t, s)
					fallthrough
				case "close":
					if err := s.Close(); err != nil {
						t.Fatal(err)
					}
				case "end of context":
					cancel()
				}
				start := time.Now()
				ch = subscribe(t, subscriber(t, b, "g"), topic)
				if how != "drain" {
					// Not acked, so it comes again.
					if how == "end of context" {
						m = next(t, ch) // maybe after 2, if this was faster than the release
						m.Nack()
					} else {
						take(t, ch, "1")
					}
				}
				if how != "end of context" {
					take(t, ch, "2", "3", "4", "5")
					names, err := c.XInfoConsumers(t.Context(), topic, "g").Result()
					if err != nil || len(names) != 2 {
						t.Errorf("consumers %v (%v), want the one living and the one that releases", names, err)
					}
				}
				if d := time.Since(start); d > 30*time.Second {
					t.Errorf("took %v: the entries waited to be claimed", d)
				}
			})
		})
	}
}

func TestAnEventBeingHandledIsNotClaimedByOthersHoweverLongItTakes(t *testing.T) {
	eachRedis(t, func(t *testing.T, r brokertest.Redis) {
		cfg := creating(r.URL)
		cfg.ClaimAfter = time.Second
		b, topic := open(t, cfg), brokertest.Name(t, "topic")
		publish(t, b, topic, "slow")
		s := subscriber(t, b, "g")
		m := next(t, subscribe(t, s, topic))
		other := subscribe(t, subscriber(t, b, "g"), topic)
		select {
		case m := <-other:
			t.Fatalf("%q was given to another member", m.Payload)
		case <-time.After(3 * cfg.ClaimAfter):
		}
		m.Ack()
		noted(t, m)
		drain(t, s)
	})
}

func TestAnEventOfAMemberThatDiedIsClaimed(t *testing.T) {
	eachRedis(t, func(t *testing.T, r brokertest.Redis) {
		cfg := creating(r.URL)
		cfg.ClaimAfter = time.Second
		b, topic := open(t, cfg), brokertest.Name(t, "topic")
		publish(t, b, topic, "1", "2")
		c := client(t, r.URL)
		if err := c.XGroupCreate(t.Context(), topic, "g", "0").Err(); err != nil {
			t.Fatal(err)
		}
		err := c.XReadGroup(t.Context(), &redis.XReadGroupArgs{
			Group: "g", Consumer: "dead", Streams: []string{topic, ">"}, Count: 1,
		}).Err()
		if err != nil {
			t.Fatal(err)
		}
		ch := subscribe(t, subscriber(t, b, "g"), topic)
		got := map[string]bool{}
		for range 2 {
			m := next(t, ch)
			got[string(m.Payload)] = true
			m.Ack()
		}
		if !got["1"] || !got["2"] {
			t.Errorf("got %v", got)
		}
	})
}

func TestSubscriptionComesBackByItself(t *testing.T) {
	lose := map[string]func(c *redis.Client, topic string) error{
		"FLUSHALL": func(c *redis.Client, _ string) error { return c.FlushAll(context.Background()).Err() },
		"XGROUP DESTROY": func(c *redis.Client, topic string) error {
			return c.XGroupDestroy(context.Background(), topic, "g").Err()
		},
		"DEL": func(c *redis.Client, topic string) error { return c.Del(context.Background(), topic).Err() },
	}
	for what, f := range lose {
		t.Run(what, func(t *testing.T) {
			run := func(t *testing.T, url string) {
				b, topic := open(t, creating(url)), brokertest.Name(t, "topic")
				s := subscriber(t, b, "g")
				ch := subscribe(t, s, topic)
				publish(t, b, topic, "before")
				take(t, ch, "before")
				if err := f(client(t, url), topic); err != nil {
					t.Fatal(err)
				}
				publish(t, b, topic, "after")
				if what == "XGROUP DESTROY" {
					take(t, ch, "before") // a new group starts at the oldest
				}
				take(t, ch, "after")
				if st := s.State()[topic]; !st.Connected || st.Resubscribed < 1 || st.LastError == "" {
					t.Errorf("state %+v", st)
				}
			}
			t.Run("miniredis", func(t *testing.T) { run(t, brokertest.FakeRedis(t).URL) })
			t.Run("redis", func(t *testing.T) { run(t, brokertest.StartRedis(t, brokertest.RedisOptions{}).URL) })
		})
	}
}

func TestSubscriptionSurvivesTheServersRestart(t *testing.T) {
	for _, kill := range []bool{false, true} {
		t.Run(fmt.Sprintf("kill=%v", kill), func(t *testing.T) {
			p := brokertest.StartRedis(t, brokertest.RedisOptions{})
			b, topic := open(t, creating(p.URL)), brokertest.Name(t, "topic")
			s := subscriber(t, b, "g")
			ch := subscribe(t, s, topic)
			publish(t, b, topic, "1", "2", "3", "4", "5", "6")
			take(t, ch, "1")
			m := next(t, ch)
			untilPending(t, client(t, p.URL), topic, "g", 3)
			if kill {
				p.Kill()
			} else {
				p.Stop()
			}
			untilState(t, s, topic, false)
			if m.Context().Err() != nil {
				t.Error("the restart ended the context of an event being handled")
			}
			m.Ack() // cannot be taken now
			p.Start()
			noted(t, m)
			take(t, ch, "3", "4", "5", "6")
			untilState(t, s, topic, true)
			drain(t, s)
			untilPending(t, client(t, p.URL), topic, "g", 0)
		})
	}
}

func TestADeliveryThatTheConnectionLostComesBeforeLaterEvents(t *testing.T) {
	r := realRedis(t)
	proxy := brokertest.Proxy(t, r.Addr)
	direct, topic := open(t, creating(r.URL)), brokertest.Name(t, "topic")
	cfg := creating("redis://" + proxy.Addr)
	cfg.ClientName = topic
	cfg.BlockTime = 10 * time.Second // the read below must still be waiting when 2 is published
	s := subscriber(t, open(t, cfg), "g")
	ch := subscribe(t, s, topic)
	publish(t, direct, topic, "1")
	take(t, ch, "1")
	c := client(t, r.URL)
	untilPending(t, c, topic, "g", 0) // or the ack would be lost too, and 1 be pending
	untilReading(t, c, cfg.ClientName)
	proxy.LoseReplies()
	publish(t, direct, topic, "2", "3")
	untilPending(t, c, topic, "g", 1) // 2 was delivered into the void
	proxy.Restore()
	take(t, ch, "2", "3")
	drain(t, s)
	untilPending(t, c, topic, "g", 0)
}

func TestOpeningAndSubscribingSucceedWhileTheServerIsDown(t *testing.T) {
	p := brokertest.StartRedis(t, brokertest.RedisOptions{})
	p.Stop()
	b, topic := open(t, creating(p.URL)), brokertest.Name(t, "topic")
	s := subscriber(t, b, "g")
	ch := subscribe(t, s, topic)
	until(t, func() error {
		if st := s.State()[topic]; st.Connected || st.LastError == "" {
			return fmt.Errorf("state %+v", st)
		}
		return nil
	})
	if err := b.Ping(t.Context()); err == nil {
		t.Error("Ping succeeded")
	}
	p.Start()
	until(t, func() error { return b.Ping(t.Context()) })
	publish(t, b, topic, "1")
	take(t, ch, "1")
}

func TestWithoutCreateASubscriptionWaitsForItsStream(t *testing.T) {
	eachRedis(t, func(t *testing.T, r brokertest.Redis) {
		b, topic := open(t, redisbus.Config{URL: r.URL}), brokertest.Name(t, "topic")
		s := subscriber(t, b, "g")
		ch := subscribe(t, s, topic)
		until(t, func() error {
			if st := s.State()[topic]; st.LastError == "" {
				return fmt.Errorf("state %+v", st)
			}
			return nil
		})
		if err := b.EnsureTopic(t.Context(), driver.TopicSpec{Name: topic}); err != nil {
			t.Fatal(err)
		}
		publish(t, b, topic, "1")
		take(t, ch, "1")
	})
}

func TestCloseIsBoundedByItsContext(t *testing.T) {
	r := realRedis(t)
	proxy := brokertest.Proxy(t, r.Addr)
	b, err := redisbus.Open(creating("redis://" + proxy.Addr))
	if err != nil {
		t.Fatal(err)
	}
	topic := brokertest.Name(t, "topic")
	s := subscriber(t, b, "g")
	ch := subscribe(t, s, topic)
	publish(t, b, topic, "1")
	m := next(t, ch)
	proxy.BlackHole()
	m.Ack()
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	start := time.Now()
	if err := b.Close(ctx); err == nil {
		t.Error("Close returned nil though the server does not answer")
	}
	if d := time.Since(start); d > 2*time.Second {
		t.Errorf("Close took %v", d)
	}
	if err := b.Close(t.Context()); err != nil {
		t.Errorf("second Close: %v", err)
	}
	noted(t, m) // contexts end
}

func TestAfterCloseNothingIsAccepted(t *testing.T) {
	b, err := redisbus.Open(creating(brokertest.FakeRedis(t).URL))
	if err != nil {
		t.Fatal(err)
	}
	s := subscriber(t, b, "g")
	ch := subscribe(t, s, "topic")
	if err := b.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, ok := <-ch; ok {
		t.Error("a message after Close")
	}
	res := outcome(t, b.Publish(t.Context(), "topic", message.NewMessage(watermill.NewUUID(), nil)))
	if res.Outcome != driver.Rejected || !errors.Is(res.Err, driver.ErrClosed) {
		t.Errorf("publish after Close: %+v", res)
	}
	if _, err := b.Subscriber("g", driver.SubscriberOptions{}); err == nil {
		t.Error("Subscriber after Close")
	}
	if err := b.Ping(t.Context()); err == nil {
		t.Error("Ping after Close")
	}
}

// The stock adapter takes what is to be claimed before it reads for the first
// time, and goes on claiming until there is nothing left.
func TestAConnectionLostWhileEntriesAreClaimedDoesNotEndTheSubscription(t *testing.T) {
	r := realRedis(t)
	proxy := brokertest.Proxy(t, r.Addr)
	direct, topic := open(t, creating(r.URL)), brokertest.Name(t, "topic")
	publish(t, direct, topic, "1", "2", "3", "4", "5", "6")
	c := client(t, r.URL)
	if err := c.XGroupCreate(t.Context(), topic, "g", "0").Err(); err != nil {
		t.Fatal(err)
	}
	read, err := c.XReadGroup(t.Context(), &redis.XReadGroupArgs{
		Group: "g", Consumer: "gone", Streams: []string{topic, ">"},
	}).Result()
	if err != nil {
		t.Fatal(err)
	}
	claim := []any{"XCLAIM", topic, "g", "gone", 0}
	for _, m := range read[0].Messages {
		claim = append(claim, m.ID)
	}
	if err := c.Do(t.Context(), append(claim, "IDLE", time.Hour.Milliseconds(), "JUSTID")...).Err(); err != nil {
		t.Fatal(err)
	}

	b := open(t, creating("redis://"+proxy.Addr+"/0?read_timeout=500ms"))
	s := subscriber(t, b, "g")
	ch := subscribe(t, s, topic)
	first := next(t, ch)
	until(t, func() error { // 1 is here, 2 and 3 wait behind it
		p, err := c.XPending(t.Context(), topic, "g").Result()
		if err != nil {
			return err
		}
		if p.Consumers["gone"] != 3 {
			return fmt.Errorf("entries of %v", p.Consumers)
		}
		return nil
	})
	proxy.Cut()
	first.Ack()
	take(t, ch, "2", "3")
	untilState(t, s, topic, false)
	proxy.Restore()
	take(t, ch, "4", "5", "6")
	untilState(t, s, topic, true)
	drain(t, s)
	untilPending(t, c, topic, "g", 0)
}

func TestDrainReturnsNilOnlyWhenTheServerHasTheAcks(t *testing.T) {
	r := realRedis(t)
	proxy := brokertest.Proxy(t, r.Addr)
	direct, topic := open(t, creating(r.URL)), brokertest.Name(t, "topic")
	publish(t, direct, topic, "1")
	s := subscriber(t, open(t, creating("redis://"+proxy.Addr)), "g")
	m := next(t, subscribe(t, s, topic))
	proxy.Cut()
	m.Ack()
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	if err := s.Drain(ctx); err == nil {
		t.Error("Drain returned nil, and the server has no ack")
	}
	proxy.Restore()
	drain(t, s)
	untilPending(t, client(t, r.URL), topic, "g", 0)
}

func TestDrainEndsWhenTheBackendIsClosed(t *testing.T) {
	r := realRedis(t)
	proxy := brokertest.Proxy(t, r.Addr)
	direct, topic := open(t, creating(r.URL)), brokertest.Name(t, "topic")
	publish(t, direct, topic, "1")
	b := open(t, creating("redis://"+proxy.Addr))
	s := subscriber(t, b, "g")
	m := next(t, subscribe(t, s, topic))
	proxy.Cut()
	m.Ack()
	noted(t, m)
	if err := b.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), wait)
	defer cancel()
	if err := s.Drain(ctx); !errors.Is(err, driver.ErrClosed) || ctx.Err() != nil {
		t.Errorf("Drain: %v, its context %v", err, ctx.Err())
	}
}
