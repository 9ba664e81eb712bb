package redisbus

import (
	"context"
	"fmt"
	"sync"

	"github.com/redis/go-redis/v9"

	"github.com/aura360/eventbus/bus/driver"
)

// EnsureTopic implements driver.Provisioner: it creates an empty stream. Streams
// have no partitions, and nothing in one is ever forgotten by this build.
func (b *Backend) EnsureTopic(ctx context.Context, spec driver.TopicSpec) error {
	if spec.Name == "" {
		return fmt.Errorf("redis: create stream: %w: no name", driver.ErrPermanent)
	}
	_, err := bounded(ctx, func() (struct{}, error) { return struct{}{}, b.ensure(ctx, spec.Name) })
	return b.fail("create stream "+spec.Name, err)
}

func (s *server) ensure(ctx context.Context, topic string) error {
	kind, err := s.admin.Type(ctx, topic).Result()
	if err != nil {
		return err
	}
	switch kind {
	case "stream":
		return nil
	case "none":
	default:
		return fmt.Errorf("%w: the key holds a %s, not a stream", driver.ErrPermanent, kind)
	}
	return s.createStream(ctx, topic)
}

const (
	lagPage  = 1000
	lagPages = 100
)

// Lag implements driver.Inspector: the entries after the group's position and
// those delivered and not acked. Where the server cannot count the former
// (before 7.0, or after deletions) they are counted here, up to 100,000: beyond
// that the lag is at least what is returned.
func (b *Backend) Lag(ctx context.Context, topic, group string) (lag int64, known bool, err error) {
	type result struct {
		lag   int64
		known bool
	}
	r, err := bounded(ctx, func() (result, error) {
		lag, known, err := b.lag(ctx, topic, group)
		return result{lag, known}, err
	})
	return r.lag, r.known, b.fail("lag of "+group+" on "+topic, err)
}

func (b *Backend) lag(ctx context.Context, topic, group string) (int64, bool, error) {
	groups, err := b.admin.XInfoGroups(ctx, topic).Result()
	if err != nil {
		if isNoKey(err) {
			return 0, false, nil
		}
		return 0, false, err
	}
	for _, g := range groups {
		if g.Name != group {
			continue
		}
		unread, err := b.unread(ctx, topic, g)
		if err != nil {
			return 0, false, err
		}
		return unread + g.Pending, true, nil
	}
	return 0, false, nil
}

// countAfter counts the entries after id.
func (s *server) countAfter(ctx context.Context, topic, id string) (int64, error) {
	var n int64
	for range lagPages {
		page, err := s.admin.XRangeN(ctx, topic, "("+id, "+", lagPage).Result()
		if err != nil {
			return 0, err
		}
		n += int64(len(page))
		if len(page) < lagPage {
			break
		}
		id = page[len(page)-1].ID
	}
	return n, nil
}

// eachMaster runs f on every server that holds data: one, or a Cluster's masters
// one after another.
func (s *server) eachMaster(ctx context.Context, f func(context.Context, redis.Cmdable) error) error {
	cluster, ok := s.admin.(*redis.ClusterClient)
	if !ok {
		return f(ctx, s.admin)
	}
	var mu sync.Mutex
	return cluster.ForEachMaster(ctx, func(ctx context.Context, c *redis.Client) error {
		mu.Lock()
		defer mu.Unlock()
		return f(ctx, c)
	})
}
