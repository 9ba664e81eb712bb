package redisbus_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
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
	"github.com/aura360/eventbus/internal/partition"
)

func openNative(t *testing.T, cfg redisbus.Config) *redisbus.Native {
	t.Helper()
	n, err := redisbus.OpenNative(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), wait)
		defer cancel()
		if err := n.Close(ctx); err != nil {
			t.Errorf("Close: %v", err)
		}
	})
	return n
}

// series are messages of one key with the payloads "0", "1" ...
func series(key string, n int) []*message.Message {
	out := make([]*message.Message, n)
	for i := range out {
		out[i] = message.NewMessage(watermill.NewUUID(), fmt.Append(nil, i))
		out[i].Metadata.Set(events.HeaderKey, key)
	}
	return out
}

// payloads are those in the streams of a topic's partitions.
func streamPayloads(t *testing.T, c redis.UniversalClient, topic string, partitions int) [][]string {
	t.Helper()
	out := make([][]string, partitions)
	for i := range out {
		stream := topic
		if i > 0 {
			stream = fmt.Sprintf("%s:p%d", topic, i)
		}
		entries, err := c.XRange(t.Context(), stream, "-", "+").Result()
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range entries {
			out[i] = append(out[i], e.Values["payload"].(string))
		}
	}
	return out
}

func total(payloads [][]string) int {
	n := 0
	for _, p := range payloads {
		n += len(p)
	}
	return n
}

func TestAKeyIsInThePartitionThatKafkaWouldChoose(t *testing.T) {
	eachRedis(t, func(t *testing.T, r brokertest.Redis) {
		n, topic := openNative(t, creating(r.URL)), brokertest.Name(t, "topic")
		var batch []*message.Message
		want := make([][]string, 3)
		for i := range 300 {
			key := fmt.Sprintf("user-%d", i%20)
			m := message.NewMessage(watermill.NewUUID(), fmt.Append(nil, key, " ", i))
			m.Metadata.Set(events.HeaderKey, key)
			p := partition.Of(key, 3)
			want[p] = append(want[p], string(m.Payload))
			if i%10 == 9 { // some alone, some in batches
				if err := n.Publish(t.Context(), topic, batch...); err != nil {
					t.Fatal(err)
				}
				if err := n.Publish(t.Context(), topic, m); err != nil {
					t.Fatal(err)
				}
				batch = nil
			} else {
				batch = append(batch, m)
			}
		}
		got := streamPayloads(t, client(t, r.URL), topic, 3)
		if fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("the streams are\n%v\nwant\n%v", got, want)
		}
		if parts, err := n.Partitions(t.Context(), topic); err != nil || parts != 3 {
			t.Errorf("%d partitions (%v), want 3", parts, err)
		}
	})
}

func TestALargeBatchGoesOutInStepsAndInOrder(t *testing.T) {
	r := realRedis(t)
	n, topic := openNative(t, creating(r.URL)), brokertest.Name(t, "topic")
	msgs := series("key", 2500)
	var want []string
	for i, m := range msgs {
		if i < 20 { // 2 MiB
			m.Payload = append(m.Payload, strings.Repeat(" ", 100<<10)...)
		}
		want = append(want, string(m.Payload))
	}
	if err := n.Publish(t.Context(), topic, msgs...); err != nil {
		t.Fatal(err)
	}
	got := streamPayloads(t, client(t, r.URL), topic, 3)[partition.Of("key", 3)]
	if !slices.Equal(got, want) {
		t.Errorf("%d entries, want %d in order", len(got), len(want))
	}
}

