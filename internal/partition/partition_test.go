package partition_test

import (
	"hash/crc32"
	"testing"

	"pgregory.net/rapid"

	"github.com/aura360/eventbus/internal/partition"
)

func TestAKeysPartitionIsItsCRC32(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		key := rapid.StringN(1, -1, 100).Draw(t, "key")
		n := rapid.IntRange(1, 1000).Draw(t, "n")
		want := int(crc32.ChecksumIEEE([]byte(key)) % uint32(n))
		if got := partition.Of(key, n); got != want {
			t.Fatalf("%d, want %d", got, want)
		}
	})
}

func TestWithoutAKeyEveryPartitionIsChosen(t *testing.T) {
	seen := map[int]bool{}
	for range 10_000 {
		seen[partition.Of("", 3)] = true
	}
	if len(seen) != 3 || !seen[0] || !seen[1] || !seen[2] {
		t.Errorf("chosen: %v", seen)
	}
}
