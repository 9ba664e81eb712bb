package membus

import (
	"cmp"
	"context"
	"fmt"
	"slices"

	"github.com/aura360/eventbus/bus/driver"
)

// EnsureTopic implements driver.Provisioner. Retention is ignored: see
// Config.Retain and Config.Keep.
func (b *Backend) EnsureTopic(ctx context.Context, spec driver.TopicSpec) error {
	if err := b.Ping(ctx); err != nil {
		return err
	}
	n := cmp.Or(spec.Partitions, b.broker.cfg.Partitions)
	if n < 1 || n > maxPartitions {
		return fmt.Errorf("memory: create topic %s: %d partitions: want 1 to %d", spec.Name, n, maxPartitions)
	}
	if _, err := b.broker.create(spec.Name, n); err != nil {
		return fmt.Errorf("memory: create topic: %w", err)
	}
	return nil
}

// Audit implements driver.Auditor.
func (b *Backend) Audit(ctx context.Context) (driver.Audit, error) {
	return driver.Audit{Findings: []string{
		"messages are kept in the memory of this process and end with it",
	}}, b.Ping(ctx)
}

// Lag implements driver.Inspector.
func (b *Backend) Lag(ctx context.Context, topic, group string) (lag int64, known bool, err error) {
	if err := b.Ping(ctx); err != nil {
		return 0, false, err
	}
	b.broker.mu.RLock()
	t := b.broker.topics[topic]
	b.broker.mu.RUnlock()
	if t == nil {
		return 0, false, nil
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	g := t.groups[group]
	if g == nil {
		return 0, false, nil
	}
	return int64(g.window.Len()), true, nil
}

// TopicInfo is the condition of one topic.
type TopicInfo struct {
	Name       string      `json:"name"`
	Partitions []uint64    `json:"partitions"` // messages published to each, ever
	Dropped    uint64      `json:"dropped"`    // that no group has read; see Config.Retain
	Groups     []GroupInfo `json:"groups"`
}

// GroupInfo is the condition of one group on a topic.
type GroupInfo struct {
	Name     string `json:"name"`
	Lag      int    `json:"lag"`       // messages not settled
	InFlight int    `json:"in_flight"` // of these, delivered
	Members  int    `json:"members"`
}

// Topics tells what the broker holds, in the order of names.
func (b *Backend) Topics() []TopicInfo {
	b.broker.mu.RLock()
	topics := make([]*topic, 0, len(b.broker.topics))
	for _, t := range b.broker.topics {
		topics = append(topics, t)
	}
	b.broker.mu.RUnlock()
	slices.SortFunc(topics, func(a, b *topic) int { return cmp.Compare(a.name, b.name) })
	infos := make([]TopicInfo, len(topics))
	for i, t := range topics {
		infos[i] = t.info()
	}
	return infos
}

func (t *topic) info() TopicInfo {
	t.mu.Lock()
	defer t.mu.Unlock()
	info := TopicInfo{Name: t.name, Partitions: slices.Clone(t.counts), Dropped: t.dropped}
	for _, g := range t.groups {
		info.Groups = append(info.Groups, GroupInfo{g.name, g.window.Len(), g.window.Out(), len(g.members)})
	}
	slices.SortFunc(info.Groups, func(a, b GroupInfo) int { return cmp.Compare(a.Name, b.Name) })
	return info
}
