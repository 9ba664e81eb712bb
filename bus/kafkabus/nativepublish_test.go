//go:build unix

package kafkabus_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/aura360/eventbus/bus/driver"
	"github.com/aura360/eventbus/internal/brokertest"
)

// values are the payloads of a topic's first n records.
func values(t testing.TB, addr, topic string, n int) []string {
	t.Helper()
	var got []string
	for _, r := range records(t, addr, topic, n) {
		got = append(got, string(r.Value))
	}
	return got
}

func TestNativeWritesWhatTheStockBuildWrites(t *testing.T) {
	each(t, func(t *testing.T, k brokertest.Kafka) {
		one, two := brokertest.Name(t, "stock"), brokertest.Name(t, "native")
		m := msg("user-123", `{"a":1}`)
		m.Metadata["event_type"], m.Metadata["trace_id"], m.Metadata["note"] = "user.mood.created", "", "größer €"
		tomb := msg("user-1", "")
		tomb.Payload = nil
		empty := msg("user-2", "")
		publish(t, open(t, config(k.Addr)), one, m, tomb, empty)
		publish(t, openNative(t, config(k.Addr)), two, m, tomb, empty)
		describe := func(topic string) []string {
			var list []string
			for _, r := range records(t, k.Addr, topic, 3) {
				var headers []string
				for _, h := range r.Headers {
					headers = append(headers, h.Key+"="+string(h.Value))
				}
				slices.Sort(headers)
				list = append(list, fmt.Sprintf("%d %s %q %v %s", r.Partition, r.Key, r.Value, r.Value == nil, headers))
			}
			slices.Sort(list)
			return list
		}
		if a, b := describe(one), describe(two); !slices.Equal(a, b) {
			t.Errorf("stock %q\nnative %q", a, b)
		}
	})
}

func TestNativeBatchGoesOutInOneRequest(t *testing.T) {
	k := brokertest.FakeKafka(t)
	b := openNative(t, config(k.Addr))
	publish(t, b, "topic", msg("k", "first"))
	var requests, partitions atomic.Int64
	k.Fake.ControlKey(int16(kmsg.Produce), func(req kmsg.Request) (kmsg.Response, error, bool) {
		k.Fake.KeepControl()
		requests.Add(1)
		for _, t := range req.(*kmsg.ProduceRequest).Topics {
			partitions.Add(int64(len(t.Partitions)))
		}
		return nil, nil, false
	})
	for range 10 {
		publish(t, b, "topic", numbered("x", 1000)...)
	}
	t.Logf("10 batches of 1000: %d requests for %d partitions", requests.Load(), partitions.Load())
	if n := partitions.Load(); n != 30 {
		t.Errorf("%d batches, want one per partition", n)
	}
}

// Later messages of a failed one's key are not confirmed, whatever the failure.
func TestNativeOutcomes(t *testing.T) {
	for _, c := range []struct {
		code      *kerr.Error
		want      driver.Outcome
		permanent bool
	}{
		{kerr.MessageTooLarge, driver.Rejected, true},
		{kerr.InvalidRecord, driver.Rejected, true},
		{kerr.TopicAuthorizationFailed, driver.Rejected, false},
		{kerr.NotEnoughReplicasAfterAppend, driver.Unknown, false},
		{kerr.RequestTimedOut, driver.Unknown, false},
	} {
		t.Run(c.code.Message, func(t *testing.T) {
			t.Parallel()
			k := brokertest.FakeKafka(t)
			cfg := config(k.Addr)
			cfg.DeliveryTimeout = 2 * time.Second
			b := openNative(t, cfg)
			publish(t, b, "topic", msg("key", "first"))
			failProduce(k, c.code.Code)
			got, err := outcomes(testContext(t), b, "topic", "a", "b", "c")
			if slices.Contains(got, driver.Confirmed) || got[0] != c.want {
				t.Errorf("outcomes %v, want %v: %v", got, c.want, err)
			}
			if errors.Is(driver.Results(err, 3)[0].Err, driver.ErrPermanent) != c.permanent {
				t.Errorf("permanent is not %v: %v", c.permanent, err)
			}
		})
	}
}