// A plain Watermill service reads what is published to a topic of one partition,
// and its metadata.
func TestPlainWatermillReadsWhatIsPublished(t *testing.T) {
	r := realRedis(t)
	n, topic := openNative(t, creating(r.URL)), brokertest.Name(t, "topic")
	if err := n.EnsureTopic(t.Context(), driver.TopicSpec{Name: topic, Partitions: 1}); err != nil {
		t.Fatal(err)
	}
	msgs := series("key", 3)
	msgs[1].Metadata.Set("unicode", "žluťoučký 🐎\x00\r\n")
	msgs[2].Metadata = nil
	bad := series("key", 1)[0]
	bad.Metadata.Set(events.HeaderMalformed, "was poison")
	for _, batch := range [][]*message.Message{msgs[:1], msgs[1:], {bad}} {
		if err := n.Publish(t.Context(), topic, batch...); err != nil {
			t.Fatal(err)
		}
	}
	sub, err := redisstream.NewSubscriber(redisstream.SubscriberConfig{
		Client: client(t, r.URL), ConsumerGroup: "plain", OldestId: "0", DisableIndefiniteInitialBlock: true,
		BlockTime: 10 * time.Millisecond,
	}, watermill.NopLogger{})
	if err != nil {
		t.Fatal(err)
	}
	defer sub.Close()
	ch, err := sub.Subscribe(t.Context(), topic)
	if err != nil {
		t.Fatal(err)
	}
	bad.Metadata = message.Metadata{events.HeaderKey: "key"} // the mark is a driver's own
	for i, want := range append(msgs, bad) {
		got := next(t, ch)
		if !got.Equals(want) {
			t.Errorf("message %d: got %v %v %q, want %v %v %q", i,
				got.UUID, got.Metadata, got.Payload, want.UUID, want.Metadata, want.Payload)
		}
		got.Ack()
	}
}

func TestNativePublishToAServerThatIsDownIsRejected(t *testing.T) {
	p := brokertest.StartRedis(t, brokertest.RedisOptions{})
	n := openNative(t, creating(p.URL))
	if err := n.Publish(t.Context(), "topic", one()); err != nil {
		t.Fatal(err)
	}
	p.Stop()
	// The connection that was open is closed, which is noticed before it is written to.
	for range 2 {
		for i, res := range driver.Results(n.Publish(t.Context(), "topic", one(), one()), 2) {
			if res.Outcome != driver.Rejected || !errors.Is(res.Err, driver.ErrUnavailable) {
				t.Errorf("message %d: %+v, want rejected, unavailable", i, res)
			}
		}
	}
	p.Start()
	if err := n.Publish(t.Context(), "topic", one()); err != nil {
		t.Errorf("after a restart: %v", err)
	}
	neverUp := openNative(t, creating("redis://127.0.0.1:1"))
	if res := outcome(t, neverUp.Publish(t.Context(), "topic", one())); res.Outcome != driver.Rejected || !errors.Is(res.Err, driver.ErrUnavailable) {
		t.Errorf("never up: %+v", res)
	}
}

func TestAnAnswerThatIsLostIsUnknownAndNotRepeated(t *testing.T) {
	r := realRedis(t)
	proxy := brokertest.Proxy(t, r.Addr)
	n := openNative(t, creating("redis://"+proxy.Addr+"/0?read_timeout=300ms"))
	c, topic := client(t, r.URL), brokertest.Name(t, "topic")
	for _, size := range []int{1, 3} {
		// A connection that is open.
		until(t, func() error { return n.Publish(t.Context(), topic, series("key", 1)...) })
		proxy.LoseReplies()
		for i, res := range driver.Results(n.Publish(t.Context(), topic, series("key", size)...), size) {
			if res.Outcome != driver.Unknown || errors.Is(res.Err, driver.ErrPermanent) {
				t.Errorf("message %d of %d: %+v, want unknown", i, size, res)
			}
		}
		proxy.Restore()
	}
	until(t, func() error { return n.Publish(t.Context(), topic, series("key", 1)...) })
	if got := total(streamPayloads(t, c, topic, 3)); got != (1+1)+(1+3)+1 {
		t.Errorf("%d entries, want 7: one was repeated or lost", got)
	}
}

