package kafkabus

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/IBM/sarama"

	"github.com/aura360/eventbus/bus/driver"
)

// Lag implements driver.Inspector. A partition that the group has never
// committed counts from its oldest message, as the group would read it; known is
// false when that is so for all of them.
func (b *Backend) Lag(ctx context.Context, topic, group string) (lag int64, known bool, err error) {
	if err := checkTopic(topic); err != nil {
		return 0, false, fmt.Errorf("kafka: lag of topic %q: %w: %w", topic, driver.ErrPermanent, err)
	}
	type result struct {
		lag   int64
		known bool
	}
	r, err := ask(ctx, b.admin, func(s *session) (r result, err error) {
		exists, err := s.exists(topic)
		if err != nil || !exists {
			return r, err
		}
		if err := s.client.RefreshMetadata(topic); err != nil {
			return r, err
		}
		partitions, err := s.client.Partitions(topic)
		if err != nil {
			return r, err
		}
		committed, err := s.admin.ListConsumerGroupOffsets(group, map[string][]int32{topic: partitions})
		if errors.Is(err, sarama.ErrGroupIDNotFound) { // what newer brokers say of it
			return r, nil
		}
		if err != nil {
			return r, err
		}
		ends, err := s.offsets(topic, partitions, sarama.OffsetNewest)
		if err != nil {
			return r, err
		}
		starts, err := s.offsets(topic, partitions, sarama.OffsetOldest)
		if err != nil {
			return r, err
		}
		for _, p := range partitions {
			at := int64(-1)
			if block := committed.GetBlock(topic, p); block != nil {
				if !errors.Is(block.Err, sarama.ErrNoError) {
					return r, block.Err
				}
				at = block.Offset
			}
			if at >= 0 {
				r.known = true
			}
			// What retention took away cannot be settled any more.
			r.lag += max(0, ends[p]-max(at, starts[p]))
		}
		if !r.known {
			r.lag = 0
		}
		return r, nil
	})
	if err != nil {
		return 0, false, fmt.Errorf("kafka: lag of %s in %s: %w", group, topic, err)
	}
	return r.lag, r.known, nil
}

// offsets returns the offset of each partition at one of sarama's two ends.
func (s *session) offsets(topic string, partitions []int32, end int64) (map[int32]int64, error) {
	question := make(map[int32]int64, len(partitions))
	for _, p := range partitions {
		question[p] = end
	}
	// A message of a transaction that is open cannot be read yet, nor settled.
	answer, err := s.admin.ListOffsets(map[string]map[int32]int64{topic: question},
		&sarama.ListOffsetsOptions{IsolationLevel: sarama.ReadCommitted})
	if err != nil {
		return nil, err
	}
	out := make(map[int32]int64, len(partitions))
	for _, p := range partitions {
		r := answer[topic][p]
		switch {
		case r == nil:
			return nil, fmt.Errorf("%w without partition %d", errAnswer, p)
		case r.Err != nil && !errors.Is(r.Err, sarama.ErrNoError):
			return nil, r.Err
		}
		out[p] = r.Offset
	}
	return out, nil
}

// Audit implements driver.Auditor.
//
// Durable is true on every Kafka: a confirmed message is in the page cache of
// the brokers that are in sync, which outlives their processes. It does not
// outlive the machine of a topic's only replica; Findings say where that is so.
func (b *Backend) Audit(ctx context.Context) (driver.Audit, error) {
	a, err := ask(ctx, b.admin, func(s *session) (driver.Audit, error) {
		brokers, _, err := s.admin.DescribeCluster()
		if err != nil {
			return driver.Audit{}, err
		}
		if len(brokers) == 0 {
			return driver.Audit{}, fmt.Errorf("%w without brokers", errAnswer)
		}
		settings, err := s.settings(sarama.BrokerResource, strconv.Itoa(int(brokers[0].ID())))
		if err != nil && !serverSaid(err) {
			return driver.Audit{}, err
		}
		a := driver.Audit{Durable: true, Version: s.version(settings)}
		if err != nil {
			a.Findings = append(a.Findings, unreadable(err))
		}
		topics, err := b.auditTopics(s)
		if err != nil {
			return driver.Audit{}, err
		}
		a.Findings = append(a.Findings, topics...)
		a.Findings = append(a.Findings, auditBrokers(len(brokers), settings)...)
		return a, nil
	})
	if err != nil {
		return driver.Audit{}, fmt.Errorf("kafka: audit: %w", err)
	}
	return a, nil
}