// A topic may take less than the client's batches.
func TestNativeBatchTooLargeIsSentInPieces(t *testing.T) {
	each(t, func(t *testing.T, k brokertest.Kafka) {
		cfg := config(k.Addr)
		cfg.CompressionType = "none"
		b := openNative(t, cfg)
		topic := brokertest.Name(t, "small")
		if err := b.EnsureTopic(testContext(t), driver.TopicSpec{Name: topic, Partitions: 1, MaxMessageBytes: 2000}); err != nil {
			t.Fatal(err)
		}
		publish(t, b, topic, msg("key", "first"))
		var list []string
		for i := range 50 {
			list = append(list, fmt.Sprintf("%0200d", i))
		}
		if got, err := outcomes(testContext(t), b, topic, list...); slices.Contains(got, driver.Rejected) || err != nil {
			t.Fatal(got, err)
		}
		if got := values(t, k.Addr, topic, 51)[1:]; !slices.Equal(got, list) {
			t.Errorf("the topic holds %q", got)
		}
		// One that is too large by itself is, and what comes behind it waits.
		got, err := outcomes(testContext(t), b, topic, "a", strings.Repeat("x", 3000), "b")
		if !slices.Equal(got, []driver.Outcome{driver.Confirmed, driver.Rejected, driver.Rejected}) || !errors.Is(err, driver.ErrPermanent) {
			t.Errorf("%v: %v", got, err)
		}
		if r := driver.Results(err, 3)[2]; !errors.Is(r.Err, driver.ErrNotSent) {
			t.Errorf("the last: %v", r.Err)
		}
	})
}

func TestNativeCallerLeaves(t *testing.T) {
	k := brokertest.FakeKafka(t)
	b := openNative(t, config(k.Addr))
	if err := b.EnsureTopic(testContext(t), driver.TopicSpec{Name: "topic", Partitions: 1}); err != nil {
		t.Fatal(err)
	}
	publish(t, b, "topic", msg("key", "first"))
	reached, release := make(chan struct{}), make(chan struct{})
	var once sync.Once
	k.Fake.ControlKey(int16(kmsg.Produce), func(kmsg.Request) (kmsg.Response, error, bool) {
		once.Do(func() { close(reached) })
		k.Fake.SleepControl(func() { <-release })
		return nil, nil, false
	})
	cause := errors.New("the caller left")
	ctx, cancel := context.WithCancelCause(testContext(t))
	payload := []byte("in flight")
	a := msg("key", "")
	a.Payload = payload
	type result struct {
		outcomes []driver.Outcome
		err      error
	}
	queued, stays := make(chan result, 1), make(chan error, 1)
	go func() {
		<-reached
		go func() { stays <- b.Publish(testContext(t), "topic", msg("key", "stays")) }()
		go func() {
			got, err := outcomes(ctx, b, "topic", "queued", "queued too")
			queued <- result{got, err}
		}()
		// Both calls are behind the one in flight, or will be: either is well.
		cancel(cause)
	}()
	err := b.Publish(ctx, "topic", a)
	copy(payload, "OVERWRITE") // the caller's buffer is its own again
	if r := driver.Results(err, 1)[0]; r.Outcome != driver.Unknown || !errors.Is(r.Err, cause) {
		t.Errorf("in flight: %v", err)
	}
	r := <-queued
	if !slices.Equal(r.outcomes, []driver.Outcome{driver.Rejected, driver.Rejected}) {
		t.Errorf("queued: %v: %v", r.outcomes, r.err)
	}
	close(release)
	if err := <-stays; err != nil {
		t.Errorf("who stayed: %v", err)
	}
	publish(t, b, "topic", msg("key", "last"))
	if got := values(t, k.Addr, "topic", 4); !slices.Equal(got, []string{"first", "in flight", "stays", "last"}) {
		t.Errorf("the topic holds %q", got)
	}
}

// Who leaves while the broker is away is told that nothing was sent, and nothing
// is sent when it comes back; who stays is served then.
func TestNativeAbandonedIsNotSentLater(t *testing.T) {
	c := brokertest.StartKafka(t, brokertest.KafkaOptions{Proxied: true})
	b := openNative(t, config(c.Addr))
	if err := b.EnsureTopic(testContext(t), driver.TopicSpec{Name: "topic", Partitions: 1}); err != nil {
		t.Fatal(err)
	}
	publish(t, b, "topic", msg("key", "first"))
	c.Proxies[0].Cut()
	stays := make(chan error, 1)
	var wg sync.WaitGroup
	var rejected atomic.Int64
	for i := range 4 {
		wg.Go(func() {
			ctx, cancel := context.WithTimeout(testContext(t), time.Duration(300+100*i)*time.Millisecond)
			defer cancel()
			got, err := outcomes(ctx, b, "topic", fmt.Sprint("left ", i), fmt.Sprint("left too ", i))
			if slices.Contains(got, driver.Confirmed) || !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("%v: %v", got, err)
			}
			if got[0] == driver.Rejected && got[1] == driver.Rejected {
				rejected.Add(1)
			}
		})
		if i == 1 {
			go func() { stays <- b.Publish(testContext(t), "topic", msg("key", "stays")) }()
		}
	}
	wg.Wait()
	// The first may have been written to the connection as it was cut.
	if n := rejected.Load(); n < 3 {
		t.Errorf("%d of 4 were told that nothing was sent", n)
	}
	c.Proxies[0].Restore()
	if err := <-stays; err != nil {
		t.Errorf("who stayed: %v", err)
	}
	publish(t, b, "topic", msg("key", "last"))
	if got := values(t, c.Addr, "topic", 3); !slices.Equal(got, []string{"first", "stays", "last"}) {
		t.Errorf("the topic holds %q", got)
	}
}

