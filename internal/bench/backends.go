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

// publishSlices alternate within a round of publishing. A slice takes some tens
// of milliseconds.
const publishSlices = 16

// consumeSlices alternate within a round of consuming from Redis; each drains
// with a group of its own. On Kafka, where joining takes seconds, a round is one.
const consumeSlices = 4

// redisComparisons compares on one Redis. Both sides: one client each, XADD
// never sent twice by the client, no trimming.
func redisComparisons(name, url string, o options) ([]comparison, error) {
	opts, err := redis.ParseURL(url)
	if err != nil {
		return nil, err
	}
	b, err := bus.Open(context.Background(), bus.Config{
		Backend: bus.Redis, Adapter: bus.Watermill, ServiceName: "bench", Redis: bus.RedisConfig{URL: bus.Secret(url)},
	})
	if err != nil {
		return nil, err
	}
	client := func() redis.UniversalClient {
		own := *opts // go-redis writes its defaults into it
		own.MaxRetries = -1
		return redis.NewClient(&own)
	}
	c := client()
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
		return redisstream.NewSubscriber(redisstream.SubscriberConfig{
			Client: client(), ConsumerGroup: group, OldestId: "0", DisableIndefiniteInitialBlock: true,
			BlockTime: 100 * time.Millisecond,
		}, watermill.NopLogger{})
	}
	return atBroker(opts.Addr, name, o, consumeSlices, consumeBare(open, topic), consumeOurs(b), publishBare(pub, topic), publishOurs(b)), nil
}

// kafkaComparisons compares on one Kafka. Both sides: acks=all, idempotent, one
// request in flight, snappy; oldest, auto-commit of marked offsets every second.
func kafkaComparisons(addr string, o options) ([]comparison, error) {
	b, err := bus.Open(context.Background(), bus.Config{
		Backend: bus.Kafka, Adapter: bus.Watermill, ServiceName: "bench", Kafka: bus.KafkaConfig{BootstrapServers: addr},
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
	return atBroker(addr, "kafka", o, 1, consumeBare(open, topic), consumeOurs(b), publishBare(pub, topic), publishOurs(b)), nil
}

// atBroker compares consuming and publishing at the broker at addr. When it is
// on this machine they run on a core each, and publishing also on one for both.
func atBroker(addr, name string, o options, consumeSlices int, consumeBare, consumeOurs, publishBare, publishOurs side) []comparison {
	consume := comparison{name: name + ", consume", n: o.consume, slices: consumeSlices, bare: consumeBare, ours: consumeOurs}
	publish := comparison{name: name + ", publish one at a time", n: o.publish, slices: publishSlices, bare: publishBare, ours: publishOurs}
	servers, ok := canPlace(addr)
	if !ok {
		return []comparison{consume, publish}
	}
	consume.servers, publish.servers = servers, servers
	consume.cores, publish.cores = twoCores, twoCores
	shared := publish
	shared.cores = oneCore
	return []comparison{consume, publish, shared}
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
		{name: "memory, publish to typed handler", n: o.memory, slices: 1, bare: memoryBare, ours: memoryOurs},
	}
}

// memoryContest is the same work in the other table.
func memoryContest(o options) contest {
	return contest{
		name: "memory, publish to typed handler", n: o.memory, rounds: o.rounds,
		stock: memoryBare, ours: memoryOurs, atLeast: 2.5, aim: 4,
	}
}

func memoryBare(ctx context.Context, m *meter, n int) error {
	g := gochannel.NewGoChannel(gochannel.Config{BlockPublishUntilSubscriberAck: true}, watermill.NopLogger{})
	r, err := message.NewRouter(message.RouterConfig{}, watermill.NopLogger{})
	if err != nil {
		return err
	}
	var seen atomic.Int64
	r.AddConsumerHandler("count", topic, g, func(msg *message.Message) error {
		_, err := events.Decode[moodNoted](msg.Metadata, msg.Payload)
		seen.Add(1)
		return err
	})
	ran := make(chan error, 1)
	go func() { ran <- r.Run(ctx) }()
	<-r.Running()
	source := events.SourceOf("bench")
	evs := typed(n)
	m.start()
	for _, e := range evs {
		enc, err := events.Encode(e, events.Base{})
		if err != nil {
			return err
		}
		msg := message.NewMessage(enc.Base.ID, enc.Body)
		msg.Metadata = enc.Header(source)
		if err := g.Publish(topic, msg); err != nil {
			return err
		}
	}
	m.stop()
	if err := r.Close(); err != nil {
		return err
	}
	if seen.Load() != int64(n) {
		return fmt.Errorf("GoChannel handled %d of %d", seen.Load(), n)
	}
	return <-ran
}

func memoryOurs(ctx context.Context, m *meter, n int) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	b, err := bus.Open(ctx, bus.Config{Backend: bus.Memory, ServiceName: "bench"})
	if err != nil {
		return err
	}
	r, err := router.New(b, "count")
	if err != nil {
		return err
	}
	var seen atomic.Int64
	router.Handle(r, "count", func(context.Context, moodNoted) error {
		if seen.Add(1) == int64(n) {
			m.stop()
			cancel()
		}
		return nil
	})
	ran := make(chan error, 1)
	go func() { ran <- r.Run(ctx) }()
	<-r.Running()
	evs := typed(n)
	m.start()
	for _, e := range evs {
		if err := b.Publish(context.WithoutCancel(ctx), e); err != nil {
			return err
		}
	}
	if err := <-ran; err != nil {
		return err
	}
	if seen.Load() != int64(n) {
		return fmt.Errorf("handled %d of %d", seen.Load(), n)
	}
	return b.Close()
}

func typed(n int) []events.Event {
	evs := make([]events.Event, n)
	for i := range evs {
		evs[i] = event(i)
	}
	return evs
}
