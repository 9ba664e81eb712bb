package redisbus

import (
	"context"

	"github.com/ThreeDotsLabs/watermill/message"
)

// Trim runs a round of trimming.
func (n *Native) Trim(ctx context.Context) error { return n.trim(ctx) }

// Partitions is how many a topic has, as remembered.
func (n *Native) Partitions(ctx context.Context, topic string) (int, error) {
	return n.partitions(ctx, topic)
}

// RefreshPartitions is how many a topic has now.
func (n *Native) RefreshPartitions(ctx context.Context, topic string) (int, error) {
	return n.refreshPartitions(ctx, topic)
}

// AbandonedAfter is when a group is reported.
const AbandonedAfter = abandonedAfter

// Unmarshal reads an entry's fields.
func Unmarshal(values map[string]any) (*message.Message, error) { return wire{}.Unmarshal(values) }

// Marshal writes an entry's fields.
func Marshal(msg *message.Message) (map[string]any, error) { return wire{}.Marshal("topic", msg) }

// Findings of an audit, for tests.
const (
	FindNoAOF      = findNoAOF
	FindNotAlways  = findNotAlways
	FindEvicts     = findEvicts
	FindNoConfig   = findNoConfig
	FindNotTrimmed = findNotTrimmed
	FindReplicas   = findReplicas
)