func TestNativePublishIsBoundedByItsContext(t *testing.T) {
	r := realRedis(t)
	proxy := brokertest.Proxy(t, r.Addr)
	n := openNative(t, creating("redis://"+proxy.Addr+"/0?read_timeout=2s&dial_timeout=2s"))
	if err := n.Publish(t.Context(), "topic", one()); err != nil {
		t.Fatal(err)
	}
	proxy.BlackHole()
	for _, size := range []int{1, 2, 2000} {
		for _, how := range []string{"deadline", "cancel"} {
			ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
			if how == "cancel" {
				ctx, cancel = context.WithCancel(t.Context())
				time.AfterFunc(100*time.Millisecond, cancel)
			}
			start := time.Now()
			res := driver.Results(n.Publish(ctx, "topic", series("key", size)...), size)
			cancel()
			if d := time.Since(start); d > time.Second || res[0].Outcome == driver.Confirmed || res[size-1].Outcome == driver.Confirmed {
				t.Errorf("%d, %s: after %v %+v ... %+v", size, how, d, res[0], res[size-1])
			}
		}
	}
	proxy.Restore()
}

// What is refused leaves no hole: all messages of a batch are refused, or none.
func TestWhatTheServerRefusesIsRejectedAsAWhole(t *testing.T) {
	for _, c := range []struct {
		name      string
		command   []any
		config    []string
		want      string
		permanent bool
	}{
		{name: "WRONGTYPE", command: []any{"SET", "topic", "a string"}, want: "WRONGTYPE", permanent: true},
		{name: "OOM", command: []any{"CONFIG", "SET", "maxmemory", "1"}, want: "OOM"},
		{name: "READONLY", command: []any{"REPLICAOF", "127.0.0.1", "1"}, want: "READONLY"},
		{name: "NOPERM", command: []any{"ACL", "SETUSER", "default", "-xadd"}, want: "NOPERM"},
		{name: "MISCONF", command: []any{"CONFIG", "SET", "min-replicas-to-write", "1"}, want: "NOREPLICAS"},
		{name: "no MULTI", command: []any{"ACL", "SETUSER", "default", "-multi", "-xadd"}, want: "NOPERM"},
	} {
		for _, size := range []int{1, 3} {
			t.Run(fmt.Sprint(c.name, " ", size), func(t *testing.T) {
				p := brokertest.StartRedis(t, brokertest.RedisOptions{Config: c.config})
				n, admin := openNative(t, creating(p.URL)), client(t, p.URL)
				if err := n.EnsureTopic(t.Context(), driver.TopicSpec{Name: "topic", Partitions: 1}); err != nil {
					t.Fatal(err)
				}
				if err := admin.Del(t.Context(), "topic").Err(); err != nil {
					t.Fatal(err)
				}
				if err := admin.Do(t.Context(), c.command...).Err(); err != nil {
					t.Fatal(err)
				}
				for i, res := range driver.Results(n.Publish(t.Context(), "topic", series("key", size)...), size) {
					if res.Outcome != driver.Rejected || !strings.Contains(res.Err.Error(), c.want) ||
						errors.Is(res.Err, driver.ErrPermanent) != c.permanent || errors.Is(res.Err, driver.ErrUnavailable) {
						t.Errorf("message %d: %v %v, want rejected, %s, permanent %v", i, res.Outcome, res.Err, c.want, c.permanent)
					}
				}
			})
		}
	}
}

func TestMemoryThatIsFullInTheMiddleOfABatchLeavesNoHole(t *testing.T) {
	p := brokertest.StartRedis(t, brokertest.RedisOptions{})
	n, c := openNative(t, creating(p.URL)), client(t, p.URL)
	if err := n.EnsureTopic(t.Context(), driver.TopicSpec{Name: "topic", Partitions: 1}); err != nil {
		t.Fatal(err)
	}
	used, err := c.InfoMap(t.Context(), "memory").Result()
	if err != nil {
		t.Fatal(err)
	}
	var bytes int
	if _, err := fmt.Sscan(used["Memory"]["used_memory"], &bytes); err != nil {
		t.Fatal(err)
	}
	if err := c.ConfigSet(t.Context(), "maxmemory", fmt.Sprint(bytes+1<<20)).Err(); err != nil {
		t.Fatal(err)
	}
	next := 0 // every round the batch begins with what is missing
	for range 20 {
		msgs := series("key", 100)
		for i, m := range msgs {
			m.Payload = fmt.Appendf(nil, "%d %s", next+i, strings.Repeat("x", 1000))
		}
		results := driver.Results(n.Publish(t.Context(), "topic", msgs...), len(msgs))
		for i, res := range results {
			if res.Outcome != results[0].Outcome || res.Outcome == driver.Unknown {
				t.Fatalf("message %d: %+v, the first %+v", i, res, results[0])
			}
		}
		if results[0].Outcome == driver.Rejected {
			if next == 0 {
				t.Fatal("no batch fitted")
			}
			if got := total(streamPayloads(t, c, "topic", 1)); got != next {
				t.Fatalf("%d entries, want %d", got, next)
			}
			return
		}
		next += len(msgs)
	}
	t.Fatal("never full")
}

