package main

import (
	"context"
	"errors"
	"time"

	"github.com/IBM/sarama"
	"github.com/ThreeDotsLabs/watermill"
	"github.com/ThreeDotsLabs/watermill-kafka/v3/pkg/kafka"
	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/aura360/eventbus/bus"
	"github.com/aura360/eventbus/events"
)

// kafkaContests are the works of the native build on one Kafka.
func kafkaContests(name, addr string, o options) ([]contest, []latency, error) {
	ctx := context.Background()
	cfg := bus.Config{
		Backend: bus.Kafka, Adapter: bus.Native, ServiceName: "bench", Kafka: bus.KafkaConfig{BootstrapServers: addr},
	}
	b, err := bus.Open(ctx, cfg)
	if err != nil {
		return nil, nil, err
	}
	cfg.TopicPartitions = 1
	one, err := bus.Open(ctx, cfg)
	if err != nil {
		return nil, nil, err
	}
	if err := fillWith(o.drain, func(i int) error { return b.Publish(ctx, event(i)) }); err != nil {
		return nil, nil, err
	}
	if err := fillWith(o.drain, func(i int) error { return one.Publish(ctx, moodOne(event(i))) }); err != nil {
		return nil, nil, err
	}
	stock, err := stockKafkaPublisher(addr)
	if err != nil {
		return nil, nil, err
	}
	bare, err := kgo.NewClient(kgo.SeedBrokers(addr), kgo.RequiredAcks(kgo.AllISRAcks()), kgo.ProducerLinger(0),
		kgo.ProducerBatchCompression(kgo.SnappyCompression()))
	if err != nil {
		return nil, nil, err
	}
	publishBatch := func(ctx context.Context, evs []moodNoted) error {
		recs := make([]*kgo.Record, len(evs))
		for i, e := range evs {
			m, err := messageOf(e)
			if err != nil {
				return err
			}
			recs[i] = &kgo.Record{Topic: topic, Key: []byte(m.Metadata[events.HeaderKey]), Value: m.Payload}
			recs[i].Headers = append(recs[i].Headers, kgo.RecordHeader{Key: kafka.UUIDHeaderKey, Value: []byte(m.UUID)})
			for k, v := range m.Metadata {
				if k != events.HeaderKey {
					recs[i].Headers = append(recs[i].Headers, kgo.RecordHeader{Key: k, Value: []byte(v)})
				}
			}
		}
		return bare.ProduceSync(ctx, recs...).FirstErr()
	}
	stockBatch, stockOne := stockBatches(stock, topic), stockOne(stock, topic)
	open := stockKafkaSubscriber(addr)
	contests := []contest{
		// Draining first: publishing makes the topics longer.
		{
			name: name + ", drain, one partition", n: o.drain, rounds: o.drainRounds, bare: drainKafka[moodOne](addr, topicOne),
			stock: drainStock[moodOne](open, topicOne, 0), ours: drainOurs[moodOne](one, 0), atLeast: 2, aim: 3, bareAim: 0.5,
		},
		{
			name: name + ", drain, three partitions", n: o.drain, rounds: o.drainRounds, bare: drainKafka[moodNoted](addr, topic),
			stock: drainStock[moodNoted](open, topic, 0), ours: drainOurs[moodNoted](b, 0), atLeast: 2, aim: 3, bareAim: 0.5,
		},
		{
			name: name + ", handler of 10 ms, one partition", n: o.slow, rounds: o.drainRounds, stockPart: 64,
			stock: drainStock[moodOne](open, topicOne, 10*time.Millisecond), ours: drainOurs[moodOne](one, 10*time.Millisecond), atLeast: 50, aim: 200,
		},
		{
			name: name + ", publish batches of 100", n: o.batch, rounds: o.rounds, stockPart: 16, bare: inBatches(100, publishBatch),
			stock: inBatches(100, stockBatch), ours: inBatches(100, ourBatches(b)), atLeast: 8, aim: 20, bareLeast: 0.7, bareAim: 0.9,
		},
		{
			name: name + ", publish batches of 1000", n: o.batch, rounds: o.rounds, stockPart: 16, bare: inBatches(1000, publishBatch),
			stock: inBatches(1000, stockBatch), ours: inBatches(1000, ourBatches(b)), atLeast: 8, aim: 20, bareLeast: 0.7, bareAim: 0.9,
		},
		{
			name: name + ", publish one at a time from 64 goroutines", n: o.batch, rounds: o.rounds, stockPart: 2,
			stock: fromMany(stockOne), ours: fromMany(ourOne(b)), atLeast: 1.3, aim: 2,
		},
	}
	latencies := []latency{
		{name: name + ", publish one at a time from one goroutine", n: o.publish, stock: stockOne, ours: ourOne(b)},
	}
	return contests, latencies, nil
}

// drainKafka drains with franz-go alone: what is polled is handled, then marked.
func drainKafka[T events.Event](addr, topic string) side {
	return func(ctx context.Context, m *meter, n int) error {
		ctx, cancel := context.WithTimeout(ctx, patience)
		defer cancel()
		c, err := kgo.NewClient(kgo.SeedBrokers(addr), kgo.ConsumeTopics(topic), kgo.ConsumerGroup(newGroup()),
			kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()), kgo.AutoCommitMarks())
		if err != nil {
			return err
		}
		defer c.Close()
		d := drained{m: m, n: n, done: cancel}
		for d.seen.Load() < int64(n) {
			fetches := c.PollFetches(ctx)
			if err := fetches.Err(); err != nil {
				return err
			}
			var failed error
			fetches.EachRecord(func(r *kgo.Record) {
				failed = errors.Join(failed, handlePlain[T](r.Value))
				d.one()
				c.MarkCommitRecords(r)
			})
			if failed != nil {
				return failed
			}
		}
		return d.complete()
	}
}

// stockKafkaPublisher is the stock publisher: acks=all, idempotent, one request
// in flight, snappy.
func stockKafkaPublisher(addr string) (message.Publisher, error) {
	c := sarama.NewConfig()
	c.Version = sarama.V3_6_0_0
	c.Producer.Return.Successes = true
	c.Producer.RequiredAcks = sarama.WaitForAll
	c.Producer.Idempotent = true
	c.Net.MaxOpenRequests = 1
	c.Producer.Compression = sarama.CompressionSnappy
	c.Producer.Partitioner = sarama.NewConsistentCRCHashPartitioner
	return kafka.NewPublisher(kafka.PublisherConfig{
		Brokers: []string{addr}, Marshaler: keyed{}, OverwriteSaramaConfig: c,
	}, watermill.NopLogger{})
}

// stockKafkaSubscriber is the stock subscriber: oldest, auto-commit of marked
// offsets every second.
func stockKafkaSubscriber(addr string) func(group string) (message.Subscriber, error) {
	return func(group string) (message.Subscriber, error) {
		c := sarama.NewConfig()
		c.Version = sarama.V3_6_0_0
		c.Consumer.Return.Errors = true
		c.Consumer.Offsets.Initial = sarama.OffsetOldest
		c.Consumer.MaxWaitTime = 100 * time.Millisecond
		c.Consumer.Group.Rebalance.GroupStrategies = []sarama.BalanceStrategy{sarama.NewBalanceStrategyCooperativeSticky()}
		return kafka.NewSubscriber(kafka.SubscriberConfig{
			Brokers: []string{addr}, ConsumerGroup: group, Unmarshaler: kafka.DefaultMarshaler{}, OverwriteSaramaConfig: c,
		}, watermill.NopLogger{})
	}
}
