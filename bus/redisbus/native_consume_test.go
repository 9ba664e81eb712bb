package redisbus_test

import (
	"context"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill"
	"github.com/ThreeDotsLabs/watermill-redisstream/pkg/redisstream"
	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/redis/go-redis/v9"

	"github.com/aura360/eventbus/bus/driver"
	"github.com/aura360/eventbus/bus/redisbus"
	"github.com/aura360/eventbus/events"
	"github.com/aura360/eventbus/internal/brokertest"
)

// testLease is short enough for tests, and long enough for a busy machine.
const testLease = 2 * time.Second

// native opens a native backend whose topics have so many partitions.
func native(t *testing.T, url string, partitions int, adapt ...func(*redisbus.Config)) *redisbus.Native {
	t.Helper()
	cfg := creating(url)
	cfg.Provision.Partitions = partitions
	for _, f := range adapt {
		f(&cfg)
	}
	n := openNative(t, cfg)
	n.SetLease(testLease)
	return n
}

func keyed(key, payload string) *message.Message {
	m := message.NewMessage(watermill.NewUUID(), []byte(payload))
	m.Metadata.Set(events.HeaderKey, key)
	return m
}

func publishKeyed(t *testing.T, b driver.Backend, topic string, msgs ...*message.Message) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), wait)
	defer cancel()
	if err := b.Publish(ctx, topic, msgs...); err != nil {
		t.Fatal(err)
	}
}

// takeSet acks the next messages and checks their payloads, in any order.
func takeSet(t *testing.T, ch <-chan *message.Message, want ...string) {
	t.Helper()
	var got []string
	for range want {
		m := next(t, ch)
		got = append(got, string(m.Payload))
		m.Ack()
		noted(t, m)
	}
	slices.Sort(got)
	if !slices.Equal(got, want) {
		t.Fatalf("got %q, want %q", got, want)
	}
}

func untilOwned(t *testing.T, s driver.Subscriber, n int) {
	t.Helper()
	until(t, func() error {
		if have := redisbus.Owned(s); have != n {
			return fmt.Errorf("%d partitions, want %d; state %+v", have, n, s.State())
		}
		return nil
	})
}

func TestNativeSubscriptionComesBackByItself(t *testing.T) {
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
				n, topic := native(t, url, 1), brokertest.Name(t, "topic")
				s := subscriber(t, n, "g")
				ch := subscribe(t, s, topic)
				publish(t, n, topic, "before", "held")
				take(t, ch, "before")
				held := next(t, ch)
				if err := f(client(t, url), topic); err != nil {
					t.Fatal(err)
				}
				publish(t, n, topic, "after")
				if what == "XGROUP DESTROY" { // a new group starts at the oldest
					take(t, ch, "before", "held")
				}
				take(t, ch, "after")
				if held.Context().Err() != nil {
					t.Error("the context of an event being handled has ended")
				}
				held.Ack()
				noted(t, held)
				if st := s.State()[topic]; !st.Connected || st.Resubscribed < 1 || st.LastError == "" {
					t.Errorf("state %+v", st)
				}
				drain(t, s)
				untilPending(t, client(t, url), topic, "g", 0)
			}
			t.Run("miniredis", func(t *testing.T) { run(t, brokertest.FakeRedis(t).URL) })
			t.Run("redis", func(t *testing.T) { run(t, brokertest.StartRedis(t, brokertest.RedisOptions{}).URL) })
		})
	}
}

