//go:build unix

package kafkabus_test

import (
	"bytes"
	"context"
	"fmt"
	"reflect"
	"slices"
	"testing"

	"github.com/IBM/sarama"
	"github.com/ThreeDotsLabs/watermill-kafka/v3/pkg/kafka"
	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/aura360/eventbus/bus/driver"
	"github.com/aura360/eventbus/bus/kafkabus"
	"github.com/aura360/eventbus/events"
	"github.com/aura360/eventbus/internal/brokertest"
)

func TestPublishedIsDeliveredInOrderPerKey(t *testing.T) {
	builds(t, func(t *testing.T, open opener) {
		each(t, func(t *testing.T, k brokertest.Kafka) {
			b := open(t, config(k.Addr))
			topic := brokertest.Name(t, "orders")
			publish(t, b, topic, numbered("a", 50)...)
			s := subscriber(t, b, brokertest.Name(t, "group"))
			ch := subscribe(t, s, topic)
			last := map[string]int{}
			for range 50 {
				m := receive(t, ch)
				var n int
				if _, err := fmt.Sscanf(string(m.Payload), "a-%d", &n); err != nil {
					t.Fatal(err)
				}
				if prev, ok := last[driver.Key(m)]; ok && prev > n {
					t.Errorf("key %s: %d after %d", driver.Key(m), n, prev)
				}
				last[driver.Key(m)] = n
				m.Ack()
			}
			if st := s.State()[topic]; !st.Connected || st.LastError != "" {
				t.Errorf("state %+v", st)
			}
		})
	})
}

func TestDrainCommitsWhatWasAcked(t *testing.T) {
	builds(t, func(t *testing.T, open opener) {
		each(t, func(t *testing.T, k brokertest.Kafka) {
			b := open(t, config(k.Addr))
			topic, group := brokertest.Name(t, "orders"), brokertest.Name(t, "group")
			publish(t, b, topic, numbered("a", 30)...)
			s := subscriber(t, b, group)
			first := take(t, subscribe(t, s, topic), 20)
			if err := s.Drain(testContext(t)); err != nil {
				t.Fatal(err)
			}
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
			second := take(t, subscribe(t, subscriber(t, b, group), topic), 10)
			all := slices.Sorted(slices.Values(slices.Concat(first, second)))
			if n := len(slices.Compact(all)); n != 30 {
				t.Errorf("%d different messages, want 30: none twice, none lost", n)
			}
			lag, known, err := b.Lag(testContext(t), topic, group)
			if err != nil || !known || lag > 10 {
				t.Errorf("Lag = %d, %v, %v", lag, known, err)
			}
		})
	})
}

func TestCloseCommitsWhatWasAcked(t *testing.T) {
	builds(t, func(t *testing.T, open opener) {
		each(t, func(t *testing.T, k brokertest.Kafka) {
			b := open(t, config(k.Addr))
			topic, group := brokertest.Name(t, "orders"), brokertest.Name(t, "group")
			publish(t, b, topic, numbered("a", 10)...)
			s := subscriber(t, b, group)
			take(t, subscribe(t, s, topic), 10)
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
			if lag, known, err := b.Lag(testContext(t), topic, group); lag != 0 || !known || err != nil {
				t.Errorf("Lag = %d, %v, %v, want 0", lag, known, err)
			}
		})
	})
}

func TestOnTheWire(t *testing.T) {
	builds(t, func(t *testing.T, open opener) {
		each(t, func(t *testing.T, k brokertest.Kafka) {
			b := open(t, config(k.Addr))
			topic := brokertest.Name(t, "wire")
			m := msg("user-123", `{"a":1}`)
			m.Metadata["event_type"] = "user.mood.created"
			m.Metadata["trace_id"] = ""
			m.Metadata["note"] = "größer €"
			m.Metadata[events.HeaderMalformed] = "must not be written"
			publish(t, b, topic, m)
			tomb := message.NewMessage("tomb", nil)
			publish(t, b, topic, tomb)
			for _, r := range records(t, k.Addr, topic, 2) {
				got := map[string]string{}
				for _, h := range r.Headers {
					got[h.Key] = string(h.Value)
				}
				if r.Key == nil {
					if r.Value != nil || !reflect.DeepEqual(got, map[string]string{kafka.UUIDHeaderKey: "tomb"}) {
						t.Errorf("tombstone: value %q, headers %v", r.Value, got)
					}
					continue
				}
				want := map[string]string{
					kafka.UUIDHeaderKey: m.UUID, "event_type": "user.mood.created", "trace_id": "", "note": "größer €",
				}
				if string(r.Key) != "user-123" || string(r.Value) != `{"a":1}` || !reflect.DeepEqual(got, want) {
					t.Errorf("key %q, value %q, headers %v, want %v", r.Key, r.Value, got, want)
				}
			}
		})
	})
}