func TestNativeWhatCannotBeSentIsRejectedForGood(t *testing.T) {
	cfg := creating(brokertest.FakeRedis(t).URL)
	cfg.MaxMessageBytes = 1000
	n := openNative(t, cfg)
	large := message.NewMessage("u", make([]byte, 1000))
	headers := message.NewMessage("u", make([]byte, 500))
	headers.Metadata.Set("h", strings.Repeat("x", 500))
	reserved := one()
	reserved.Metadata.Set("_watermill_message_uuid", "mine")
	for name, m := range map[string]*message.Message{"too large": large, "large headers": headers, "reserved metadata": reserved} {
		for i, res := range driver.Results(n.Publish(t.Context(), "topic", m), 1) {
			if res.Outcome != driver.Rejected || !errors.Is(res.Err, driver.ErrPermanent) {
				t.Errorf("%s %d: %+v", name, i, res)
			}
		}
		// Others of its batch are sent.
		got := driver.Results(n.Publish(t.Context(), "topic", one(), m, one()), 3)
		if got[0].Err != nil || got[2].Err != nil || got[1].Outcome != driver.Rejected || !errors.Is(got[1].Err, driver.ErrPermanent) {
			t.Errorf("%s in a batch: %+v", name, got)
		}
	}
	for _, topic := range []string{"", "orders:p1"} {
		res := outcome(t, n.Publish(t.Context(), topic, one()))
		if res.Outcome != driver.Rejected || !errors.Is(res.Err, driver.ErrPermanent) {
			t.Errorf("topic %q: %+v", topic, res)
		}
		if err := n.EnsureTopic(t.Context(), driver.TopicSpec{Name: topic}); !errors.Is(err, driver.ErrPermanent) {
			t.Errorf("EnsureTopic(%q): %v", topic, err)
		}
	}
	if err := n.Publish(t.Context(), "topic"); err != nil {
		t.Errorf("no messages: %v", err)
	}
}

