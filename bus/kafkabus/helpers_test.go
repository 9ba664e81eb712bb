//go:build unix

package kafkabus_test

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/IBM/sarama"
	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/google/uuid"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/aura360/eventbus/bus/driver"
	"github.com/aura360/eventbus/bus/kafkabus"
	"github.com/aura360/eventbus/events"
	"github.com/aura360/eventbus/internal/brokertest"
)

func TestMain(m *testing.M) {
	brokertest.Main(m)
}

// long bounds waits that end with a signal; it is never waited out.
const long = 60 * time.Second

func testContext(t testing.TB) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), long)
	t.Cleanup(cancel)
	return ctx
}

// config is for addr, with topics created on first use.
func config(addr string) kafkabus.Config {
	return kafkabus.Config{
		BootstrapServers: addr,
		Provision:        driver.Provision{Create: true},
	}
}

// open opens a backend that is closed with the test.
func open(t testing.TB, cfg kafkabus.Config) *kafkabus.Backend {
	t.Helper()
	b, err := kafkabus.Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), long)
		defer cancel()
		if err := b.Close(ctx); err != nil {
			t.Errorf("Close: %v", err)
		}
	})
	return b
}

// backend is all that both builds can do.
type backend interface {
	driver.Backend
	driver.Provisioner
	driver.Auditor
	driver.Inspector
}

// opener opens one build.
type opener func(t testing.TB, cfg kafkabus.Config) backend

// builds runs f with either.
func builds(t *testing.T, f func(t *testing.T, open opener)) {
	t.Helper()
	t.Run("stock", func(t *testing.T) {
		f(t, func(t testing.TB, cfg kafkabus.Config) backend { return open(t, cfg) })
	})
	t.Run("native", func(t *testing.T) {
		f(t, func(t testing.TB, cfg kafkabus.Config) backend { return openNative(t, cfg) })
	})
}

// openNative opens a native backend that is closed with the test.
func openNative(t testing.TB, cfg kafkabus.Config) *kafkabus.Native {
	t.Helper()
	b, err := kafkabus.OpenNative(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), long)
		defer cancel()
		if err := b.Close(ctx); err != nil {
			t.Errorf("Close: %v", err)
		}
	})
	return b
}

// each runs f on every Kafka there is.
func each(t *testing.T, f func(t *testing.T, k brokertest.Kafka)) {
	t.Helper()
	for _, k := range brokertest.Kafkas(t) {
		t.Run(k.Name, func(t *testing.T) { f(t, k) })
	}
}

// msg is a message with a key.
func msg(key, payload string) *message.Message {
	m := message.NewMessage(uuid.NewString(), message.Payload(payload))
	if key != "" {
		m.Metadata[events.HeaderKey] = key
	}
	return m
}

func publish(t testing.TB, b driver.Backend, topic string, msgs ...*message.Message) {
	t.Helper()
	if err := b.Publish(testContext(t), topic, msgs...); err != nil {
		t.Fatal(err)
	}
}

func subscriber(t testing.TB, b driver.Backend, group string) driver.Subscriber {
	t.Helper()
	s, err := b.Subscriber(group, driver.SubscriberOptions{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Errorf("close subscriber: %v", err)
		}
	})
	return s
}

func subscribe(t testing.TB, s driver.Subscriber, topic string) <-chan *message.Message {
	t.Helper()
	ch, err := s.Subscribe(context.Background(), topic)
	if err != nil {
		t.Fatal(err)
	}
	return ch
}

// receive takes one message and does not settle it.
func receive(t testing.TB, ch <-chan *message.Message) *message.Message {
	t.Helper()
	select {
	case m, ok := <-ch:
		if !ok {
			t.Fatal("the channel is closed")
		}
		return m
	case <-time.After(long):
		t.Fatal("no message")
	}
	return nil
}

// take acks n messages and returns their payloads.
func take(t testing.TB, ch <-chan *message.Message, n int) []string {
	t.Helper()
	var got []string
	for range n {
		m := receive(t, ch)
		got = append(got, string(m.Payload))
		m.Ack()
	}
	return got
}

// eventually polls a condition that nothing signals.
func eventually(t testing.TB, what string, f func() bool) {
	t.Helper()
	ctx := testContext(t)
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for !f() {
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatalf("never: %s", what)
		}
	}
}

// plain is a client that knows nothing of Watermill.
func plain(t testing.TB, addr string, opts ...kgo.Opt) *kgo.Client {
	t.Helper()
	cl, err := kgo.NewClient(append([]kgo.Opt{kgo.SeedBrokers(strings.Split(addr, ",")...), kgo.RetryTimeout(10 * time.Second)}, opts...)...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cl.Close)
	return cl
}

// records reads n records of a topic from its start.
func records(t testing.TB, addr, topic string, n int) []*kgo.Record {
	t.Helper()
	cl := plain(t, addr, kgo.ConsumeTopics(topic), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
	var got []*kgo.Record
	for len(got) < n {
		f := cl.PollFetches(testContext(t))
		if err := f.Err0(); err != nil {
			t.Fatal(err)
		}
		got = append(got, f.Records()...)
	}
	return got
}

// logs collects what is logged, at every level.
type logs struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *logs) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(p)
}

func (l *logs) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}

func (l *logs) logger() *slog.Logger {
	return slog.New(slog.NewTextHandler(l, &slog.HandlerOptions{Level: slog.LevelDebug - 4}))
}

func numbered(prefix string, n int) []*message.Message {
	list := make([]*message.Message, n)
	for i := range list {
		list[i] = msg(fmt.Sprintf("key-%d", i%7), fmt.Sprintf("%s-%d", prefix, i))
	}
	return list
}

// stockConfig is a plain sarama configuration, as a Watermill service has it.
func stockConfig() *sarama.Config {
	c := sarama.NewConfig()
	c.MetricRegistry = kafkabus.NoMetrics()
	c.Producer.Return.Successes = true
	return c
}
