package kafkabus

import (
	"github.com/IBM/sarama"
	"github.com/rcrowley/go-metrics"
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
