package redisbus_test

import (
	"context"
	"fmt"
	"os"
	"sync"
	"testing"

	"github.com/ThreeDotsLabs/watermill"
	"github.com/ThreeDotsLabs/watermill-redisstream/pkg/redisstream"
	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/redis/go-redis/v9"

	"github.com/aura360/eventbus/bus/redisbus"
	"github.com/aura360/eventbus/events"
	"github.com/aura360/eventbus/internal/brokertest"
)

// benchMessages are ordinary events: 300 bytes of body, ten headers, 1000 keys.
func benchMessages(n int) []*message.Message {
	body := make([]byte, 300)
	for i := range body {
		body[i] = 'a' + byte(i%26)
	}
	msgs := make([]*message.Message, n)
	for i := range msgs {
		m := message.NewMessage(watermill.NewUUID(), body)
		m.Metadata.Set(events.HeaderKey, fmt.Sprintf("user-%d", i%1000))
		for h := range 9 {
			m.Metadata.Set(fmt.Sprintf("ce_header_%d", h), "a value of some length")
		}
		msgs[i] = m
	}
	return msgs
}

func benchURL(b *testing.B) string {
	b.Helper()
	if url := os.Getenv("MESSAGING_REDIS_URL"); url != "" {
		return url
	}
	return brokertest.StartRedis(b, brokertest.RedisOptions{Fsync: "everysec"}).URL
}

type publishFunc func(ctx context.Context, topic string, msgs ...*message.Message) error

// publishers are the native build, the adapter alone, and go-redis alone with
// the same fields.
func publishers(b *testing.B) map[string]publishFunc {
	b.Helper()
	url := benchURL(b)
	o, err := redis.ParseURL(url)
	if err != nil {
		b.Fatal(err)
	}
	o.MaxRetries = -1
	bare := redis.NewClient(o)
	b.Cleanup(func() { _ = bare.Close() })
	stock, err := redisstream.NewPublisher(redisstream.PublisherConfig{Client: bare}, watermill.NopLogger{})
	if err != nil {
		b.Fatal(err)
	}
	n, err := redisbus.OpenNative(creating(url))
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = n.Close(context.Background()) })
	return map[string]publishFunc{
		"native": n.Publish,
		"stock": func(_ context.Context, topic string, msgs ...*message.Message) error {
			return stock.Publish(topic, msgs...)
		},
		"bare": func(ctx context.Context, topic string, msgs ...*message.Message) error {
			_, err := bare.Pipelined(ctx, func(p redis.Pipeliner) error {
				for _, m := range msgs {
					values, err := redisbus.Marshal(m)
					if err != nil {
						return err
					}
					p.XAdd(ctx, &redis.XAddArgs{Stream: topic, Values: values})
				}
				return nil
			})
			return err
		},
	}
}

func BenchmarkPublishBatch(b *testing.B) {
	pubs := publishers(b)
	for _, size := range []int{1, 100, 1000} {
		msgs := benchMessages(size)
		for _, who := range []string{"bare", "native", "stock"} {
			b.Run(fmt.Sprintf("%d/%s", size, who), func(b *testing.B) {
				b.ReportAllocs()
				for b.Loop() {
					if err := pubs[who](b.Context(), "bench", msgs...); err != nil {
						b.Fatal(err)
					}
				}
				b.ReportMetric(float64(b.N*size)/b.Elapsed().Seconds(), "msg/s")
			})
		}
	}
}

func BenchmarkPublishConcurrently(b *testing.B) {
	pubs := publishers(b)
	for _, goroutines := range []int{2, 8, 64} {
		msgs := benchMessages(goroutines)
		for _, who := range []string{"native", "stock"} {
			b.Run(fmt.Sprintf("%d/%s", goroutines, who), func(b *testing.B) {
				b.ReportAllocs()
				var wg sync.WaitGroup
				for g := range goroutines {
					wg.Go(func() {
						for range b.N/goroutines + 1 {
							if err := pubs[who](b.Context(), "bench", msgs[g]); err != nil {
								b.Error(err)
								return
							}
						}
					})
				}
				wg.Wait()
				b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "msg/s")
			})
		}
	}
}
