package redisbus

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/aura360/eventbus/bus/driver"
)

// A topic's partitions are streams: the first is named as the topic, so that a
// plain producer's entries are read and a plain consumer of a topic with one
// partition reads everything; the others are "topic:p1", "topic:p2" ...
//
// How many there are is recorded on the server, in the field "partitions" of the
// hash "<namespace>:topic:{<topic>}". All publishers and subscribers go by that,
// so that they agree where a key is; an operator adds partitions with HSET.

const (
	fieldPartitions = "partitions"
	// partitionsEvery is how often the records are read again.
	partitionsEvery = 5 * time.Second
)

// partitionStream is the stream of a topic's partition, counted from 0.
func partitionStream(topic string, i int) string {
	if i == 0 {
		return topic
	}
	return topic + ":p" + strconv.Itoa(i)
}

func streamsOf(topic string, n int) []string {
	out := make([]string, n)
	for i := range out {
		out[i] = partitionStream(topic, i)
	}
	return out
}

// checkTopic refuses names that no topic can have.
func checkTopic(topic string) error {
	if topic == "" {
		return fmt.Errorf("%w: no topic", driver.ErrPermanent)
	}
	if i := strings.LastIndex(topic, ":p"); i > 0 {
		if n, err := strconv.Atoi(topic[i+2:]); err == nil && n > 0 {
			return fmt.Errorf("%w: %q is the name of partition %d of topic %q", driver.ErrPermanent, topic, n, topic[:i])
		}
	}
	return nil
}

// topic is what is known of one topic.
type topic struct {
	mu    sync.Mutex                  // held while the record is read for the first time
	parts atomic.Pointer[partitioned] // nil before that
}

// partitioned is a topic's partitions. It never changes.
type partitioned struct {
	streams  []string
	prefixes [][]byte // how an XADD to each begins
	recorded bool     // by a record that was there; else there is none, and it counts as one
}

// partitions returns how many partitions a topic has, 1 to 1000. The first call
// for a topic asks the server, in one or two round trips bounded by ctx, and
// where creating topics is allowed makes the record of a topic that has none.
// Later calls answer from memory, at most partitionsEvery old.
//
// A topic without a record has one partition where creating is not allowed.
func (n *Native) partitions(ctx context.Context, name string) (int, error) {
	p, err := n.topic(ctx, name)
	if err != nil {
		return 0, err
	}
	return len(p.streams), nil
}

// topic is partitions, with the names of the streams.
func (n *Native) topic(ctx context.Context, name string) (*partitioned, error) {
	if v, ok := n.topics.Load(name); ok {
		if p := v.(*topic).parts.Load(); p != nil {
			return p, nil
		}
	}
	if err := checkTopic(name); err != nil {
		return nil, err
	}
	v, _ := n.topics.LoadOrStore(name, &topic{})
	return bounded(ctx, func() (*partitioned, error) {
		t := v.(*topic)
		t.mu.Lock()
		defer t.mu.Unlock()
		if p := t.parts.Load(); p != nil {
			return p, nil
		}
		return n.readPartitions(ctx, name, t)
	})
}

// refreshPartitions is partitions with the record read again, and made again as
// remembered where it is gone and creating is allowed. For one who noticed that
// something is not as it was: a group or a stream is missing.
func (n *Native) refreshPartitions(ctx context.Context, name string) (int, error) {
	if _, err := n.topic(ctx, name); err != nil {
		return 0, err
	}
	v, _ := n.topics.Load(name)
	p, err := bounded(ctx, func() (*partitioned, error) { return n.readPartitions(ctx, name, v.(*topic)) })
	if err != nil {
		return 0, err
	}
	return len(p.streams), nil
}

// readPartitions reads the record of a topic, or makes it where that is allowed.
func (n *Native) readPartitions(ctx context.Context, name string, t *topic) (*partitioned, error) {
	if n.cfg.Provision.Create {
		return n.readPartitionsOr(ctx, name, t, n.cfg.Provision.Partitions)
	}
	return n.readPartitionsOr(ctx, name, t, 0)
}

// readPartitionsOr reads the record of a topic. One that is missing counts as
// what is remembered, or else as one partition, and with want above 0 it is made:
// of what is remembered, or else of want.
func (n *Native) readPartitionsOr(ctx context.Context, name string, t *topic, want int) (*partitioned, error) {
	was := t.parts.Load()
	recorded := true
	count, err := n.admin.HGet(ctx, n.topicKey(name), fieldPartitions).Result()
	if errors.Is(err, redis.Nil) {
		count, err, recorded = "1", nil, false
		if was != nil && was.recorded {
			count, recorded = strconv.Itoa(len(was.streams)), true
		}
		if want > 0 {
			if recorded {
				want = len(was.streams)
			}
			count, err = n.recordPartitions(ctx, name, want)
			recorded = true
		}
	}
	if err != nil {
		return nil, fmt.Errorf("read the number of partitions: %w", err)
	}
	have, err := strconv.Atoi(count)
	if err != nil || have < 1 || have > maxPartitions {
		return nil, n.badRecord(name, count)
	}
	if was != nil && len(was.streams) == have && was.recorded == recorded {
		return was, nil
	}
	p := &partitioned{streams: streamsOf(name, have), recorded: recorded}
	for _, stream := range p.streams {
		p.prefixes = append(p.prefixes, xaddPrefix(stream, n.cfg.Provision.Create))
	}
	t.parts.Store(p)
	if was != nil && len(was.streams) != have {
		n.cfg.Log.Info("the topic has another number of partitions", "backend", n.Name(), "topic", name,
			"from", len(was.streams), "to", have)
	}
	return p, nil
}

func (n *Native) badRecord(name, count string) error {
	return serverError(fmt.Sprintf("%s of %s is %.20q: want 1 to %d", fieldPartitions, n.topicKey(name), count, maxPartitions))
}

// recordPartitions makes the record of a topic that has none, and returns what
// the record says: another process may have been faster.
func (n *Native) recordPartitions(ctx context.Context, name string, want int) (string, error) {
	var got *redis.StringCmd
	_, err := n.admin.Pipelined(ctx, func(p redis.Pipeliner) error {
		p.HSetNX(ctx, n.topicKey(name), fieldPartitions, want)
		got = p.HGet(ctx, n.topicKey(name), fieldPartitions)
		return nil
	})
	if err != nil {
		return "", err
	}
	return got.Val(), nil
}

// topicKey is where a topic's record is.
func (n *Native) topicKey(name string) string { return n.cfg.Namespace + ":topic:{" + name + "}" }

// watchPartitions reads the records of the topics in use, again and again.
func (n *Native) watchPartitions(ctx context.Context) {
	tick := time.NewTicker(partitionsEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		n.topics.Range(func(k, v any) bool {
			name, t := k.(string), v.(*topic)
			if t.parts.Load() == nil {
				return true
			}
			if _, err := n.readPartitions(ctx, name, t); err != nil && ctx.Err() == nil {
				n.cfg.Log.Debug("reading the number of partitions failed", "backend", n.Name(), "topic", name, "error", err.Error())
			}
			return ctx.Err() == nil
		})
	}
}
