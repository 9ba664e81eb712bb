package kafkabus

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"time"

	"github.com/IBM/sarama"

	"github.com/aura360/eventbus/bus/driver"
)

// topicCache holds the topics known to exist, so that a publish asks once, and
// how those are made that somebody asked for with EnsureTopic: one that has
// vanished is made again as it was.
type topicCache struct {
	known sync.Map // name -> struct{}
	specs sync.Map // name -> driver.TopicSpec
}

// spec returns how a topic is made.
func (t *topicCache) spec(topic string) driver.TopicSpec {
	if s, ok := t.specs.Load(topic); ok {
		return s.(driver.TopicSpec)
	}
	return driver.TopicSpec{Name: topic}
}

func (t *topicCache) has(topic string) bool {
	_, ok := t.known.Load(topic)
	return ok
}

func (t *topicCache) add(topic string)    { t.known.Store(topic, struct{}{}) }
func (t *topicCache) forget(topic string) { t.known.Delete(topic) }

// EnsureTopic implements driver.Provisioner.
func (b *Backend) EnsureTopic(ctx context.Context, spec driver.TopicSpec) error {
	if err := checkSpec(spec); err != nil {
		return err
	}
	b.topics.specs.Store(spec.Name, spec)
	if err := b.ensure(ctx, spec); err != nil {
		return fmt.Errorf("kafka: %w", err)
	}
	return nil
}

func checkSpec(spec driver.TopicSpec) error {
	if err := checkTopic(spec.Name); err != nil {
		return fmt.Errorf("kafka: topic %q: %w: %w", spec.Name, driver.ErrPermanent, err)
	}
	if spec.Partitions < 0 || spec.Partitions > 1000 || spec.Retention < 0 || spec.MaxMessageBytes < 0 {
		return fmt.Errorf("kafka: topic %s: %w: want 0 to 1000 partitions, no negative retention or size", spec.Name, driver.ErrPermanent)
	}
	return nil
}

// ensure creates the topic unless it is known to exist or does.
func (b *Backend) ensure(ctx context.Context, spec driver.TopicSpec) error {
	if b.topics.has(spec.Name) {
		return nil
	}
	_, err := ask(ctx, b.admin, func(s *session) (struct{}, error) {
		if b.topics.has(spec.Name) { // by the one who had the slot before
			return struct{}{}, nil
		}
		exists, err := s.exists(spec.Name)
		if err == nil && !exists {
			err = b.create(s, spec)
		}
		if err == nil {
			b.topics.add(spec.Name)
		}
		return struct{}{}, err
	})
	if err != nil {
		return fmt.Errorf("ensure topic %s: %w", spec.Name, err)
	}
	return nil
}

// exists tells whether a topic does, without creating it.
func (s *session) exists(topic string) (bool, error) {
	list, err := s.admin.DescribeTopics([]string{topic})
	if err != nil {
		return false, err
	}
	for _, t := range list {
		if t.Name != topic {
			continue
		}
		switch {
		case errors.Is(t.Err, sarama.ErrNoError), errors.Is(t.Err, sarama.ErrLeaderNotAvailable):
			return true, nil
		case errors.Is(t.Err, sarama.ErrUnknownTopicOrPartition):
			return false, nil
		default:
			return false, t.Err
		}
	}
	return false, fmt.Errorf("%w without naming the topic", errAnswer)
}

// create makes a topic, and waits until it can be used.
func (b *Backend) create(s *session, spec driver.TopicSpec) error {
	if spec.Partitions == 0 {
		spec.Partitions = b.cfg.Provision.Partitions
	}
	if spec.Retention == 0 {
		spec.Retention = b.cfg.Provision.Retention
	}
	entries := map[string]*string{"retention.ms": new(strconv.FormatInt(spec.Retention.Milliseconds(), 10))}
	if spec.MaxMessageBytes > 0 {
		entries["max.message.bytes"] = new(strconv.Itoa(spec.MaxMessageBytes))
	}
	detail := &sarama.TopicDetail{NumPartitions: int32(spec.Partitions), ConfigEntries: entries} //nolint:gosec // at most 1000
	var err error
	for _, f := range replications(b.cfg.ReplicationFactor) {
		detail.ReplicationFactor = f
		err = s.admin.CreateTopic(spec.Name, detail, false)
		if !topicErrorIs(err, sarama.ErrInvalidReplicationFactor) && !topicErrorIs(err, sarama.ErrUnsupportedVersion) {
			break
		}
	}
	if err != nil && !topicErrorIs(err, sarama.ErrTopicAlreadyExists) {
		return fmt.Errorf("create: %w", err)
	}
	b.cfg.Log.Info("topic created", "backend", name, "topic", spec.Name, "partitions", spec.Partitions, "retention", spec.Retention.String())
	return s.usable(spec.Name)
}

// replications are the factors to try in turn.
func replications(configured int) []int16 {
	if configured > 0 {
		return []int16{int16(configured)} //nolint:gosec // at most 32
	}
	// -1 is the broker's own default (KIP-464). One with fewer brokers than its
	// default says, or older than 2.4, refuses it.
	return []int16{-1, 3, 2, 1}
}

// usable waits until every partition of a new topic has a leader, which takes a
// moment after the answer to its creation.
func (s *session) usable(topic string) error {
	const tries, pause = 40, 50 * time.Millisecond
	for try := 1; ; try++ {
		list, err := s.admin.DescribeTopics([]string{topic})
		if err != nil {
			return err
		}
		if len(list) == 1 && ledBy(list[0]) {
			return nil
		}
		if try == tries || !sleep(s.wire.life, pause) {
			return fmt.Errorf("%w: it was created, and its partitions have no leader after %v", errAnswer, tries*pause)
		}
	}
}

func ledBy(t *sarama.TopicMetadata) bool {
	if !errors.Is(t.Err, sarama.ErrNoError) || len(t.Partitions) == 0 {
		return false
	}
	for _, p := range t.Partitions {
		if p.Leader < 0 {
			return false
		}
	}
	return true
}

// topicErrorIs looks into sarama's *TopicError, which does not unwrap.
func topicErrorIs(err error, code sarama.KError) bool {
	var te *sarama.TopicError
	if errors.As(err, &te) {
		return errors.Is(te.Err, code)
	}
	return errors.Is(err, code)
}
