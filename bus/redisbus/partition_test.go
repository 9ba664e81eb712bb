package redisbus_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/aura360/eventbus/bus/driver"
	"github.com/aura360/eventbus/bus/redisbus"
	"github.com/aura360/eventbus/internal/brokertest"
)

func TestTheRecordSaysHowManyPartitionsATopicHas(t *testing.T) {
	eachRedis(t, func(t *testing.T, r brokertest.Redis) {
		c, topic := client(t, r.URL), brokertest.Name(t, "topic")
		key := "eventbus:topic:{" + topic + "}"
		five := creating(r.URL)
		five.Provision.Partitions = 5
		first, second := openNative(t, five), openNative(t, creating(r.URL))
		want := func(n *redisbus.Native, f func(*redisbus.Native) (int, error), want int) {
			t.Helper()
			if got, err := f(n); err != nil || got != want {
				t.Errorf("%d partitions (%v), want %d", got, err, want)
			}
		}
		known := func(n *redisbus.Native) (int, error) { return n.Partitions(t.Context(), topic) }
		now := func(n *redisbus.Native) (int, error) { return n.RefreshPartitions(t.Context(), topic) }
		want(first, known, 5)
		want(second, known, 5) // whoever comes first decides
		// An operator adds some; everybody follows.
		if err := c.HSet(t.Context(), key, "partitions", 7).Err(); err != nil {
			t.Fatal(err)
		}
		want(first, now, 7)
		// The server loses everything; the record is made again as it was.
		if err := c.FlushAll(t.Context()).Err(); err != nil {
			t.Fatal(err)
		}
		want(first, now, 7)
		if got, err := c.HGet(t.Context(), key, "partitions").Result(); err != nil || got != "7" {
			t.Errorf("the record says %q (%v), want 7", got, err)
		}
		want(second, now, 7)
		// Nonsense is an error, and what was known stays.
		if err := c.HSet(t.Context(), key, "partitions", "many").Err(); err != nil {
			t.Fatal(err)
		}
		if _, err := now(first); err == nil || !strings.Contains(err.Error(), "many") || !strings.Contains(err.Error(), key) {
			t.Errorf("a record that is no number: %v", err)
		}
		want(first, known, 7)
		res := outcome(t, openNative(t, creating(r.URL)).Publish(t.Context(), topic, one()))
		if res.Outcome != driver.Rejected || errors.Is(res.Err, driver.ErrPermanent) || errors.Is(res.Err, driver.ErrUnavailable) {
			t.Errorf("publishing to it: %+v", res)
		}
	})
}

func TestWithoutCreateATopicMustBeThere(t *testing.T) {
	eachRedis(t, func(t *testing.T, r brokertest.Redis) {
		n, c, topic := openNative(t, redisbus.Config{URL: r.URL}), client(t, r.URL), brokertest.Name(t, "topic")
		refused := func() {
			t.Helper()
			for _, size := range []int{1, 3} {
				for i, res := range driver.Results(n.Publish(t.Context(), topic, series("key", size)...), size) {
					if res.Outcome != driver.Rejected || !strings.Contains(res.Err.Error(), "does not exist") || errors.Is(res.Err, driver.ErrPermanent) {
						t.Errorf("message %d: %+v", i, res)
					}
				}
			}
			if n, err := c.Exists(t.Context(), topic, "eventbus:topic:{"+topic+"}").Result(); err != nil || n != 0 {
				t.Errorf("something was created (%d, %v)", n, err)
			}
		}
		refused()
		if parts, err := n.Partitions(t.Context(), topic); err != nil || parts != 1 {
			t.Errorf("%d partitions (%v), want 1", parts, err)
		}
		for _, p := range []int{4, 4, 0, 2} { // what exists is not changed
			if err := n.EnsureTopic(t.Context(), driver.TopicSpec{Name: topic, Partitions: p}); err != nil {
				t.Fatal(err)
			}
			if parts, err := n.Partitions(t.Context(), topic); err != nil || parts != 4 {
				t.Errorf("%d partitions (%v), want 4", parts, err)
			}
		}
		if err := n.Publish(t.Context(), topic, series("key", 3)...); err != nil {
			t.Error(err)
		}
		if err := c.FlushAll(t.Context()).Err(); err != nil {
			t.Fatal(err)
		}
		refused()
		// A topic of the stock build, or of a plain producer, has one partition.
		if err := c.XAdd(t.Context(), xadd("plain")).Err(); err != nil {
			t.Fatal(err)
		}
		if err := n.Publish(t.Context(), "plain", series("key", 3)...); err != nil {
			t.Error(err)
		}
		if err := c.Set(t.Context(), "string", "x", 0).Err(); err != nil {
			t.Fatal(err)
		}
		if err := n.EnsureTopic(t.Context(), driver.TopicSpec{Name: "string"}); !errors.Is(err, driver.ErrPermanent) {
			t.Errorf("EnsureTopic of a string: %v", err)
		}
		if err := n.EnsureTopic(t.Context(), driver.TopicSpec{Name: "t", Partitions: 1001}); !errors.Is(err, driver.ErrPermanent) {
			t.Errorf("EnsureTopic of 1001 partitions: %v", err)
		}
	})
}

func TestNativeConfigNamesWhatIsWrong(t *testing.T) {
	cfg := redisbus.Config{URL: "redis://localhost", Namespace: "a{b}"}
	cfg.Provision.Partitions = -1
	_, err := redisbus.OpenNative(cfg)
	if err == nil || !strings.Contains(err.Error(), "Namespace") || !strings.Contains(err.Error(), "Partitions -1") {
		t.Errorf("got %v", err)
	}
}
