package main

import (
	"context"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/IBM/sarama"
	"github.com/ThreeDotsLabs/watermill"
	"github.com/ThreeDotsLabs/watermill-kafka/v3/pkg/kafka"
	"github.com/ThreeDotsLabs/watermill-redisstream/pkg/redisstream"
	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/ThreeDotsLabs/watermill/pubsub/gochannel"
	"github.com/redis/go-redis/v9"

	"github.com/aura360/eventbus/bus"
	"github.com/aura360/eventbus/events"
	"github.com/aura360/eventbus/router"
)

// publishSlices alternate within a round of publishing.
const publishSlices = 4

// redisComparisons compares on one Redis. Both sides: one client each, XADD
// never sent twice by the client, no trimming.
func redisComparisons(name, url string, o options) ([]comparison, error) {
	b, err := bus.Open(context.Background(), bus.Config{
		Backend: bus.Redis, ServiceName: "bench", Redis: bus.RedisConfig{URL: bus.Secret(url)},
	})
	if err != nil {
		return nil, err
	}
	client := func() (redis.UniversalClient, error) {
		opts, err := redis.ParseURL(url)
		if err != nil {
			return nil, err
		}
		opts.MaxRetries = -1
		return redis.NewClient(opts), nil
	}
	c, err := client()
	if err != nil {
		return nil, err
	}
	if err := c.Del(context.Background(), topic).Err(); err != nil {
		return nil, err
	}
	pub, err := redisstream.NewPublisher(redisstream.PublisherConfig{Client: c}, watermill.NopLogger{})
	if err != nil {
		return nil, err
	}
	if err := fill(b, o.consume); err != nil {
		return nil, err
	}
	open := func(group string) (message.Subscriber, error) {
		c, err := client()
		if err != nil {
			return nil, err
		}
		return redisstream.NewSubscriber(redisstream.SubscriberConfig{
			Client: c, ConsumerGroup: group, OldestId: "0", DisableIndefiniteInitialBlock: true,
			BlockTime: 100 * time.Millisecond,
		}, watermill.NopLogger{})
	}
	return []comparison{
		{name + ", consume", o.consume, 1, consumeBare(open, topic), consumeOurs(b)},
		{name + ", publish one at a time", o.publish, publishSlices, publishBare(pub, topic), publishOurs(b)},
	}, nil
}

// kafkaComparisons compares on one Kafka. Both sides: acks=all, idempotent, one
// request in flight, snappy; oldest, auto-commit of marked offsets every second.
func kafkaComparisons(addr string, o options) ([]comparison, error) {
	b, err := bus.Open(context.Background(), bus.Config{
		Backend: bus.Kafka, ServiceName: "bench", Kafka: bus.KafkaConfig{BootstrapServers: addr},
	})
	if err != nil {
		return nil, err
	}
	if err := fill(b, o.consume); err != nil {
		return nil, err
	}
	produce := sarama.NewConfig()
	produce.Version = sarama.V3_6_0_0
	produce.Producer.Return.Successes = true
	produce.Producer.RequiredAcks = sarama.WaitForAll
	produce.Producer.Idempotent = true
	produce.Net.MaxOpenRequests = 1
	produce.Producer.Compression = sarama.CompressionSnappy
	produce.Producer.Partitioner = sarama.NewConsistentCRCHashPartitioner
	pub, err := kafka.NewPublisher(kafka.PublisherConfig{
		Brokers:   []string{addr},
		Marshaler: keyed{}, OverwriteSaramaConfig: produce,
	}, watermill.NopLogger{})
	if err != nil {
		return nil, err
	}
	open := func(group string) (message.Subscriber, error) {
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
	return []comparison{
		{"kafka, consume", o.consume, 1, consumeBare(open, topic), consumeOurs(b)},
		{"kafka, publish one at a time", o.publish, publishSlices, publishBare(pub, topic), publishOurs(b)},
	}, nil
}

// keyed is the adapter's marshaler with the record's key taken from the
// metadata, so that both sides send the same record.
type keyed struct{ kafka.DefaultMarshaler }

func (k keyed) Marshal(topic string, msg *message.Message) (*sarama.ProducerMessage, error) {
	key := msg.Metadata[events.HeaderKey]
	delete(msg.Metadata, events.HeaderKey)
	out, err := k.DefaultMarshaler.Marshal(topic, msg)
	if err == nil && key != "" {
		out.Key = sarama.StringEncoder(key)
	}
	return out, err
}

// memoryComparisons compares publish to typed handler in memory, with the same
// codec on both sides: GoChannel, blocking until the ack, under Watermill's
// router.
func memoryComparisons(o options) []comparison {
	return []comparison{
		{"memory, publish to typed handler", o.memory, 1, memoryBare, memoryOurs},
	}
}

func memoryBare(ctx context.Context, n int) (time.Duration, error) {
	g := gochannel.NewGoChannel(gochannel.Config{BlockPublishUntilSubscriberAck: true}, watermill.NopLogger{})
	r, err := message.NewRouter(message.RouterConfig{}, watermill.NopLogger{})
	if err != nil {
		return 0, err
	}
	var seen atomic.Int64
	r.AddConsumerHandler("count", topic, g, func(m *message.Message) error {
		_, err := events.Decode[moodNoted](m.Metadata, m.Payload)
		seen.Add(1)
		return err
	})
	ran := make(chan error, 1)
	go func() { ran <- r.Run(ctx) }()
	<-r.Running()
	source := events.SourceOf("bench")
	evs := typed(n)
	start := time.Now()
	for _, e := range evs {
		enc, err := events.Encode(e, events.Base{})
		if err != nil {
			return 0, err
		}
		m := message.NewMessage(enc.Base.ID, enc.Body)
		m.Metadata = enc.Header(source)
		if err := g.Publish(topic, m); err != nil {
			return 0, err
		}
	}
	d := time.Since(start)
	if err := r.Close(); err != nil {
		return 0, err
	}
	if seen.Load() != int64(n) {
		return 0, fmt.Errorf("GoChannel handled %d of %d", seen.Load(), n)
	}
	return d, <-ran
}

func memoryOurs(ctx context.Context, n int) (time.Duration, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	b, err := bus.Open(ctx, bus.Config{Backend: bus.Memory, ServiceName: "bench"})
	if err != nil {
		return 0, err
	}
	r, err := router.New(b, "count")
	if err != nil {
		return 0, err
	}
	var seen atomic.Int64
	var end time.Time
	router.Handle(r, "count", func(context.Context, moodNoted) error {
		if seen.Add(1) == int64(n) {
			end = time.Now()
			cancel()
		}
		return nil
	})
	ran := make(chan error, 1)
	go func() { ran <- r.Run(ctx) }()
	<-r.Running()
	evs := typed(n)
	start := time.Now()
	for _, e := range evs {
		if err := b.Publish(context.WithoutCancel(ctx), e); err != nil {
			return 0, err
		}
	}
	if err := <-ran; err != nil {
		return 0, err
	}
	if seen.Load() != int64(n) {
		return 0, fmt.Errorf("handled %d of %d", seen.Load(), n)
	}
	return end.Sub(start), b.Close()
}

func typed(n int) []events.Event {
	evs := make([]events.Event, n)
	for i := range evs {
		evs[i] = event(i)
	}
	return evs
}