// auditBrokers is what a broker's settings mean.
func auditBrokers(brokers int, settings map[string]string) []string {
	var f []string
	if brokers == 1 {
		f = append(f, "the cluster is one broker: its disk is the only copy of every message, and while it is down nothing can be published")
	} else if settings["default.replication.factor"] == "1" {
		f = append(f, "default.replication.factor is 1: a topic created without another factor is on one broker's disk only; set it to 3")
	}
	if brokers > 1 && settings["min.insync.replicas"] == "1" {
		f = append(f, "min.insync.replicas is 1: a message can be confirmed by one broker alone, and is lost with its disk; set it to 2 with three replicas")
	}
	if settings["unclean.leader.election.enable"] == "true" {
		f = append(f, "unclean.leader.election.enable is true: a broker that missed confirmed messages may become leader, which deletes them; set it to false")
	}
	if settings["offsets.topic.replication.factor"] == "1" && brokers > 1 {
		f = append(f, "offsets.topic.replication.factor is 1: when the one broker with a group's offsets is lost, the group starts again at the oldest message")
	}
	if settings["auto.create.topics.enable"] == "true" {
		f = append(f, "auto.create.topics.enable is true: a mistyped topic is created with the broker's defaults instead of being refused")
	}
	return f
}

// auditTopics looks at the topics this process has used.
func (b *Backend) auditTopics(s *session) ([]string, error) {
	var topics []string
	b.topics.known.Range(func(k, _ any) bool {
		topics = append(topics, k.(string))
		return true
	})
	if len(topics) == 0 {
		return nil, nil
	}
	slices.Sort(topics)
	list, err := s.admin.DescribeTopics(topics)
	if err != nil {
		return nil, err
	}
	var single, short []string
	for _, t := range list {
		for _, p := range t.Partitions {
			if len(p.Replicas) == 1 {
				single = append(single, t.Name)
				break
			}
			if len(p.Isr) < len(p.Replicas) {
				short = append(short, t.Name)
				break
			}
		}
	}
	return topicFindings(single, short), nil
}

// topicFindings is what to say of topics that are on one broker's disk, or on
// fewer than they should be.
func topicFindings(single, short []string) []string {
	var f []string
	if len(single) > 0 {
		f = append(f, "replication 1: one broker's disk is the only copy of "+some(single))
	}
	if len(short) > 0 {
		f = append(f, "under-replicated now: "+some(short))
	}
	return f
}

// unreadable is what to say when a broker does not show its settings.
func unreadable(err error) string {
	return fmt.Sprintf("the broker's settings cannot be read with these credentials (%v): replication is unknown", err)
}

// some names the first of a list.
func some(list []string) string {
	const few = 3
	s := strings.Join(list[:min(few, len(list))], ", ")
	if len(list) > few {
		s += fmt.Sprintf(" and %d more", len(list)-few)
	}
	return s
}

// settings reads the configuration of a resource.
func (s *session) settings(kind sarama.ConfigResourceType, id string) (map[string]string, error) {
	list, err := s.admin.DescribeConfigs([]*sarama.ConfigResource{{Type: kind, Name: id}}, sarama.DescribeConfigsOptions{})
	if err != nil {
		return nil, err
	}
	m := make(map[string]string)
	for _, r := range list {
		if r.ErrorCode != 0 {
			return nil, r.ErrorCode
		}
		for _, e := range r.Configs {
			m[e.Name] = e.Value
		}
	}
	return m, nil
}

// metadataVersions maps the levels of the feature metadata.version to the first
// release that has them. Brokers do not tell their release otherwise.
// https://github.com/apache/kafka/blob/trunk/server-common/src/main/java/org/apache/kafka/server/common/MetadataVersion.java
var metadataVersions = []struct {
	level   int16
	release string
}{
	{26, "4.1"},
	{22, "4.0"},
	{21, "3.9"},
	{20, "3.8"},
	{15, "3.7"},
	{12, "3.6"},
	{10, "3.5"},
	{8, "3.4"},
	{4, "3.3"},
}

// version is the cluster's, as far as it tells.
func (s *session) version(settings map[string]string) string {
	broker, err := s.client.Controller()
	if err == nil {
		var r *sarama.ApiVersionsResponse
		r, err = broker.ApiVersions(&sarama.ApiVersionsRequest{Version: 3, ClientSoftwareName: "eventbus", ClientSoftwareVersion: "1"})
		if err == nil {
			for _, f := range r.FinalizedFeatures {
				if f.Name == "metadata.version" {
					return release(f.MaxVersionLevel)
				}
			}
		}
	}
	return settings["inter.broker.protocol.version"]
}

func release(level int16) string {
	for _, v := range metadataVersions {
		if level >= v.level {
			return v.release
		}
	}
	return ""
}
