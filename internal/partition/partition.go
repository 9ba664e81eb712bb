// Package partition says which partition of a topic a key belongs to, for the
// backends that choose by themselves. It is what librdkafka's default
// partitioner does, so that the Go and Python producers of a topic, on Kafka and
// on Redis, agree.
package partition

import (
	"hash/crc32"
	"math/rand/v2"
)

// Of returns the partition of a key among n, 0 to n-1: CRC32 (IEEE) modulo n;
// a random one without a key.
func Of(key string, n int) int {
	if n <= 1 {
		return 0
	}
	if key == "" {
		return rand.IntN(n)
	}
	// By hand: crc32.ChecksumIEEE wants bytes, and lets them escape.
	crc := ^uint32(0)
	for i := range len(key) {
		crc = crc32.IEEETable[byte(crc)^key[i]] ^ (crc >> 8)
	}
	return int(^crc % uint32(n)) //nolint:gosec // n is a number of partitions
}
