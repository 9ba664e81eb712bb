package main

import (
	"context"
	"errors"
	"time"

	"github.com/ThreeDotsLabs/watermill"
	"github.com/ThreeDotsLabs/watermill-redisstream/pkg/redisstream"
	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/redis/go-redis/v9"

	"github.com/aura360/eventbus/bus"
	"github.com/aura360/eventbus/events"
)

// topicOne has one partition whatever the default is: the stock adapter and a
// bare client read it whole.
const topicOne = topic + ".one"

// moodOne is moodNoted on topicOne.
type moodOne moodNoted

var _ = events.Define[moodOne]("bench.mood.one", events.Topic(topicOne))

// redisContests are the works of the native build on one Redis.
func redisContests(name, url string, o options) ([]contest, []latency, error) {
	ctx := context.Background()
	client := func() *redis.Client {
		opts, err := redis.ParseURL(url)
		if err != nil {
			panic(err) // bus.Open took it
		}
		opts.MaxRetries = -1
		return redis.NewClient(opts)
	}
	cfg := bus.Config{
		Backend: bus.Redis, Adapter: bus.Native, ServiceName: "bench", Redis: bus.RedisConfig{URL: bus.Secret(url)},
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
	c := client()
	for _, t := range []string{topic, topicOne} {
		keys, err := c.Keys(ctx, "*"+t+"*").Result()
		if err != nil {
			return nil, nil, err
		}
		if err := c.Del(ctx, append(keys, t)...).Err(); err != nil {
			return nil, nil, err
		}
	}
	if err := fillWith(o.drain, func(i int) error { return b.Publish(ctx, event(i)) }); err != nil {
		return nil, nil, err
	}
	if err := fillWith(o.drain, func(i int) error { return one.Publish(ctx, moodOne(event(i))) }); err != nil {
		return nil, nil, err
	}
	// Every drain has a group of its own that wants the whole backlog: a group that
	// reads nothing keeps it from being trimmed.
	for _, stream := range []string{topic, topic + ":p1", topic + ":p2", topicOne} {
		if err := c.XGroupCreateMkStream(ctx, stream, "bench-hold", "0").Err(); err != nil {
			return nil, nil, err
		}
	}
	stock, err := redisstream.NewPublisher(redisstream.PublisherConfig{Client: client()}, watermill.NopLogger{})
	if err != nil {
		return nil, nil, err
	}
	marshal := redisstream.DefaultMarshallerUnmarshaller{}
	publishBatch := func(ctx context.Context, evs []moodNoted) error {
		pipe := c.Pipeline()
		for _, e := range evs {
			m, err := messageOf(e)
			if err != nil {
				return err
			}
			values, err := marshal.Marshal(scratch, m)
			if err != nil {
				return err
			}
			pipe.XAdd(ctx, &redis.XAddArgs{Stream: scratch, Values: values})
		}
		_, err := pipe.Exec(ctx)
		return err
	}
	stockBatch := stockBatches(stock, scratch)
	stockOne := stockOne(stock, scratch)
	open := func(group string) (message.Subscriber, error) {
		return redisstream.NewSubscriber(redisstream.SubscriberConfig{
			Client: client(), ConsumerGroup: group, OldestId: "0", DisableIndefiniteInitialBlock: true,
			BlockTime: 100 * time.Millisecond,
		}, watermill.NopLogger{})
	}
	contests := []contest{
		{
			name: name + ", publish batches of 100", n: o.batch, rounds: o.rounds, stockPart: 8, bare: inBatches(100, publishBatch),
			stock: inBatches(100, stockBatch), ours: inBatches(100, ourBatches(b)), atLeast: 8, aim: 12, bareLeast: 0.7, bareAim: 0.9,
		},
		{
			name: name + ", publish batches of 1000", n: o.batch, rounds: o.rounds, stockPart: 8, bare: inBatches(1000, publishBatch),
			stock: inBatches(1000, stockBatch), ours: inBatches(1000, ourBatches(b)), atLeast: 8, aim: 12, bareLeast: 0.7, bareAim: 0.9,
		},
		{
			name: name + ", publish one at a time from 64 goroutines", n: o.batch, rounds: o.rounds, stockPart: 2,
			stock: fromMany(stockOne), ours: fromMany(ourOne(b)), atLeast: 1.5, aim: 2,
		},
		{
			name: name + ", drain, three partitions", n: o.drain, rounds: o.drainRounds, stockPart: 8, bare: drainRedis[moodOne](client, topicOne),
			stock: drainStock[moodOne](open, topicOne, 0), ours: drainOurs[moodNoted](b, 0), atLeast: 6, aim: 12, bareAim: 0.5,
		},
		{
			name: name + ", drain, one partition", n: o.drain, rounds: o.drainRounds, stockPart: 8, bare: drainRedis[moodOne](client, topicOne),
			stock: drainStock[moodOne](open, topicOne, 0), ours: drainOurs[moodOne](one, 0), atLeast: 6, aim: 12, bareAim: 0.5,
		},
		{
			name: name + ", handler of 10 ms, one partition", n: o.slow, rounds: o.drainRounds, stockPart: 64,
			stock: drainStock[moodOne](open, topicOne, 10*time.Millisecond), ours: drainOurs[moodOne](one, 10*time.Millisecond), atLeast: 50, aim: 200,
		},
	}
	latencies := []latency{
		{name: name + ", publish one at a time from one goroutine", n: o.publish, stock: stockOne, ours: ourOne(b)},
	}
	return contests, latencies, nil
}

// scratch is where bare and stock publish to.
const scratch = "eventbus.bench.scratch"

// drainRedis drains with go-redis alone: 1000 entries a read, acks in one XACK.
func drainRedis[T events.Event](client func() *redis.Client, stream string) side {
	return func(ctx context.Context, m *meter, n int) error {
		ctx, cancel := context.WithTimeout(ctx, patience)
		defer cancel()
		c, group := client(), newGroup()
		defer c.Close()
		if err := c.XGroupCreateMkStream(ctx, stream, group, "0").Err(); err != nil {
			return err
		}
		d := drained{m: m, n: n, done: cancel}
		for d.seen.Load() < int64(n) {
			res, err := c.XReadGroup(ctx, &redis.XReadGroupArgs{
				Group: group, Consumer: "bare", Streams: []string{stream, ">"}, Count: 1000, Block: time.Second,
			}).Result()
			if err != nil {
				return err
			}
			var ids []string
			for _, x := range res[0].Messages {
				if err := handlePlain[T]([]byte(x.Values["payload"].(string))); err != nil {
					return err
				}
				ids = append(ids, x.ID)
				d.one()
			}
			if err := c.XAck(context.WithoutCancel(ctx), stream, group, ids...).Err(); err != nil {
				return err
			}
		}
		return errors.Join(d.complete(), c.XGroupDestroy(context.WithoutCancel(ctx), stream, group).Err())
	}
}

// handlePlain decodes an event's JSON as a program without a bus does.
func handlePlain[T events.Event](body []byte) error {
	_, err := events.Decode[T](nil, body)
	return err
}