// What was sent and not answered is unknown, and not sent again.
func TestNativeBlackHole(t *testing.T) {
	c := brokertest.StartKafka(t, brokertest.KafkaOptions{Proxied: true})
	b := openNative(t, config(c.Addr))
	publish(t, b, "topic", msg("key", "before"))
	c.Proxies[0].BlackHole()
	ctx, cancel := context.WithTimeout(testContext(t), 500*time.Millisecond)
	defer cancel()
	start := time.Now()
	if got, err := outcomes(ctx, b, "topic", "a", "b"); !slices.Equal(got, []driver.Outcome{driver.Unknown, driver.Unknown}) {
		t.Errorf("%v: %v", got, err)
	}
	if err := b.Ping(ctx); !errors.Is(err, driver.ErrUnavailable) {
		t.Errorf("Ping: %v", err)
	}
	if d := time.Since(start); d > 5*time.Second {
		t.Errorf("took %v with a context of 500 ms", d)
	}
	c.Proxies[0].Restore()
	eventually(t, "published again", func() bool {
		ctx, cancel := context.WithTimeout(testContext(t), 2*time.Second)
		defer cancel()
		return b.Publish(ctx, "topic", msg("key", "after")) == nil
	})
	got := values(t, c.Addr, "topic", 2)
	if slices.Contains(got, "a") || slices.Contains(got, "b") {
		t.Errorf("the topic holds %q", got)
	}
}

func TestNativeUnreachableBrokerRejects(t *testing.T) {
	cfg := config(fmt.Sprintf("127.0.0.1:%d", brokertest.Port(t)))
	cfg.ConnectTimeout = 300 * time.Millisecond
	b := openNative(t, cfg)
	got, err := outcomes(testContext(t), b, "topic", "a", "b")
	if !slices.Equal(got, []driver.Outcome{driver.Rejected, driver.Rejected}) || !errors.Is(err, driver.ErrUnavailable) {
		t.Errorf("%v: %v", got, err)
	}
	if err := b.Ping(testContext(t)); !errors.Is(err, driver.ErrUnavailable) {
		t.Errorf("Ping: %v", err)
	}
}

func TestNativeDeletedTopicIsCreatedAgain(t *testing.T) {
	each(t, func(t *testing.T, k brokertest.Kafka) {
		b := openNative(t, config(k.Addr))
		topic := brokertest.Name(t, "deleted")
		publish(t, b, topic, numbered("x", 10)...)
		adm := kadm.NewClient(plain(t, k.Addr))
		if _, err := adm.DeleteTopics(testContext(t), topic); err != nil {
			t.Fatal(err)
		}
		eventually(t, "published again", func() bool {
			err := b.Publish(testContext(t), topic, msg("k", "y"))
			if err != nil {
				t.Log(err)
			}
			return err == nil
		})
	})
}

func TestNativeFindsAddedPartitions(t *testing.T) {
	k := brokertest.FakeKafka(t)
	b := openNative(t, config(k.Addr))
	if err := b.EnsureTopic(testContext(t), driver.TopicSpec{Name: "topic", Partitions: 1}); err != nil {
		t.Fatal(err)
	}
	publish(t, b, "topic", numbered("x", 10)...)
	if _, err := kadm.NewClient(plain(t, k.Addr)).UpdatePartitions(testContext(t), 3, "topic"); err != nil {
		t.Fatal(err)
	}
	b.RefreshMetadata()
	eventually(t, "all partitions are used", func() bool {
		publish(t, b, "topic", numbered("x", 10)...)
		ends, err := kadm.NewClient(plain(t, k.Addr)).ListEndOffsets(testContext(t), "topic")
		used := 0
		ends.Each(func(o kadm.ListedOffset) {
			if o.Offset > 0 {
				used++
			}
		})
		return err == nil && used == 3
	})
}
