//go:build unix

package brokertest_test

import (
	"context"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/aura360/eventbus/internal/brokertest"
)

func TestEveryKafkaKeepsARecord(t *testing.T) {
	for _, k := range brokertest.Kafkas(t) {
		t.Run(k.Name, func(t *testing.T) {
			topic := brokertest.Name(t, "orders")
			createTopic(t, k.Addr, topic, 1)
			produce(t, k.Addr, topic, "a", "b")
			if got := consume(t, k.Addr, topic, 2); got != "a b" {
				t.Errorf("consumed %q, want %q", got, "a b")
			}
		})
	}
}

func TestNoKafkaCreatesTopicsByItself(t *testing.T) {
	for _, k := range brokertest.Kafkas(t) {
		t.Run(k.Name, func(t *testing.T) {
			cl := kafkaClient(t, k.Addr, kgo.UnknownTopicRetries(0), kgo.AllowAutoTopicCreation())
			err := cl.ProduceSync(testContext(t), &kgo.Record{
				Topic: brokertest.Name(t, "nobody-made"), Value: []byte("x"),
			}).FirstErr()
			if err == nil {
				t.Error("a record was accepted for a topic that nobody created")
			}
		})
	}
}

func TestEveryRedisKeepsAnEntry(t *testing.T) {
	for _, r := range brokertest.Redises(t) {
		t.Run(r.Name, func(t *testing.T) {
			opts, err := redis.ParseURL(r.URL)
			if err != nil {
				t.Fatal(err)
			}
			c := redis.NewClient(opts)
			defer c.Close()
			stream := brokertest.Name(t, "orders")
			add(t, c, stream, "a")
			if n := c.XLen(testContext(t), stream).Val(); n != 1 {
				t.Errorf("stream has %d entries, want 1", n)
			}
		})
	}
}

func TestNameIsUniqueAndValid(t *testing.T) {
	t.Run("with spaces/and, "+strings.Repeat("more ", 60), func(t *testing.T) {
		a, b := brokertest.Name(t, "topic"), brokertest.Name(t, "topic")
		if a == b {
			t.Errorf("twice the same name %q", a)
		}
		if len(a) > 249 || strings.ContainsAny(a, " /,:{}") {
			t.Errorf("%q is no valid topic name", a)
		}
	})
}

func TestRequiredBrokerIsNotSkipped(t *testing.T) {
	t.Setenv("EVENTBUS_TEST_REQUIRE", "redis, kafka")
	t.Setenv("KAFKA_BOOTSTRAP_SERVERS", "")
	t.Setenv("MESSAGING_REDIS_URL", "")
	t.Setenv("EVENTBUS_TEST_CERTS", "")
	t.Setenv("EVENTBUS_CACHE", t.TempDir())
	t.Setenv("PATH", t.TempDir())
	for name, f := range map[string]func(testing.TB){
		"Kafkas":      func(t testing.TB) { brokertest.Kafkas(t) },
		"RealKafka":   func(t testing.TB) { brokertest.RealKafka(t) },
		"KafkaSecure": func(t testing.TB) { brokertest.KafkaSecure(t) },
		"StartKafka":  func(t testing.TB) { brokertest.StartKafka(t, brokertest.KafkaOptions{}) },
		"Redises":     func(t testing.TB) { brokertest.Redises(t) },
		"RealRedis":   func(t testing.TB) { brokertest.RealRedis(t) },
		"StartRedis":  func(t testing.TB) { brokertest.StartRedis(t, brokertest.RedisOptions{}) },
	} {
		if got := outcome(t, f); got != "failed" {
			t.Errorf("%s without a broker that is required: %s, want failed", name, got)
		}
	}
	t.Setenv("EVENTBUS_TEST_REQUIRE", "")
	for name, f := range map[string]func(testing.TB){
		"RealKafka":  func(t testing.TB) { brokertest.RealKafka(t) },
		"StartKafka": func(t testing.TB) { brokertest.StartKafka(t, brokertest.KafkaOptions{}) },
		"StartRedis": func(t testing.TB) { brokertest.StartRedis(t, brokertest.RedisOptions{}) },
	} {
		if got := outcome(t, f); got != "skipped" {
			t.Errorf("%s without a broker: %s, want skipped", name, got)
		}
	}
}

// recorder is a testing.TB that notes how a test ended instead of ending it.
type recorder struct {
	testing.TB
	result string
}

type ended struct{}

func (r *recorder) Fatal(...any)          { r.end("failed") }
func (r *recorder) Fatalf(string, ...any) { r.end("failed") }
func (r *recorder) Skipf(string, ...any)  { r.end("skipped") }
func (r *recorder) end(result string)     { r.result = result; panic(ended{}) }

func outcome(t *testing.T, f func(testing.TB)) (result string) {
	r := &recorder{TB: t, result: "passed"}
	defer func() {
		if e := recover(); e != nil {
			if _, ok := e.(ended); !ok {
				panic(e)
			}
		}
		result = r.result
	}()
	f(r)
	return
}

func testContext(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 45*time.Second)
	t.Cleanup(cancel)
	return ctx
}

func kafkaClient(t testing.TB, addr string, opts ...kgo.Opt) *kgo.Client {
	t.Helper()
	cl, err := kgo.NewClient(append([]kgo.Opt{kgo.SeedBrokers(strings.Split(addr, ",")...)}, opts...)...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cl.Close)
	return cl
}

func createTopic(t testing.TB, addr, topic string, replicas int16) {
	t.Helper()
	adm := kadm.NewClient(kafkaClient(t, addr))
	if _, err := adm.CreateTopic(testContext(t), 1, replicas, nil, topic); err != nil {
		t.Fatal(err)
	}
	if addr == os.Getenv("KAFKA_BOOTSTRAP_SERVERS") {
		t.Cleanup(func() {
			ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
			defer cancel()
			cl, err := kgo.NewClient(kgo.SeedBrokers(strings.Split(addr, ",")...))
			if err == nil {
				_, _ = kadm.NewClient(cl).DeleteTopics(ctx, topic)
				cl.Close()
			}
		})
	}
}

func produce(t testing.TB, addr, topic string, values ...string) {
	t.Helper()
	cl := kafkaClient(t, addr)
	for _, v := range values {
		r := &kgo.Record{Topic: topic, Value: []byte(v)}
		if err := cl.ProduceSync(testContext(t), r).FirstErr(); err != nil {
			t.Fatalf("produce %q: %v", v, err)
		}
	}
}

func consume(t testing.TB, addr, topic string, n int) string {
	t.Helper()
	cl := kafkaClient(t, addr, kgo.ConsumeTopics(topic), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
	ctx := testContext(t)
	var got []string
	for len(got) < n && ctx.Err() == nil {
		cl.PollFetches(ctx).EachRecord(func(r *kgo.Record) { got = append(got, string(r.Value)) })
	}
	return strings.Join(got, " ")
}

func add(t testing.TB, c redis.UniversalClient, stream, value string) {
	t.Helper()
	err := c.XAdd(testContext(t), &redis.XAddArgs{Stream: stream, Values: []string{"v", value}}).Err()
	if err != nil {
		t.Fatalf("add %q to %s: %v", value, stream, err)
	}
}
