package kafkabus_test

import (
	"testing"

	"github.com/aura360/eventbus/bus/kafkabus"
)

// The partitions were chosen by librdkafka 2.16.0, which published these keys to
// Kafka topics of 3, 7 and 100 partitions.
func TestPartitionersChooseAsLibrdkafkaDoes(t *testing.T) {
	keys := []string{
		"a", "user-123", "user-1", "hejsan", "1234",
		"this is another string with more length perhaps", "größe", "00000000-0000-0000-0000-000000000001",
	}
	for partitioner, sizes := range map[string]map[int32][]int32{
		"consistent_random": {
			3: {0, 0, 2, 0, 1, 1, 2, 0}, 7: {4, 4, 5, 3, 2, 0, 3, 6}, 100: {7, 50, 24, 6, 59, 95, 53, 67},
		},
		"murmur2_random": {
			3: {1, 2, 2, 1, 0, 0, 2, 2}, 7: {5, 0, 3, 6, 0, 4, 4, 1}, 100: {24, 68, 28, 33, 40, 68, 84, 30},
		},
		"fnv1a_random": {
			3: {0, 2, 0, 2, 0, 0, 2, 0}, 7: {6, 0, 1, 3, 6, 2, 6, 6}, 100: {76, 93, 96, 18, 35, 97, 82, 58},
		},
	} {
		for n, want := range sizes {
			for i, key := range keys {
				got, err := kafkabus.PartitionOf(partitioner, key, n)
				if err != nil || got != want[i] {
					t.Errorf("%s of %q in %d: %d, %v, want %d", partitioner, key, n, got, err, want[i])
				}
				if got := kafkabus.NativePartitionOf(partitioner, key, n); got != want[i] {
					t.Errorf("native: %s of %q in %d: %d, want %d", partitioner, key, n, got, want[i])
				}
			}
		}
	}
}

func TestWithoutAKeyThePartitionIsRandom(t *testing.T) {
	for _, partitioner := range []string{"consistent_random", "murmur2_random", "fnv1a_random"} {
		seen := map[int32]bool{}
		for range 1000 {
			p, err := kafkabus.PartitionOf(partitioner, "", 3)
			if err != nil || p < 0 || p > 2 {
				t.Fatal(p, err)
			}
			seen[p] = true
		}
		if len(seen) != 3 {
			t.Errorf("%s used %v of 3 partitions", partitioner, seen)
		}
	}
}
