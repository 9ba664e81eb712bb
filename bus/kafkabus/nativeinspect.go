package kafkabus

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/aura360/eventbus/bus/driver"
)

// Lag implements driver.Inspector. What is acked beyond a message that is not
// counts as settled, as far as the group's commits tell. A partition that the
// group has never committed counts from its oldest message, as the group would
// read it; known is false when that is so for all of them.
func (n *Native) Lag(ctx context.Context, topic, group string) (lag int64, known bool, err error) {
	if err := checkTopic(topic); err != nil {
		return 0, false, fmt.Errorf("kafka: lag of topic %q: %w: %w", topic, driver.ErrPermanent, err)
	}
	err = n.ask(ctx, func(ctx context.Context) error {
		lag, known, err = n.lag(ctx, topic, group)
		return err
	})
	if err != nil {
		return 0, false, fmt.Errorf("kafka: lag of %s in %s: %w", group, topic, err)
	}
	return lag, known, nil
}

func (n *Native) lag(ctx context.Context, topic, group string) (lag int64, known bool, err error) {
	t, err := n.describe(ctx, topic)
	if err != nil {
		return 0, false, err
	}
	partitions, err := countPartitions(t)
	if err != nil || partitions == 0 {
		return 0, false, err
	}
	committed, err := n.admin.FetchOffsetsForTopics(ctx, group, topic)
	if err != nil && !errors.Is(err, kerr.GroupIDNotFound) { // what newer brokers say of it
		return 0, false, err
	}
	// A message of a transaction that is open cannot be read yet, nor settled.
	ends, err := n.admin.ListCommittedOffsets(ctx, topic)
	if err != nil {
		return 0, false, err
	}
	starts, err := n.admin.ListStartOffsets(ctx, topic)
	if err != nil {
		return 0, false, err
	}
	for p := range int32(partitions) { //nolint:gosec // few
		end, ok := ends.Lookup(topic, p)
		start, ok2 := starts.Lookup(topic, p)
		if !ok || !ok2 {
			return 0, false, fmt.Errorf("%w without partition %d", errAnswer, p)
		}
		if err := errors.Join(end.Err, start.Err); err != nil {
			return 0, false, err
		}
		at := int64(-1)
		var beyond []span
		if c, ok := committed.Lookup(topic, p); ok {
			if c.Err != nil {
				return 0, false, c.Err
			}
			known = known || c.At >= 0
			at, beyond = committedIn(t.TopicID, c.At, c.Metadata)
		}
		// What retention took away cannot be settled any more.
		from := max(at, start.Offset)
		left := max(0, end.Offset-from)
		for _, s := range beyond {
			left -= max(0, min(s.to, end.Offset)-max(s.from, from))
		}
		lag += max(0, left)
	}
	if !known {
		return 0, false, nil
	}
	return lag, true, nil
}

// Audit implements driver.Auditor, and says the same as Backend.Audit.
func (n *Native) Audit(ctx context.Context) (a driver.Audit, err error) {
	err = n.ask(ctx, func(ctx context.Context) error {
		meta, err := n.admin.BrokerMetadata(ctx)
		if err != nil {
			return err
		}
		if len(meta.Brokers) == 0 {
			return fmt.Errorf("%w without brokers", errAnswer)
		}
		settings, err := n.settings(ctx, meta.Brokers[0].NodeID)
		if err != nil && !answered(err) {
			return err
		}
		a = driver.Audit{Durable: true, Version: n.version(ctx, settings)}
		if err != nil {
			a.Findings = append(a.Findings, unreadable(err))
		}
		topics, err := n.auditTopics(ctx)
		if err != nil {
			return err
		}
		a.Findings = append(a.Findings, topics...)
		a.Findings = append(a.Findings, auditBrokers(len(meta.Brokers), settings)...)
		return nil
	})
	if err != nil {
		return driver.Audit{}, fmt.Errorf("kafka: audit: %w", err)
	}
	return a, nil
}

// settings reads the configuration of a broker.
func (n *Native) settings(ctx context.Context, broker int32) (map[string]string, error) {
	list, err := n.admin.DescribeBrokerConfigs(ctx, broker)
	if err != nil {
		return nil, err
	}
	r, err := list.On(strconv.Itoa(int(broker)), nil)
	if err != nil {
		return nil, err
	}
	if r.Err != nil {
		return nil, r.Err
	}
	m := make(map[string]string, len(r.Configs))
	for _, c := range r.Configs {
		m[c.Key] = c.MaybeValue()
	}
	return m, nil
}

// version is the cluster's, as far as it tells.
func (n *Native) version(ctx context.Context, settings map[string]string) string {
	req := kmsg.NewPtrApiVersionsRequest()
	req.ClientSoftwareName, req.ClientSoftwareVersion = "eventbus", "1"
	if resp, err := req.RequestWith(ctx, n.client); err == nil {
		for _, f := range resp.FinalizedFeatures {
			if f.Name == "metadata.version" {
				return release(f.MaxVersionLevel)
			}
		}
	}
	return settings["inter.broker.protocol.version"]
}

// auditTopics looks at the topics this process has used.
func (n *Native) auditTopics(ctx context.Context) ([]string, error) {
	known := make(map[string]bool)
	n.topics.known.Range(func(k, _ any) bool {
		known[k.(string)] = true
		return true
	})
	if len(known) == 0 {
		return nil, nil
	}
	list, err := n.admin.ListTopics(ctx, slices.Sorted(maps.Keys(known))...)
	if err != nil {
		return nil, err
	}
	var single, short []string
	for _, t := range list.Sorted() {
		switch {
		case slices.ContainsFunc(t.Partitions.Sorted(), func(p kadm.PartitionDetail) bool { return len(p.Replicas) == 1 }):
			single = append(single, t.Topic)
		case slices.ContainsFunc(t.Partitions.Sorted(), func(p kadm.PartitionDetail) bool { return len(p.ISR) < len(p.Replicas) }):
			short = append(short, t.Topic)
		}
	}
	return topicFindings(single, short), nil
}
