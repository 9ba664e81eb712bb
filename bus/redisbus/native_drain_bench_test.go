package redisbus_test

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/ThreeDotsLabs/watermill"
	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/aura360/eventbus/bus/driver"
	"github.com/aura360/eventbus/bus/redisbus"
	"github.com/aura360/eventbus/events"
	"github.com/aura360/eventbus/internal/brokertest"
)

// BenchmarkNativeDrain delivers and acks a backlog of 256 B entries of 1,000 keys
// with metadata as the bus writes it, and waits until the server has the acks.
func BenchmarkNativeDrain(b *testing.B) {
	for _, partitions := range []int{1, 3} {
		b.Run(fmt.Sprintf("partitions=%d", partitions), func(b *testing.B) {
			p := brokertest.StartRedis(b, brokertest.RedisOptions{Fsync: "everysec"})
			n, err := redisbus.OpenNative(redisbus.Config{
				URL: p.URL, Provision: driver.Provision{Create: true, Partitions: partitions},
			})
			if err != nil {
				b.Fatal(err)
			}
			defer n.Close(context.Background())
			payload := []byte(strings.Repeat("x", 256))
			for done := 0; done < b.N; {
				var msgs []*message.Message
				for ; done < b.N && len(msgs) < 1000; done++ {
					m := message.NewMessage(watermill.NewUUID(), payload)
					m.Metadata = message.Metadata{
						events.HeaderKey: fmt.Sprintf("user-%d", done%1000), "ce_id": m.UUID, "event_id": m.UUID,
						"ce_type": "mood.created", "event_type": "mood.created", "ce_source": "service", "content-type": "application/json",
						"ce_specversion": "1.0", "traceparent": "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
						"trace_id": "4bf92f3577b34da6a3ce929d0e0e4736",
					}
					msgs = append(msgs, m)
				}
				if err := n.Publish(b.Context(), "topic", msgs...); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportAllocs()
			b.ResetTimer()
			s, err := n.Subscriber("g", driver.SubscriberOptions{DirectSettle: true})
			if err != nil {
				b.Fatal(err)
			}
			ch, err := s.Subscribe(b.Context(), "topic")
			if err != nil {
				b.Fatal(err)
			}
			for range b.N {
				driver.Settle(<-ch, true)
			}
			if err := s.Drain(b.Context()); err != nil {
				b.Fatal(err)
			}
			b.StopTimer()
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "msg/s")
		})
	}
}
