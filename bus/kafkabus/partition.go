package kafkabus

import (
	"hash/crc32"
	"math/rand/v2"

	"github.com/IBM/sarama"
)

// hashes choose the partition of a key, by the name of the partitioner, as the
// client that the name comes from does. round_robin has none: it ignores keys.
var hashes = map[string]func(key string, partitions int32) int32{
	"consistent_random": func(key string, n int32) int32 {
		return int32(crc32.ChecksumIEEE([]byte(key)) % uint32(n)) //nolint:gosec // less than n
	},
	"murmur2_random": func(key string, n int32) int32 {
		return int32(murmur2(key)&0x7fffffff) % n //nolint:gosec // masked
	},
	"fnv1a_random": func(key string, n int32) int32 {
		h := uint32(2166136261)
		for i := range len(key) {
			h = (h ^ uint32(key[i])) * 16777619
		}
		p := int32(h) % n //nolint:gosec // sarama means the sign
		return max(p, -p)
	},
	"round_robin": nil,
}

// murmur2 is Java's variant. https://github.com/apache/kafka/blob/trunk/clients/src/main/java/org/apache/kafka/common/utils/Utils.java
func murmur2(key string) uint32 {
	const m = 0x5bd1e995
	h := uint32(0x9747b28c) ^ uint32(len(key)) //nolint:gosec // a key is short
	i := 0
	for ; i+4 <= len(key); i += 4 {
		k := uint32(key[i]) | uint32(key[i+1])<<8 | uint32(key[i+2])<<16 | uint32(key[i+3])<<24
		k *= m
		k ^= k >> 24
		k *= m
		h = h*m ^ k
	}
	switch len(key) - i {
	case 3:
		h ^= uint32(key[i+2]) << 16
		fallthrough
	case 2:
		h ^= uint32(key[i+1]) << 8
		fallthrough
	case 1:
		h ^= uint32(key[i])
		h *= m
	}
	h ^= h >> 13
	h *= m
	return h ^ h>>15
}

// partitionOf is the partition of a message by the partitioner's name. Without a
// key it is random.
func partitionOf(partitioner, key string, partitions int32) int32 {
	if hash := hashes[partitioner]; hash != nil && key != "" {
		return hash(key, partitions)
	}
	return rand.Int32N(partitions)
}

// partitioners are the same for sarama.
var partitioners = map[string]sarama.PartitionerConstructor{
	"consistent_random": byKey("consistent_random"),
	"murmur2_random":    byKey("murmur2_random"),
	"fnv1a_random":      byKey("fnv1a_random"),
	"round_robin":       sarama.NewRoundRobinPartitioner,
}

func byKey(name string) sarama.PartitionerConstructor {
	return func(string) sarama.Partitioner { return keyPartitioner(name) }
}

// keyPartitioner is a sarama.DynamicConsistencyPartitioner: without it sarama
// would wait for the leader of a partition where any other would do.
type keyPartitioner string

var _ sarama.DynamicConsistencyPartitioner = keyPartitioner("")

// Partition implements sarama.Partitioner.
func (p keyPartitioner) Partition(m *sarama.ProducerMessage, partitions int32) (int32, error) {
	key := ""
	if m.Key != nil {
		b, err := m.Key.Encode()
		if err != nil {
			return -1, err
		}
		key = string(b)
	}
	return partitionOf(string(p), key, partitions), nil
}

// RequiresConsistency implements sarama.Partitioner.
func (p keyPartitioner) RequiresConsistency() bool { return true }

// MessageRequiresConsistency implements sarama.DynamicConsistencyPartitioner.
func (p keyPartitioner) MessageRequiresConsistency(m *sarama.ProducerMessage) bool {
	return m.Key != nil
}
