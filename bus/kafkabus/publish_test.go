//go:build unix

package kafkabus_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/aura360/eventbus/bus/driver"
	"github.com/aura360/eventbus/bus/kafkabus"
	"github.com/aura360/eventbus/internal/brokertest"
)

// outcomes publishes and returns what became of each message.
func outcomes(ctx context.Context, b driver.Backend, topic string, payloads ...string) ([]driver.Outcome, error) {
	msgs := numbered("x", len(payloads))
	for i, p := range payloads {
		msgs[i] = msg("key", p)
	}
	err := b.Publish(ctx, topic, msgs...)
	var list []driver.Outcome
	for _, r := range driver.Results(err, len(msgs)) {
		list = append(list, r.Outcome)
	}
	return list, err
}

// failProduce makes kfake answer produce requests of a topic with code.
func failProduce(k brokertest.Kafka, code int16) {
	k.Fake.ControlKey(int16(kmsg.Produce), func(req kmsg.Request) (kmsg.Response, error, bool) {
		k.Fake.KeepControl()
		p := req.(*kmsg.ProduceRequest)
		resp := p.ResponseKind().(*kmsg.ProduceResponse)
		for _, t := range p.Topics {
			rt := kmsg.NewProduceResponseTopic()
			rt.Topic, rt.TopicID = t.Topic, t.TopicID
			for _, part := range t.Partitions {
				rp := kmsg.NewProduceResponseTopicPartition()
				rp.Partition, rp.ErrorCode = part.Partition, code
				rt.Partitions = append(rt.Partitions, rp)
			}
			resp.Topics = append(resp.Topics, rt)
		}
		return resp, nil, true
	})
}

func TestABatchStopsAtTheFirstFailure(t *testing.T) {
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
			cfg.DeliveryTimeout = 5 * time.Second
			b := open(t, cfg)
			publish(t, b, "topic", msg("key", "first"))
			failProduce(k, c.code.Code)
			got, err := outcomes(testContext(t), b, "topic", "a", "b", "c")
			if want := []driver.Outcome{c.want, driver.Rejected, driver.Rejected}; !slices.Equal(got, want) {
				t.Errorf("outcomes %v, want %v: %v", got, want, err)
			}
			if errors.Is(driver.Results(err, 3)[0].Err, driver.ErrPermanent) != c.permanent {
				t.Errorf("permanent is not %v: %v", c.permanent, err)
			}
			if !errors.Is(driver.Results(err, 3)[1].Err, driver.ErrNotSent) {
				t.Errorf("the second: %v", err)
			}
		})
	}
}

func TestUnansweredIsUnknownAndTheRestNotSent(t *testing.T) {
	k := brokertest.FakeKafka(t)
	b := open(t, config(k.Addr))
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
	go func() {
		<-reached
		cancel(cause)
	}()
	payload := []byte("in flight")
	a, c := msg("key", ""), msg("key", "not sent")
	a.Payload = payload
	err := b.Publish(ctx, "topic", a, c)
	copy(payload, "OVERWRITE") // the caller's buffer is its own again
	r := driver.Results(err, 2)
	if r[0].Outcome != driver.Unknown || r[1].Outcome != driver.Rejected || !errors.Is(r[0].Err, cause) || !errors.Is(r[1].Err, driver.ErrNotSent) {
		t.Errorf("%v, %v: %v", r[0].Outcome, r[1].Outcome, err)
	}
	close(release)
	publish(t, b, "topic", msg("key", "last"))
	var got []string
	for _, r := range records(t, k.Addr, "topic", 3) {
		got = append(got, string(r.Value))
	}
	if want := "[first in flight last]"; fmt.Sprint(got) != want {
		t.Errorf("topic holds %v, want %s", got, want)
	}
}

func TestAnUnreachableBrokerRejects(t *testing.T) {
	cfg := config(fmt.Sprintf("127.0.0.1:%d", brokertest.Port(t)))
	cfg.ConnectTimeout = 300 * time.Millisecond
	b := open(t, cfg)
	got, err := outcomes(testContext(t), b, "topic", "a", "b")
	if !slices.Equal(got, []driver.Outcome{driver.Rejected, driver.Rejected}) || !errors.Is(err, driver.ErrUnavailable) {
		t.Errorf("%v: %v", got, err)
	}
	if err := b.Ping(testContext(t)); !errors.Is(err, driver.ErrUnavailable) {
		t.Errorf("Ping: %v", err)
	}
}

// Once connected, too: what no produce request left for cannot appear.
func TestALostBrokerRejectsAfterTheFirstAndComesBack(t *testing.T) {
	c := brokertest.StartKafka(t, brokertest.KafkaOptions{Proxied: true})
	cfg := config(c.Addr)
	cfg.DeliveryTimeout = 3 * time.Second
	b := open(t, cfg)
	publish(t, b, "topic", msg("key", "before"))
	c.Proxies[0].Cut()
	rejected := false
	for range 10 {
		got, err := outcomes(testContext(t), b, "topic", "lost")
		if got[0] == driver.Confirmed {
			t.Fatal("confirmed without a broker")
		}
		if got[0] == driver.Rejected && errors.Is(err, driver.ErrUnavailable) {
			rejected = true
			break
		}
	}
	if !rejected {
		t.Error("never rejected as unavailable")
	}
	c.Proxies[0].Restore()
	eventually(t, "published again", func() bool {
		return b.Publish(testContext(t), "topic", msg("key", "after")) == nil
	})
}

