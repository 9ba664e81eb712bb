package redisbus_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/aura360/eventbus/bus/driver"
	"github.com/aura360/eventbus/bus/redisbus"
	"github.com/aura360/eventbus/internal/brokertest"
)

// read gives a group entries of a stream, and acks the first ones of them.
func read(t *testing.T, c *redis.Client, stream, group string, n, acked int) {
	t.Helper()
	res, err := c.XReadGroup(t.Context(), &redis.XReadGroupArgs{
		Group: group, Consumer: "c", Streams: []string{stream, ">"}, Count: int64(n), Block: -1,
	}).Result()
	if err != nil || len(res[0].Messages) != n {
		t.Fatalf("read %v (%v), want %d", res, err, n)
	}
	for _, m := range res[0].Messages[:acked] {
		if err := c.XAck(t.Context(), stream, group, m.ID).Err(); err != nil {
			t.Fatal(err)
		}
	}
}

func groups(t *testing.T, c *redis.Client, stream string, names ...string) {
	t.Helper()
	for _, g := range names {
		if err := c.XGroupCreateMkStream(t.Context(), stream, g, "0").Err(); err != nil {
			t.Fatal(err)
		}
	}
}

// small makes XTRIM exact: with ~ it leaves what it cannot drop as a whole.
func small(t *testing.T) brokertest.Redis {
	t.Helper()
	p := brokertest.StartRedis(t, brokertest.RedisOptions{Fsync: "no", Config: []string{"stream-node-max-entries 1"}})
	return brokertest.Redis{Name: "redis", Real: true, Addr: p.Addr, URL: p.URL}
}

func TestOnlyWhatEveryGroupHasConsumedIsTrimmed(t *testing.T) {
	r := small(t)
	n, c := openNative(t, creating(r.URL)), client(t, r.URL)
	if err := n.EnsureTopic(t.Context(), driver.TopicSpec{Name: "topic", Partitions: 1}); err != nil {
		t.Fatal(err)
	}
	left := func(want ...string) {
		t.Helper()
		if err := n.Trim(t.Context()); err != nil {
			t.Fatal(err)
		}
		if got := streamPayloads(t, c, "topic", 1)[0]; !reflect.DeepEqual(got, want) {
			t.Errorf("left are %v, want %v", got, want)
		}
	}
	if err := n.Publish(t.Context(), "topic", series("key", 6)...); err != nil {
		t.Fatal(err)
	}
	left("0", "1", "2", "3", "4", "5") // no group
	groups(t, c, "topic", "a", "b")
	read(t, c, "topic", "a", 6, 6)
	left("0", "1", "2", "3", "4", "5") // b has read nothing
	read(t, c, "topic", "b", 4, 1)
	left("1", "2", "3", "4", "5") // 1 is read and not acked
	if err := c.XAck(t.Context(), "topic", "b", pendingIDs(t, c, "topic", "b")...).Err(); err != nil {
		t.Fatal(err)
	}
	left("4", "5")
	read(t, c, "topic", "b", 2, 2)
	left()
	if lag, known, err := n.Lag(t.Context(), "topic", "b"); err != nil || lag != 0 || !known {
		t.Errorf("lag %d, %v, %v", lag, known, err)
	}
	// What comes next is neither lost nor old.
	if err := n.Publish(t.Context(), "topic", series("key", 1)...); err != nil {
		t.Fatal(err)
	}
	left("0")
	if lag, known, err := n.Lag(t.Context(), "topic", "b"); err != nil || lag != 1 || !known {
		t.Errorf("lag %d, %v, %v", lag, known, err)
	}
	read(t, c, "topic", "a", 1, 1)
	read(t, c, "topic", "b", 1, 1)
}

func pendingIDs(t *testing.T, c *redis.Client, stream, group string) []string {
	t.Helper()
	list, err := c.XPendingExt(t.Context(), &redis.XPendingExtArgs{Stream: stream, Group: group, Start: "-", End: "+", Count: 1000}).Result()
	if err != nil {
		t.Fatal(err)
	}
	var ids []string
	for _, p := range list {
		ids = append(ids, p.ID)
	}
	return ids
}

