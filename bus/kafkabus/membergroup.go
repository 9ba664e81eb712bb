package kafkabus

import (
	"context"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// What the client calls when the group gives partitions and takes them.

// balancer sees which topics the member joins its group with.
type balancer struct {
	kgo.GroupBalancer
	m *member
}

// JoinGroupMetadata implements kgo.GroupBalancer.
func (b balancer) JoinGroupMetadata(topics []string, owned map[string][]int32, generation int32) []byte {
	asked := make(map[string]bool, len(topics))
	for _, t := range topics {
		asked[t] = true
	}
	b.m.mu.Lock()
	b.m.asked = asked
	b.m.mu.Unlock()
	return b.GroupBalancer.JoinGroupMetadata(topics, owned, generation)
}

// onFetched is called when partitions have come, with what the group has committed
// of them, before they are fetched.
func (m *member) onFetched(_ context.Context, _ *kgo.Client, resp *kmsg.OffsetFetchResponse) error {
	m.alone(func() {
		m.mu.Lock()
		defer m.mu.Unlock()
		m.restart = make(map[partition]bool)
		for _, g := range resp.Groups {
			for _, t := range g.Topics {
				s := m.subs[t.Topic]
				if s == nil {
					continue
				}
				id := s.topicID()
				for _, p := range t.Partitions {
					if p.ErrorCode != 0 {
						continue
					}
					metadata := ""
					if p.Metadata != nil {
						metadata = *p.Metadata
					}
					at := partition{t.Topic, p.Partition}
					committed, beyond := committedIn(id, p.Offset, metadata)
					m.restart[at] = committed < 0 && p.Offset >= 0
					m.dropClaims(func(c *claim) bool { return c.partition == at })
					m.claims[at] = &claim{partition: at, sub: s, id: id, epoch: p.LeaderEpoch, offsets: newOffsets(committed, beyond)}
				}
			}
		}
	})
	return nil
}

// onAdjust is called after onFetched, and tells the client where to begin.
func (m *member) onAdjust(_ context.Context, offsets map[string]map[int32]kgo.Offset) (map[string]map[int32]kgo.Offset, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for topic, list := range offsets {
		for number := range list {
			if m.restart[partition{topic, number}] {
				list[number] = kgo.NewOffset().AtStart()
			}
		}
	}
	m.restart = nil
	return offsets, nil
}

// onAssigned is called at the start of each session of the group.
func (m *member) onAssigned(context.Context, *kgo.Client, map[string][]int32) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.session = true
	for topic, s := range m.subs {
		if m.asked[topic] {
			s.mu.Lock()
			s.joined = true
			s.trouble = false
			s.mu.Unlock()
		}
	}
}

// onRevoked is called when partitions go to another member, which waits for it:
// what is in the consumer's hands is waited for and committed.
func (m *member) onRevoked(_ context.Context, _ *kgo.Client, lost map[string][]int32) {
	if len(lost) == 0 {
		return
	}
	going := make(map[*claim]bool)
	m.alone(func() {
		m.mu.Lock()
		defer m.mu.Unlock()
		for topic, numbers := range lost {
			for _, number := range numbers {
				at := partition{topic, number}
				if c := m.claims[at]; c != nil {
					going[c] = true
					delete(m.claims, at)
				}
			}
		}
	})
	if len(going) == 0 {
		return
	}
	streams := make(map[*subscription]bool)
	for c := range going {
		streams[c.sub] = true
	}
	// Some of the time is left for the commit and for joining.
	ctx, cancel := context.WithTimeout(m.life, m.n.cfg.MaxPollInterval*3/4)
	defer cancel()
	var wg sync.WaitGroup
	for s := range streams {
		wg.Go(func() {
			if err := s.stream.Recall(ctx, func(f *fetched) bool { return going[f.claim] }); err != nil {
				m.n.cfg.Log.Warn("partitions were given up with messages in hand, which will be handled again",
					"backend", name, "topic", s.topic, "group", m.group, "error", err.Error())
			}
		})
	}
	wg.Wait()
	claims := make([]*claim, 0, len(going))
	for c := range going {
		claims = append(claims, c)
	}
	ctx, cancel = context.WithTimeout(m.life, max(time.Second, m.n.cfg.MaxPollInterval/8))
	defer cancel()
	_ = m.commit(ctx, claims) // else it is handled again
}

// onLost is called when partitions are gone already.
func (m *member) onLost(_ context.Context, _ *kgo.Client, lost map[string][]int32) {
	m.alone(func() {
		m.mu.Lock()
		defer m.mu.Unlock()
		m.session = false
		for topic, numbers := range lost {
			for _, number := range numbers {
				at := partition{topic, number}
				m.dropClaims(func(c *claim) bool { return c.partition == at })
			}
		}
	})
}
