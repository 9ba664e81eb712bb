package kafkabus

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/aura360/eventbus/bus/driver"
)

// keyedMutex is a mutex per name.
type keyedMutex struct {
	mu    sync.Mutex
	slots map[string]chan struct{}
}

// lock waits for the name's mutex until ctx ends.
func (k *keyedMutex) lock(ctx context.Context, name string) (unlock func(), err error) {
	k.mu.Lock()
	slot := k.slots[name]
	if slot == nil {
		slot = make(chan struct{}, 1)
		if k.slots == nil {
			k.slots = make(map[string]chan struct{})
		}
		k.slots[name] = slot
	}
	k.mu.Unlock()
	select {
	case slot <- struct{}{}:
		return func() { <-slot }, nil
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// EnsureTopic implements driver.Provisioner.
func (n *Native) EnsureTopic(ctx context.Context, spec driver.TopicSpec) error {
	if err := checkSpec(spec); err != nil {
		return err
	}
	n.topics.specs.Store(spec.Name, spec)
	if n.topics.has(spec.Name) {
		return nil
	}
	if _, err := n.ensure(ctx, spec); err != nil {
		return fmt.Errorf("kafka: %w", err)
	}
	return nil
}

// find returns the number of partitions of a topic, which is created if it is
// missing and that is wanted.
func (n *Native) find(ctx context.Context, topic string) (partitions int, err error) {
	if n.cfg.Provision.Create {
		return n.ensure(ctx, n.topics.spec(topic))
	}
	err = n.ask(ctx, func(ctx context.Context) error {
		partitions, err = n.partitions(ctx, topic)
		return err
	})
	if err != nil {
		return 0, fmt.Errorf("look for topic %s: %w", topic, err)
	}
	if partitions == 0 {
		return 0, missingTopic(topic, kerr.UnknownTopicOrPartition)
	}
	return partitions, nil
}

// ensure creates the topic unless it exists. One caller at a time does.
func (n *Native) ensure(ctx context.Context, spec driver.TopicSpec) (partitions int, err error) {
	err = n.ask(ctx, func(ctx context.Context) error {
		unlock, err := n.creating.lock(ctx, spec.Name)
		if err != nil {
			return err
		}
		defer unlock()
		partitions, err = n.partitions(ctx, spec.Name)
		if err == nil && partitions == 0 {
			partitions, err = n.create(ctx, spec)
		}
		if err == nil {
			n.topics.add(spec.Name)
		}
		return err
	})
	if err != nil {
		return 0, fmt.Errorf("ensure topic %s: %w", spec.Name, err)
	}
	return partitions, nil
}

// describe asks a broker about one topic, without creating it.
func (n *Native) describe(ctx context.Context, topic string) (*kmsg.MetadataResponseTopic, error) {
	req := kmsg.NewPtrMetadataRequest()
	t := kmsg.NewMetadataRequestTopic()
	t.Topic = &topic
	req.Topics = append(req.Topics, t)
	resp, err := req.RequestWith(ctx, n.client)
	if err != nil {
		return nil, err
	}
	if len(resp.Topics) != 1 {
		return nil, fmt.Errorf("%w about %d topics when asked about one", errAnswer, len(resp.Topics))
	}
	return &resp.Topics[0], nil
}

// partitions returns how many a topic has, 0 when it does not exist.
func (n *Native) partitions(ctx context.Context, topic string) (int, error) {
	t, err := n.describe(ctx, topic)
	if err != nil {
		return 0, err
	}
	return countPartitions(t)
}

func countPartitions(t *kmsg.MetadataResponseTopic) (int, error) {
	switch err := kerr.ErrorForCode(t.ErrorCode); {
	case errors.Is(err, kerr.UnknownTopicOrPartition):
		return 0, nil
	case err == nil, errors.Is(err, kerr.LeaderNotAvailable):
		if len(t.Partitions) == 0 {
			return 0, fmt.Errorf("%w without a partition of it", errAnswer)
		}
		return len(t.Partitions), nil
	default:
		return 0, err
	}
}

// create makes a topic, and waits until it can be used.
func (n *Native) create(ctx context.Context, spec driver.TopicSpec) (partitions int, err error) {
	if spec.Partitions == 0 {
		spec.Partitions = n.cfg.Provision.Partitions
	}
	if spec.Retention == 0 {
		spec.Retention = n.cfg.Provision.Retention
	}
	configs := map[string]*string{"retention.ms": new(strconv.FormatInt(spec.Retention.Milliseconds(), 10))}
	if spec.MaxMessageBytes > 0 {
		configs["max.message.bytes"] = new(strconv.Itoa(spec.MaxMessageBytes))
	}
	for _, factor := range replications(n.cfg.ReplicationFactor) {
		_, err = n.admin.CreateTopic(ctx, int32(spec.Partitions), factor, configs, spec.Name) //nolint:gosec // at most 1000
		if !errors.Is(err, kerr.InvalidReplicationFactor) && !errors.Is(err, kerr.UnsupportedVersion) {
			break
		}
	}
	if err != nil && !errors.Is(err, kerr.TopicAlreadyExists) {
		return 0, fmt.Errorf("create: %w", err)
	}
	if err == nil {
		n.cfg.Log.Info("topic created", "backend", name, "topic", spec.Name, "partitions", spec.Partitions, "retention", spec.Retention.String())
	}
	return n.usable(ctx, spec.Name)
}

// usable waits until every partition of a new topic has a leader, which takes a
// moment after the answer to its creation.
func (n *Native) usable(ctx context.Context, topic string) (partitions int, err error) {
	const tries, pause = 40, 50 * time.Millisecond
	for try := 1; ; try++ {
		t, err := n.describe(ctx, topic)
		if err != nil {
			return 0, err
		}
		ready := t.ErrorCode == 0 && len(t.Partitions) > 0
		for i := range t.Partitions {
			ready = ready && t.Partitions[i].Leader >= 0
		}
		if ready {
			return len(t.Partitions), nil
		}
		if try == tries || !sleep(ctx, pause) {
			return 0, fmt.Errorf("%w: it was created, and its partitions have no leader after %v", errAnswer, tries*pause)
		}
	}
}