func TestAGroupThatKeepsAStreamFromBeingTrimmedIsReported(t *testing.T) {
	r := realRedis(t)
	n, c := openNative(t, creating(r.URL)), client(t, r.URL)
	ctx := t.Context()
	topics := []string{"old", "alive", "fresh", "far"}
	for _, topic := range topics {
		if err := n.EnsureTopic(ctx, driver.TopicSpec{Name: topic, Partitions: 2}); err != nil {
			t.Fatal(err)
		}
	}
	since := time.Now().Add(-redisbus.AbandonedAfter - time.Minute).Truncate(time.Millisecond)
	add := func(stream string, at time.Time, n int) {
		_, err := c.Pipelined(ctx, func(p redis.Pipeliner) error {
			for i := range n {
				p.XAdd(ctx, &redis.XAddArgs{Stream: stream, ID: fmt.Sprintf("%d-%d", at.UnixMilli(), i+1), Values: []any{"payload", "x"}})
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	add("old", since, 3)
	add("old:p1", since.Add(time.Second), 2)
	groups(t, c, "old", "dead", "done")
	groups(t, c, "old:p1", "dead")
	read(t, c, "old", "done", 3, 3)
	add("alive", since, 3) // its member has just read
	groups(t, c, "alive", "working")
	read(t, c, "alive", "working", 1, 0)
	add("fresh", time.Now(), 3) // nobody has come yet
	groups(t, c, "fresh", "starting")
	const many = 100_000
	add("far", time.Now(), many)
	groups(t, c, "far", "slow", "fast")
	read(t, c, "far", "slow", 1, 0)
	if err := c.XGroupSetID(ctx, "far", "fast", "$").Err(); err != nil {
		t.Fatal(err)
	}
	if err := n.Trim(ctx); err != nil {
		t.Fatal(err)
	}
	held := n.HeldBack()
	want := []driver.HeldBack{
		{Topic: "far", Group: "slow", Messages: many},
		{Topic: "old", Group: "dead", Messages: 5, Since: since, Abandoned: true},
	}
	if len(held) == 2 {
		want[0].Since = held[0].Since
		held[1].Since = held[1].Since.Local()
	}
	if fmt.Sprint(held) != fmt.Sprint(want) {
		t.Errorf("held back:\n%v\nwant\n%v", held, want)
	}
	a, err := n.Audit(ctx)
	if err != nil {
		t.Fatal(err)
	}
	text := strings.Join(a.Findings, "\n")
	for _, w := range []string{"group dead has no active member on old: 5 messages", "group slow is far behind on far: 100000 messages"} {
		if !strings.Contains(text, w) {
			t.Errorf("the findings lack %q:\n%s", w, text)
		}
	}
	if strings.Contains(text, redisbus.FindNotTrimmed) {
		t.Error("the audit says that streams are not trimmed")
	}
	for _, s := range []string{"old", "old:p1"} {
		if err := c.XGroupDestroy(ctx, s, "dead").Err(); err != nil {
			t.Fatal(err)
		}
	}
	if err := n.Trim(ctx); err != nil {
		t.Fatal(err)
	}
	if held := n.HeldBack(); len(held) != 1 {
		t.Errorf("held back: %v, want only slow", held)
	}
}

func TestLagSumsThePartitions(t *testing.T) {
	r := realRedis(t)
	n, c, topic := openNative(t, creating(r.URL)), client(t, r.URL), brokertest.Name(t, "topic")
	check := func(want int64, wantKnown bool) {
		t.Helper()
		lag, known, err := n.Lag(t.Context(), topic, "g")
		if err != nil || lag != want || known != wantKnown {
			t.Errorf("lag %d, known %v (%v), want %d, %v", lag, known, err, want, wantKnown)
		}
	}
	check(0, false)
	if n, err := c.Exists(t.Context(), "eventbus:topic:{"+topic+"}").Result(); err != nil || n != 0 {
		t.Errorf("asking for the lag made a record (%d, %v)", n, err)
	}
	for i := range 30 {
		if err := n.Publish(t.Context(), topic, series(fmt.Sprint("user-", i), 1)...); err != nil {
			t.Fatal(err)
		}
	}
	check(0, false)
	of := streamPayloads(t, c, topic, 3)
	groups(t, c, topic, "g", "other")
	check(30, true) // those of partitions that it has not seen too
	groups(t, c, topic+":p1", "g")
	groups(t, c, topic+":p2", "g")
	check(30, true)
	read(t, c, topic+":p1", "g", len(of[1]), len(of[1])-1)
	check(int64(31-len(of[1])), true)
	other := openNative(t, creating(r.URL)) // remembers nothing
	lag, known, err := other.Lag(t.Context(), topic, "g")
	if err != nil || !known || lag != int64(31-len(of[1])) {
		t.Errorf("lag %d, %v (%v)", lag, known, err)
	}
}

// Three groups read and ack as they like while several processes trim: each gets
// every entry, in order, and finds what it has not acked.
func TestTrimmingTakesNothingFromAnyGroup(t *testing.T) {
	r := small(t)
	const entries = 3000
	c := client(t, r.URL)
	names := []string{"a", "b", "c"}
	groups(t, c, "topic", names...)
	ctx, done := context.WithCancel(t.Context())
	var trimming, working sync.WaitGroup
	for range 2 {
		n := openNative(t, creating(r.URL))
		if err := n.EnsureTopic(ctx, driver.TopicSpec{Name: "topic", Partitions: 1}); err != nil {
			t.Fatal(err)
		}
		trimming.Go(func() {
			for ctx.Err() == nil {
				if err := n.Trim(ctx); err != nil && ctx.Err() == nil {
					t.Error(err)
					return
				}
			}
		})
	}
	n := openNative(t, creating(r.URL))
	working.Go(func() {
		for i := range entries / 10 {
			msgs := series("key", 10)
			for j, m := range msgs {
				m.Payload = fmt.Append(nil, i*10+j)
			}
			if err := n.Publish(ctx, "topic", msgs...); err != nil {
				t.Error(err)
				return
			}
		}
	})
	for g, name := range names {
		working.Go(func() {
			rng := rand.New(rand.NewPCG(uint64(g), 1))
			for next := 0; next < entries; {
				res, err := c.XReadGroup(ctx, &redis.XReadGroupArgs{
					Group: name, Consumer: "c", Streams: []string{"topic", ">"}, Count: int64(1 + rng.IntN(50)), Block: wait,
				}).Result()
				if err != nil {
					t.Errorf("group %s: read: %v", name, err)
					return
				}
				for _, m := range res[0].Messages {
					if m.Values["payload"] != fmt.Sprint(next) {
						t.Errorf("group %s: got %v, want %d", name, m.Values["payload"], next)
						return
					}
					next++
				}
				// Some of what is not acked is, in any order; a trimmed one has no values.
				res, err = c.XReadGroup(ctx, &redis.XReadGroupArgs{Group: name, Consumer: "c", Streams: []string{"topic", "0"}, Count: 1000}).Result()
				if err != nil {
					t.Errorf("group %s: read again: %v", name, err)
					return
				}
				for _, m := range res[0].Messages {
					if m.Values == nil {
						t.Errorf("group %s: entry %s was trimmed before it was acked", name, m.ID)
						return
					}
					if next == entries || rng.IntN(3) > 0 {
						if err := c.XAck(ctx, "topic", name, m.ID).Err(); err != nil {
							t.Errorf("group %s: ack: %v", name, err)
							return
						}
					}
				}
			}
		})
	}
	working.Wait()
	done()
	trimming.Wait()
	if err := n.Trim(t.Context()); err != nil {
		t.Fatal(err)
	}
	if left, err := c.XLen(t.Context(), "topic").Result(); err != nil || left != 0 {
		t.Errorf("%d entries are left (%v), want none", left, err)
	}
}
