package kafkabus

import (
	"github.com/IBM/sarama"
	"github.com/rcrowley/go-metrics"

	"github.com/aura360/eventbus/bus/driver"
)

// NoMetrics keeps the stock adapter of the tests from starting the metrics
// library's goroutine, which never ends.
func NoMetrics() metrics.Registry { return noMetrics{} }

// NoTopicMetrics does the same for what it reads of a topic.
func NoTopicMetrics(topic string) { noTopicMetrics(topic) }

// PartitionOf is the partition that a named partitioner chooses.
func PartitionOf(partitioner, key string, partitions int32) (int32, error) {
	m := &sarama.ProducerMessage{}
	if key != "" {
		m.Key = sarama.StringEncoder(key)
	}
	return partitioners[partitioner]("topic").Partition(m, partitions)
}

// RefreshMetadata makes the publishing client look for added partitions now.
func (n *Native) RefreshMetadata() { n.client.ForceMetadataRefresh() }

// NativePartitionOf is the partition that a native publisher chooses.
func NativePartitionOf(partitioner, key string, partitions int32) int32 {
	return partitionOf(partitioner, key, partitions)
}

// RefreshMembers makes the members of a native subscriber look for added
// partitions now.
func RefreshMembers(s driver.Subscriber) {
	for _, m := range s.(*nativeSubscriber).members {
		m.client.ForceMetadataRefresh()
	}
}
