package redisbus

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/ThreeDotsLabs/watermill"
	"github.com/redis/go-redis/v9"

	"github.com/aura360/eventbus/bus/driver"
)

// EnsureTopic implements driver.Provisioner: it records the number of partitions
// and creates the empty streams. What is recorded stays. Retention is ignored:
// what every group has consumed is trimmed, whatever its age, and nothing else.
func (n *Native) EnsureTopic(ctx context.Context, spec driver.TopicSpec) error {
	err := checkTopic(spec.Name)
	if err == nil && (spec.Partitions < 0 || spec.Partitions > maxPartitions) {
		err = fmt.Errorf("%w: %d partitions: want 1 to %d", driver.ErrPermanent, spec.Partitions, maxPartitions)
	}
	if err == nil {
		_, err = bounded(ctx, func() (struct{}, error) { return struct{}{}, n.ensureTopic(ctx, spec) })
	}
	return n.fail("create topic "+spec.Name, err)
}

func (n *Native) ensureTopic(ctx context.Context, spec driver.TopicSpec) error {
	v, _ := n.topics.LoadOrStore(spec.Name, &topic{})
	t := v.(*topic)
	t.mu.Lock()
	defer t.mu.Unlock()
	want := spec.Partitions
	if want == 0 {
		want = n.cfg.Provision.Partitions
	}
	p, err := n.readPartitionsOr(ctx, spec.Name, t, want)
	if err != nil {
		return err
	}
	kinds := make([]*redis.StatusCmd, len(p.streams))
	_, err = n.admin.Pipelined(ctx, func(pipe redis.Pipeliner) error {
		for i, s := range p.streams {
			kinds[i] = pipe.Type(ctx, s)
		}
		return nil
	})
	if err != nil {
		return err
	}
	for i, s := range p.streams {
		switch kind := kinds[i].Val(); kind {
		case "stream":
		case "none":
			if err := n.createStream(ctx, s); err != nil {
				return err
			}
		default:
			return fmt.Errorf("%w: the key %s holds a %s, not a stream", driver.ErrPermanent, s, kind)
		}
	}
	return nil
}

// createStream creates an empty stream. Redis does so only together with a
// group, and keeps it when the group goes.
func (s *server) createStream(ctx context.Context, stream string) error {
	group := "eventbus-create-" + watermill.NewShortUUID()
	_, err := s.admin.Pipelined(ctx, func(pipe redis.Pipeliner) error {
		pipe.XGroupCreateMkStream(ctx, stream, group, "0")
		pipe.XGroupDestroy(ctx, stream, group)
		return nil
	})
	return err
}

// Lag implements driver.Inspector: over all partitions, the entries after the
// group's position and those delivered and not acked. Where the server cannot
// count the former (before 7.0, or after deletions) they are counted here, up to
// 100,000 of each partition: beyond that the lag is at least what is returned.
func (n *Native) Lag(ctx context.Context, topic, group string) (lag int64, known bool, err error) {
	type result struct {
		lag   int64
		known bool
	}
	r, err := bounded(ctx, func() (result, error) {
		lag, known, err := n.lag(ctx, topic, group)
		return result{lag, known}, err
	})
	return r.lag, r.known, n.fail("lag of "+group+" on "+topic, err)
}

func (n *Native) lag(ctx context.Context, name, group string) (lag int64, known bool, err error) {
	streams, err := n.look(ctx, name)
	if err != nil {
		return 0, false, err
	}
	groups := make([]*redis.XInfoGroupsCmd, len(streams))
	lengths := make([]*redis.IntCmd, len(streams))
	_, err = n.admin.Pipelined(ctx, func(pipe redis.Pipeliner) error {
		for i, s := range streams {
			groups[i], lengths[i] = pipe.XInfoGroups(ctx, s), pipe.XLen(ctx, s)
		}
		return nil
	})
	if err != nil && !isReply(err) {
		return 0, false, err
	}
	for i, s := range streams {
		of, err := groups[i].Result()
		if err != nil && !isNoKey(err) {
			return 0, false, err
		}
		here := lengths[i].Val() // of a partition that the group has yet to see
		for _, g := range of {
			if g.Name != group {
				continue
			}
			known = true
			if here, err = n.unread(ctx, s, g); err != nil {
				return 0, false, err
			}
			here += g.Pending
		}
		lag += here
	}
	if !known {
		return 0, false, nil
	}
	return lag, true, nil
}

// unread is how many entries of a stream a group was not given.
func (s *server) unread(ctx context.Context, stream string, g redis.XInfoGroup) (int64, error) {
	// An old server says nothing, which reads as 0 entries read and 0 behind.
	if g.Lag < 0 || g.Lag == 0 && g.EntriesRead == 0 {
		return s.countAfter(ctx, stream, g.LastDeliveredID)
	}
	return g.Lag, nil
}

// look returns the streams of a topic and creates nothing.
func (n *Native) look(ctx context.Context, name string) ([]string, error) {
	if v, ok := n.topics.Load(name); ok {
		if p := v.(*topic).parts.Load(); p != nil {
			return p.streams, nil
		}
	}
	count, err := n.admin.HGet(ctx, n.topicKey(name), fieldPartitions).Result()
	if errors.Is(err, redis.Nil) {
		return []string{name}, nil
	}
	if err != nil {
		return nil, err
	}
	have, err := strconv.Atoi(count)
	if err != nil || have < 1 || have > maxPartitions {
		return nil, n.badRecord(name, count)
	}
	return streamsOf(name, have), nil
}

// isNoKey tells that the stream is not there.
func isNoKey(err error) bool {
	return err != nil && isReply(err) && strings.Contains(err.Error(), "no such key")
}

// Audit implements driver.Auditor. Of a Cluster all masters are looked at; the
// worst counts. Groups that keep streams from being trimmed are findings too.
func (n *Native) Audit(ctx context.Context) (driver.Audit, error) {
	a, err := n.auditAll(ctx)
	if err != nil {
		return a, err
	}
	for _, h := range n.HeldBack() {
		a.Findings = append(a.Findings, heldText(h))
	}
	return a, nil
}