func TestBlackHoleIsBoundedByTheContext(t *testing.T) {
	c := brokertest.StartKafka(t, brokertest.KafkaOptions{Proxied: true})
	b, err := kafkabus.Open(config(c.Addr))
	if err != nil {
		t.Fatal(err)
	}
	publish(t, b, "topic", msg("key", "before"))
	c.Proxies[0].BlackHole()
	bounded := func(what string, f func(ctx context.Context)) {
		ctx, cancel := context.WithTimeout(testContext(t), 500*time.Millisecond)
		defer cancel()
		start := time.Now()
		f(ctx)
		if d := time.Since(start); d > 5*time.Second {
			t.Errorf("%s took %v with a context of 500 ms", what, d)
		}
	}
	bounded("Publish", func(ctx context.Context) {
		if got, err := outcomes(ctx, b, "topic", "a", "b"); !slices.Equal(got, []driver.Outcome{driver.Unknown, driver.Rejected}) {
			t.Errorf("%v: %v", got, err)
		}
	})
	bounded("Ping", func(ctx context.Context) {
		if err := b.Ping(ctx); !errors.Is(err, driver.ErrUnavailable) || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("Ping: %v", err)
		}
	})
	bounded("Close", func(ctx context.Context) {
		if err := b.Close(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("Close: %v", err)
		}
	})
	if err := b.Close(testContext(t)); err != nil {
		t.Errorf("the second Close: %v", err)
	}
}

func TestLargeMessages(t *testing.T) {
	k := brokertest.RealKafka(t)
	b := open(t, config(k.Addr))
	topic := brokertest.Name(t, "large")
	if err := b.EnsureTopic(testContext(t), driver.TopicSpec{Name: topic, Partitions: 1, MaxMessageBytes: 34 << 20}); err != nil {
		t.Fatal(err)
	}
	body := bytes.Repeat([]byte("0123456789abcdef"), 2<<20) // 32 MiB
	big := msg("key", "")
	big.Payload = body
	publish(t, b, topic, msg("key", "before"), big, msg("key", "after"))
	ch := subscribe(t, subscriber(t, b, brokertest.Name(t, "g")), topic)
	for _, want := range []string{"before", string(body), "after"} {
		m := receive(t, ch)
		if string(m.Payload) != want {
			t.Fatalf("%d bytes, want %d", len(m.Payload), len(want))
		}
		m.Ack()
	}
	// What the topic does not take, and what this client does not.
	small := brokertest.Name(t, "small")
	incompressible := make([]byte, 2<<20)
	for i := range incompressible {
		incompressible[i] = byte(i * i >> 3 * 7)
	}
	cfg := config(k.Addr)
	cfg.CompressionType, cfg.MaxMessageBytes = "none", 3<<20
	c := open(t, cfg)
	for _, payload := range [][]byte{incompressible, make([]byte, 4<<20)} {
		m := msg("key", "")
		m.Payload = payload
		err := c.Publish(testContext(t), small, m)
		if r := driver.Results(err, 1)[0]; r.Outcome != driver.Rejected || !errors.Is(err, driver.ErrPermanent) {
			t.Errorf("%d bytes: %v", len(payload), err)
		}
	}
}

// Concurrent publishes share batches, which must not grow beyond what a topic
// takes, whatever MaxMessageBytes says.
func TestConcurrentMessagesDoNotMakeABatchTooLarge(t *testing.T) {
	each(t, func(t *testing.T, k brokertest.Kafka) {
		cfg := config(k.Addr)
		cfg.CompressionType = "none"
		b := open(t, cfg)
		topic := brokertest.Name(t, "batch")
		var wg sync.WaitGroup
		for range 32 {
			wg.Go(func() {
				m := msg("key", "")
				m.Payload = make([]byte, 300<<10)
				if err := b.Publish(testContext(t), topic, m); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
	})
}

func TestEveryCompressionIsRead(t *testing.T) {
	each(t, func(t *testing.T, k brokertest.Kafka) {
		topic := brokertest.Name(t, "codec")
		codecs := []string{"none", "gzip", "snappy", "lz4", "zstd"}
		for _, codec := range codecs {
			cfg := config(k.Addr)
			cfg.CompressionType = codec
			publish(t, open(t, cfg), topic, msg("key", codec))
		}
		var got []string
		for _, r := range records(t, k.Addr, topic, len(codecs)) {
			got = append(got, string(r.Value))
		}
		if fmt.Sprint(got) != fmt.Sprint(codecs) {
			t.Errorf("read %v", got)
		}
	})
}

func TestPublishChecksItsArguments(t *testing.T) {
	b := open(t, config("127.0.0.1:1"))
	if err := b.Publish(testContext(t), "topic"); err != nil {
		t.Errorf("no messages: %v", err)
	}
	ctx, cancel := context.WithCancel(testContext(t))
	cancel()
	if got, err := outcomes(ctx, b, "topic", "a"); got[0] != driver.Rejected {
		t.Errorf("a context that ended before: %v", err)
	}
}