func TestNativeSubscriptionSurvivesTheServersRestart(t *testing.T) {
	for _, how := range []string{"stopped", "killed", "killed for longer than a lease", "without its data"} {
		t.Run(how, func(t *testing.T) {
			p := brokertest.StartRedis(t, brokertest.RedisOptions{})
			n, topic := native(t, p.URL, 1), brokertest.Name(t, "topic")
			s := subscriber(t, n, "g")
			ch := subscribe(t, s, topic)
			publishKeyed(t, n, topic, keyed("a", "1"), keyed("a", "2"), keyed("b", "3"), keyed("b", "4"))
			held, other := next(t, ch), next(t, ch)
			if how == "stopped" {
				p.Stop()
			} else {
				p.Kill()
			}
			untilState(t, s, topic, false)
			if held.Context().Err() != nil {
				t.Error("the restart ended the context of an event being handled")
			}
			other.Ack() // cannot be taken now
			switch how {
			case "killed for longer than a lease":
				untilOwned(t, s, 0)
			case "without its data":
				files, err := filepath.Glob(filepath.Join(p.Dir(), "appendonlydir"))
				if err != nil || len(files) == 0 {
					t.Fatalf("no data to remove: %v", err)
				}
				for _, f := range files {
					if err := os.RemoveAll(f); err != nil {
						t.Fatal(err)
					}
				}
			}
			p.Start()
			held.Ack()
			takeSet(t, ch, "2", "4") // of two keys, and fetched before
			until(t, func() error { return n.Publish(t.Context(), topic, keyed("a", "5")) })
			take(t, ch, "5")
			untilState(t, s, topic, true)
			if st := s.State()[topic]; st.Resubscribed < 1 {
				t.Errorf("state %+v", st)
			}
			drain(t, s)
			untilPending(t, client(t, p.URL), topic, "g", 0)
		})
	}
}

func TestNativeDeliveryThatTheConnectionLostComesBeforeLaterEvents(t *testing.T) {
	r := realRedis(t)
	proxy := brokertest.Proxy(t, r.Addr)
	direct, topic := native(t, r.URL, 1), brokertest.Name(t, "topic")
	n := native(t, "redis://"+proxy.Addr+"/0?read_timeout=500ms", 1)
	s := subscriber(t, n, "g")
	ch := subscribe(t, s, topic)
	publish(t, direct, topic, "1", "2")
	take(t, ch, "1")
	m := next(t, ch)
	proxy.LoseReplies()
	publish(t, direct, topic, "3", "4")
	untilState(t, s, topic, false)
	proxy.Restore()
	publish(t, direct, topic, "5")
	take(t, ch, "3", "4", "5")
	m.Ack()
	drain(t, s)
	untilPending(t, client(t, r.URL), topic, "g", 0)
}

func TestNativeSubscriptionSurvivesAHalfOpenConnection(t *testing.T) {
	r := realRedis(t)
	proxy := brokertest.Proxy(t, r.Addr)
	direct, topic := native(t, r.URL, 3), brokertest.Name(t, "topic")
	n := native(t, "redis://"+proxy.Addr+"/0?read_timeout=500ms", 3)
	s := subscriber(t, n, "g")
	ch := subscribe(t, s, topic)
	publishKeyed(t, direct, topic, keyed("a", "1"))
	take(t, ch, "1")
	proxy.BlackHole()
	publishKeyed(t, direct, topic, keyed("a", "2"), keyed("a", "3"))
	untilState(t, s, topic, false)
	proxy.Restore()
	take(t, ch, "2", "3")
	untilState(t, s, topic, true)
}