func TestNativePublishDoesNotRaceWithClose(t *testing.T) {
	r := realRedis(t)
	n, err := redisbus.OpenNative(creating(r.URL))
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for g := range 8 {
		wg.Go(func() {
			for i := 0; ; i++ {
				size := 1 + (i+g)%3
				err := n.Publish(context.Background(), "topic", series("key", size)...)
				for _, r := range driver.Results(err, size) {
					if r.Outcome == driver.Unknown {
						t.Errorf("an orderly Close left %+v", r)
					}
				}
				if errors.Is(err, driver.ErrClosed) {
					return
				}
			}
		})
	}
	if err := n.Close(t.Context()); err != nil {
		t.Error(err)
	}
	wg.Wait()
	if err := n.Close(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestPublishToClusterAndSentinel(t *testing.T) {
	t.Run("cluster", func(t *testing.T) {
		c := brokertest.StartRedisCluster(t)
		url := "redis+cluster://" + strings.Join(c.Addrs, ",")
		cluster := redis.NewClusterClient(&redis.ClusterOptions{Addrs: c.Addrs})
		defer cluster.Close()
		publishesInOrder(t, openNative(t, creating(url)), cluster)
	})
	t.Run("sentinel", func(t *testing.T) {
		s := brokertest.StartRedisSentinel(t)
		n := openNative(t, creating("redis+sentinel://"+s.Sentinel.Addr+"/"+s.Master))
		c := client(t, "redis://"+s.Primary.Addr)
		publishesInOrder(t, n, c)
		s.Primary.Kill()
		until(t, func() error {
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			return n.Publish(ctx, "topic", series("key", 3)...)
		})
	})
}

func publishesInOrder(t *testing.T, n *redisbus.Native, c redis.UniversalClient) {
	t.Helper()
	var msgs []*message.Message
	want := make([][]string, 3)
	for i := range 30 {
		key := fmt.Sprint("user-", i%7)
		m := series(key, 1)[0]
		m.Payload = fmt.Append(nil, i)
		msgs = append(msgs, m)
		p := partition.Of(key, 3)
		want[p] = append(want[p], fmt.Sprint(i))
	}
	if err := n.Publish(t.Context(), "topic", msgs[:29]...); err != nil {
		t.Fatal(err)
	}
	if err := n.Publish(t.Context(), "topic", msgs[29]); err != nil {
		t.Fatal(err)
	}
	if got := streamPayloads(t, c, "topic", 3); fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("the streams are %v, want %v", got, want)
	}
}

func xadd(stream string) *redis.XAddArgs {
	return &redis.XAddArgs{Stream: stream, Values: []any{"payload", "x"}}
}

func TestNativeConnectsWithCredentialsAndTLS(t *testing.T) {
	p := brokertest.StartRedis(t, brokertest.RedisOptions{TLS: true, Config: []string{
		"tls-auth-clients yes", "user default off", `user alice on ">` + password + `" ~* &* +@all`,
	}})
	cfg := creating(strings.TrimSuffix(p.URL, "/0") + "/3")
	cfg.CAFile, cfg.CertFile, cfg.KeyFile = p.CA, p.ClientCert, p.ClientKey
	cfg.Username, cfg.Password, cfg.ClientName = "alice", password, "the-service"
	n := openNative(t, cfg)
	for _, size := range []int{1, 3} {
		if err := n.Publish(t.Context(), "topic", series("key", size)...); err != nil {
			t.Fatal(err)
		}
	}
	if lag, known, err := n.Lag(t.Context(), "topic", "g"); err != nil || known {
		t.Errorf("lag %d, %v, %v", lag, known, err)
	}
	if err := n.Ping(t.Context()); err != nil {
		t.Error(err)
	}
	wrong := cfg
	wrong.Password = "wrong-" + password
	for i, res := range driver.Results(openNative(t, wrong).Publish(t.Context(), "topic", one()), 1) {
		if res.Outcome != driver.Rejected || !strings.Contains(res.Err.Error(), "WRONGPASS") || strings.Contains(res.Err.Error(), "s3cret") {
			t.Errorf("%d: %+v", i, res)
		}
	}
	stranger := cfg
	stranger.ServerName = "someone.else"
	res := outcome(t, openNative(t, stranger).Publish(t.Context(), "topic", one()))
	if res.Outcome != driver.Rejected || !strings.Contains(res.Err.Error(), "someone.else") {
		t.Errorf("a certificate of another name: %+v", res)
	}
}

// Credentials that change while connections are open are noticed when the server
// says so, and the next try logs in again.
func TestNativeLogsInAgain(t *testing.T) {
	p := brokertest.StartRedis(t, brokertest.RedisOptions{})
	admin := client(t, p.URL)
	acl := func(rules ...any) {
		t.Helper()
		if err := admin.Do(t.Context(), append([]any{"ACL", "SETUSER", "bob"}, rules...)...).Err(); err != nil {
			t.Fatal(err)
		}
	}
	acl("on", ">bob", "~*", "+@all")
	n := openNative(t, creating("redis://bob:bob@"+p.Addr))
	publish := func() error { return n.Publish(t.Context(), "topic", series("key", 2)...) }
	if err := publish(); err != nil {
		t.Fatal(err)
	}
	acl("off") // and its connections are cut
	if err := admin.Do(t.Context(), "CLIENT", "KILL", "USER", "bob").Err(); err != nil {
		t.Fatal(err)
	}
	res := driver.Results(publish(), 2)
	if res[0].Outcome != driver.Rejected || !strings.Contains(res[0].Err.Error(), "WRONGPASS") {
		t.Errorf("while the user is off: %+v", res)
	}
	acl("on")
	if err := publish(); err != nil {
		t.Errorf("when it is on again: %v", err)
	}
}