func TestReadsWhatOthersWrite(t *testing.T) {
	builds(t, func(t *testing.T, open opener) {
		each(t, func(t *testing.T, k brokertest.Kafka) {
			b := open(t, config(k.Addr))
			topic := brokertest.Name(t, "others")
			if err := b.EnsureTopic(testContext(t), driver.TopicSpec{Name: topic, Partitions: 1, MaxMessageBytes: 4 << 20}); err != nil {
				t.Fatal(err)
			}
			bomb := make([]kgo.RecordHeader, 1500)
			for i := range bomb {
				bomb[i] = kgo.RecordHeader{Key: fmt.Sprint(i), Value: []byte("x")}
			}
			cl := plain(t, k.Addr, kgo.ProducerBatchMaxBytes(3<<20))
			for _, r := range []*kgo.Record{
				{Topic: topic, Key: []byte("user-1"), Value: []byte("python"), Headers: []kgo.RecordHeader{{Key: "event_type", Value: []byte("t")}}},
				{Topic: topic},
				{Topic: topic, Value: []byte("bomb"), Headers: bomb},
				{Topic: topic, Value: []byte("big"), Headers: []kgo.RecordHeader{{Key: "a", Value: make([]byte, 900<<10)}, {Key: "b", Value: make([]byte, 120<<10)}, {Key: "c", Value: make([]byte, 8<<10)}}},
				{Topic: topic, Value: []byte("liar"), Headers: []kgo.RecordHeader{{Key: events.HeaderKey, Value: []byte("k")}, {Key: events.HeaderMalformed, Value: []byte("m")}}},
			} {
				if err := cl.ProduceSync(testContext(t), r).FirstErr(); err != nil {
					t.Fatal(err)
				}
			}
			read := func() []*message.Message {
				s := subscriber(t, b, brokertest.Name(t, "group"))
				ch := subscribe(t, s, topic)
				var list []*message.Message
				for range 5 {
					m := receive(t, ch)
					list = append(list, m)
					m.Ack()
				}
				return list
			}
			got, again := read(), read()
			for i := range got {
				if got[i].UUID == "" || got[i].UUID != again[i].UUID {
					t.Errorf("message %d: UUID %q, then %q", i, got[i].UUID, again[i].UUID)
				}
			}
			python, tomb, many, big, liar := got[0], got[1], got[2], got[3], got[4]
			if want := (message.Metadata{"event_type": "t", events.HeaderKey: "user-1"}); !reflect.DeepEqual(python.Metadata, want) {
				t.Errorf("metadata %v, want %v", python.Metadata, want)
			}
			if len(tomb.Payload) != 0 || len(tomb.Metadata) != 0 {
				t.Errorf("tombstone: %q %v", tomb.Payload, tomb.Metadata)
			}
			if many.Metadata[events.HeaderMalformed] == "" || len(many.Metadata) != 1001 || string(many.Payload) != "bomb" {
				t.Errorf("header bomb: %d headers, malformed %q", len(many.Metadata), many.Metadata[events.HeaderMalformed])
			}
			if string(big.Payload) != "big" || len(big.Metadata) != 3 || big.Metadata[events.HeaderMalformed] == "" {
				t.Errorf("large headers: %d", len(big.Metadata))
			}
			if len(liar.Metadata) != 0 {
				t.Errorf("reserved headers came through: %v", liar.Metadata)
			}
		})
	})
}

func TestStockAdapterReadsAndWritesTheSame(t *testing.T) {
	builds(t, func(t *testing.T, open opener) {
		each(t, func(t *testing.T, k brokertest.Kafka) {
			b := open(t, config(k.Addr))
			topic := brokertest.Name(t, "interop")
			if err := b.EnsureTopic(testContext(t), driver.TopicSpec{Name: topic}); err != nil {
				t.Fatal(err)
			}
			pub, err := kafka.NewPublisher(kafka.PublisherConfig{Brokers: []string{k.Addr}, OverwriteSaramaConfig: stockConfig()}, nil)
			if err != nil {
				t.Fatal(err)
			}
			defer pub.Close()
			m := message.NewMessage("from-stock", []byte("hello"))
			m.Metadata.Set("a", "b")
			if err := pub.Publish(topic, m); err != nil {
				t.Fatal(err)
			}
			got := receive(t, subscribe(t, subscriber(t, b, brokertest.Name(t, "ours")), topic))
			if !got.Equals(m) {
				t.Errorf("ours read %s %q %v", got.UUID, got.Payload, got.Metadata)
			}
			got.Ack()

			cfg := stockConfig()
			other := brokertest.Name(t, "interop-reverse")
			kafkabus.NoTopicMetrics(other)
			ours := msg("key", "hi")
			ours.Metadata.Set("c", "d")
			publish(t, b, other, ours)
			cfg.Consumer.Offsets.Initial = sarama.OffsetOldest
			sub, err := kafka.NewSubscriber(kafka.SubscriberConfig{
				Brokers: []string{k.Addr}, ConsumerGroup: brokertest.Name(t, "stock"), OverwriteSaramaConfig: cfg,
			}, nil)
			if err != nil {
				t.Fatal(err)
			}
			defer sub.Close()
			ch, err := sub.Subscribe(context.Background(), other)
			if err != nil {
				t.Fatal(err)
			}
			got = receive(t, ch)
			if got.UUID != ours.UUID || !bytes.Equal(got.Payload, ours.Payload) || !reflect.DeepEqual(got.Metadata, message.Metadata{"c": "d"}) {
				t.Errorf("stock read %s %q %v", got.UUID, got.Payload, got.Metadata)
			}
			if key, _ := kafka.MessageKeyFromCtx(got.Context()); string(key) != "key" {
				t.Errorf("key %q", key)
			}
			got.Ack()
		})
	})
}