func TestNativeDrainReturnsNilOnlyWhenTheServerHasTheAcks(t *testing.T) {
	r := realRedis(t)
	proxy := brokertest.Proxy(t, r.Addr)
	direct, topic := native(t, r.URL, 1), brokertest.Name(t, "topic")
	publish(t, direct, topic, "1")
	s := subscriber(t, native(t, "redis://"+proxy.Addr, 1), "g")
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

// A partition that a member gives back is another's well before a lease is over,
// and what the first had fetched and not delivered comes there first.
func TestNativeMemberThatStopsHandsOverAtOnce(t *testing.T) {
	eachRedis(t, func(t *testing.T, r brokertest.Redis) {
		n, topic := native(t, r.URL, 3), brokertest.Name(t, "topic")
		n.SetLease(20 * time.Second) // looks are a second apart
		var want []string
		for i := range 100 {
			publishKeyed(t, n, topic, keyed("key", fmt.Sprint(i)))
			want = append(want, fmt.Sprint(i))
		}
		one := subscriber(t, n, "g")
		ch := subscribe(t, one, topic)
		take(t, ch, want[:10]...)
		other := subscriber(t, native(t, r.URL, 3), "g")
		ch2 := subscribe(t, other, topic)
		untilState(t, other, topic, true)
		drain(t, one)
		start := time.Now()
		rest := 10
		for range ch { // closed
			t.Error("a message after Drain")
		}
		take(t, ch2, want[rest:]...)
		if d := time.Since(start); d > 10*time.Second {
			t.Errorf("the hand-over took %v: a lease ran out", d)
		}
		drain(t, other)
	})
}

func TestNativeBacklogOfAMemberThatDiedIsTakenOverInOrder(t *testing.T) {
	eachRedis(t, func(t *testing.T, r brokertest.Redis) {
		all := 10_000
		if !r.Real { // it is slow with many pending
			all = 1000
		}
		n, topic := native(t, r.URL, 1), brokertest.Name(t, "topic")
		n.SetLease(time.Second)
		var msgs []*message.Message
		for i := range all {
			msgs = append(msgs, keyed(fmt.Sprint("key-", i%100), fmt.Sprint(i)))
		}
		publishKeyed(t, n, topic, msgs...)
		c := client(t, r.URL)
		// As the owner before left it: everything delivered, nothing acked.
		if err := c.XGroupCreate(t.Context(), topic, "g", "0").Err(); err != nil {
			t.Fatal(err)
		}
		err := c.XReadGroup(t.Context(), &redis.XReadGroupArgs{
			Group: "g", Consumer: "eventbus-native", Streams: []string{topic, ">"},
		}).Err()
		if err != nil {
			t.Fatal(err)
		}
		publishKeyed(t, n, topic, keyed("key-0", "last"))
		first := subscriber(t, n, "g")
		next(t, subscribe(t, first, topic))
		redisbus.Abandon(first)
		start := time.Now()
		s := subscriber(t, n, "g")
		ch := subscribe(t, s, topic)
		at := map[string]int{}
		for range all + 1 {
			m := next(t, ch)
			i := all
			if string(m.Payload) != "last" {
				i, err = strconv.Atoi(string(m.Payload))
			}
			if key := driver.Key(m); err != nil || i < at[key] {
				t.Fatalf("%s: %s after %d", key, m.Payload, at[key])
			} else {
				at[key] = i
			}
			m.Ack()
		}
		t.Logf("took over and handled %d in %v", all, time.Since(start))
		drain(t, s)
		untilPending(t, c, topic, "g", 0)
	})
}

func TestNativePartitionsThatAreAddedAreRead(t *testing.T) {
	r := brokertest.StartRedis(t, brokertest.RedisOptions{Fsync: "no"})
	n, topic := native(t, r.URL, 1), brokertest.Name(t, "topic")
	s := subscriber(t, n, "g")
	ch := subscribe(t, s, topic)
	untilOwned(t, s, 1)
	c := client(t, r.URL)
	if err := c.HSet(t.Context(), "eventbus:topic:{"+topic+"}", "partitions", 4).Err(); err != nil {
		t.Fatal(err)
	}
	until(t, func() error {
		if have := redisbus.Owned(s); have != 4 {
			return fmt.Errorf("%d partitions", have)
		}
		return nil
	})
	for i := range 4 {
		stream := topic
		if i > 0 {
			stream = fmt.Sprintf("%s:p%d", topic, i)
		}
		if err := c.XAdd(t.Context(), &redis.XAddArgs{Stream: stream, Values: []any{"payload", i}}).Err(); err != nil {
			t.Fatal(err)
		}
		take(t, ch, fmt.Sprint(i))
	}
}

// What a plain member of the group holds is left to it for as long as it may
// live, and taken over then, before what is new.
func TestNativeMemberClaimsWhatAPlainOneAbandoned(t *testing.T) {
	eachRedis(t, func(t *testing.T, r brokertest.Redis) {
		n, topic := native(t, r.URL, 1, func(c *redisbus.Config) { c.ClaimAfter = time.Second }), brokertest.Name(t, "topic")
		publish(t, n, topic, "1", "2", "3")
		c := client(t, r.URL)
		if err := c.XGroupCreate(t.Context(), topic, "g", "0").Err(); err != nil {
			t.Fatal(err)
		}
		err := c.XReadGroup(t.Context(), &redis.XReadGroupArgs{
			Group: "g", Consumer: "plain", Streams: []string{topic, ">"}, Count: 2,
		}).Err()
		if err != nil {
			t.Fatal(err)
		}
		s := subscriber(t, n, "g")
		ch := subscribe(t, s, topic)
		take(t, ch, "3")
		takeSet(t, ch, "1", "2")
		drain(t, s)
		untilPending(t, c, topic, "g", 0)
	})
}

// An entry that is handled for long never looks abandoned.
func TestNativeMemberShowsSignsOfLife(t *testing.T) {
	eachRedis(t, func(t *testing.T, r brokertest.Redis) {
		n, topic := native(t, r.URL, 1, func(c *redisbus.Config) { c.ClaimAfter = time.Second }), brokertest.Name(t, "topic")
		publish(t, n, topic, "slow")
		s := subscriber(t, n, "g")
		m := next(t, subscribe(t, s, topic))
		c := client(t, r.URL)
		seen, longest := 0, time.Duration(0)
		until(t, func() error {
			list, err := c.XPendingExt(t.Context(), &redis.XPendingExtArgs{Stream: topic, Group: "g", Start: "-", End: "+", Count: 10}).Result()
			if err != nil {
				return err
			}
			if len(list) != 1 {
				return fmt.Errorf("%d pending", len(list))
			}
			if list[0].Idle < longest {
				seen++ // it began anew
				longest = 0
			}
			longest = max(longest, list[0].Idle)
			if longest >= time.Second {
				t.Fatalf("idle for %v", longest)
			}
			if seen < 5 {
				return fmt.Errorf("%d signs of life", seen)
			}
			return nil
		})
		m.Ack()
		drain(t, s)
	})
}

// Deleted while it was pending: it is not waited for, and not delivered.
func TestNativeEntriesDeletedWhilePendingAreAcked(t *testing.T) {
	r := realRedis(t)
	n, topic := native(t, r.URL, 1), brokertest.Name(t, "topic")
	publish(t, n, topic, "1", "2", "3")
	c := client(t, r.URL)
	if err := c.XGroupCreate(t.Context(), topic, "g", "0").Err(); err != nil {
		t.Fatal(err)
	}
	read, err := c.XReadGroup(t.Context(), &redis.XReadGroupArgs{
		Group: "g", Consumer: "eventbus-native", Streams: []string{topic, ">"},
	}).Result()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.XDel(t.Context(), topic, read[0].Messages[1].ID).Err(); err != nil {
		t.Fatal(err)
	}
	s := subscriber(t, n, "g")
	take(t, subscribe(t, s, topic), "1", "3")
	drain(t, s)
	untilPending(t, c, topic, "g", 0)
}

func TestNativeBadEntriesAreDeliveredAsMalformedAndTheNextIsHandled(t *testing.T) {
	eachRedis(t, func(t *testing.T, r brokertest.Redis) {
		n, topic := native(t, r.URL, 1), brokertest.Name(t, "topic")
		c := client(t, r.URL)
		big := strings.Repeat("x", 20<<20)
		for _, values := range [][]any{
			{redisstream.UUIDHeaderKey, "u", "metadata", "\xc1", "payload", "broken metadata"},
			{redisstream.UUIDHeaderKey, "u", "metadata", "\x81\xa1k", "payload", "cut metadata"},
			{redisstream.UUIDHeaderKey, "u", "metadata", "\xdf\xff\xff\xff\xff", "payload", "huge metadata"},
			{"some", "thing"},
			{"", ""},
			{"payload", big},
			{redisstream.UUIDHeaderKey, "u", "metadata", "", "payload", "good"},
		} {
			if err := c.XAdd(t.Context(), &redis.XAddArgs{Stream: topic, Values: values}).Err(); err != nil {
				t.Fatal(err)
			}
		}
		s := subscriber(t, n, "g")
		ch := subscribe(t, s, topic)
		type delivered struct {
			payload   string
			malformed bool
		}
		want := map[delivered]int{}
		for _, bad := range []string{"broken metadata", "cut metadata", "huge metadata", `{"some":"thing"}`, `{"":""}`} {
			want[delivered{bad, true}] = 2
		}
		want[delivered{big, false}], want[delivered{"good", false}] = 2, 2
		got := map[delivered]int{}
		ids := map[delivered]string{}
		for range 14 { // each once more after a nack, the same
			m := next(t, ch)
			d := delivered{string(m.Payload), m.Metadata[events.HeaderMalformed] != ""}
			if got[d]++; got[d] == 1 {
				ids[d] = m.UUID
				m.Nack()
				continue
			}
			if m.UUID != ids[d] || d.payload != "good" && m.UUID == "" {
				t.Errorf("%.40q has the UUID %q, and had %q", d.payload, m.UUID, ids[d])
			}
			m.Ack()
		}
		if !maps.Equal(got, want) {
			for d, n := range got {
				t.Errorf("%d times %d bytes %.40q, malformed %v", n, len(d.payload), d.payload, d.malformed)
			}
		}
		drain(t, s)
		untilPending(t, c, topic, "g", 0)
	})
}

func TestNativeConsumingGoesOnWhenMemoryIsFull(t *testing.T) {
	p := brokertest.StartRedis(t, brokertest.RedisOptions{Fsync: "no", Config: []string{"maxmemory-policy noeviction"}})
	n, topic := native(t, p.URL, 1), brokertest.Name(t, "topic")
	publish(t, n, topic, "1", "2", "3", "4")
	s := subscriber(t, n, "g")
	ch := subscribe(t, s, topic)
	take(t, ch, "1")
	c := client(t, p.URL)
	if err := c.ConfigSet(t.Context(), "maxmemory", "1mb").Err(); err != nil {
		t.Fatal(err)
	}
	if err := n.Publish(t.Context(), topic, one()); err == nil {
		t.Fatal("memory is not full")
	}
	take(t, ch, "2", "3")
	until(t, func() error {
		if st := s.State()[topic]; !strings.Contains(st.LastError, "OOM") {
			return fmt.Errorf("state %+v", st)
		}
		return nil
	})
	// Members cannot count, and keep what they have all the same: consuming is what
	// makes room.
	<-time.After(2 * testLease)
	if !s.State()[topic].Connected || redisbus.Owned(s) != 1 {
		t.Errorf("state %+v", s.State()[topic])
	}
	take(t, ch, "4")
	if err := c.ConfigSet(t.Context(), "maxmemory", "0").Err(); err != nil {
		t.Fatal(err)
	}
	publish(t, n, topic, "5")
	take(t, ch, "5")
	drain(t, s)
	untilPending(t, c, topic, "g", 0)
}

func TestPlainWatermillsMessagesArriveNatively(t *testing.T) {
	eachRedis(t, func(t *testing.T, r brokertest.Redis) {
		n, topic := native(t, r.URL, 3), brokertest.Name(t, "topic")
		pub, err := redisstream.NewPublisher(redisstream.PublisherConfig{Client: client(t, r.URL)}, watermill.NopLogger{})
		if err != nil {
			t.Fatal(err)
		}
		m := keyed("key", "payload")
		m.Metadata.Set("unicode", "žluťoučký 🐎\x00\r\n")
		m.Metadata.Set("long", strings.Repeat("x", 100_000))
		if err := pub.Publish(topic, m); err != nil {
			t.Fatal(err)
		}
		got := next(t, subscribe(t, subscriber(t, n, "g"), topic))
		if !got.Equals(m) {
			t.Errorf("got %v %.200v, want %v", got.UUID, got.Metadata, m.UUID)
		}
		got.Ack()
		noted(t, got)
	})
}
