package main

import (
	"math"
	"time"
)

// histogram counts durations in buckets that grow by 2^(1/8) from 1 µs to
// about 18 minutes: a quantile is at most 9 % too high, never too low. It is a
// value: a copy is a snapshot, and two of them make the time between.
type histogram struct {
	buckets [241]uint32
	n       uint32
}

const perOctave = 8

func (h *histogram) add(d time.Duration) {
	i := 0
	if us := float64(d) / float64(time.Microsecond); us > 1 {
		i = min(int(math.Ceil(math.Log2(us)*perOctave)), len(h.buckets)-1)
	}
	h.buckets[i]++
	h.n++
}

// since returns what was added after the snapshot.
func (h histogram) since(snapshot histogram) histogram {
	for i := range h.buckets {
		h.buckets[i] -= snapshot.buckets[i]
	}
	h.n -= snapshot.n
	return h
}

// quantile returns the time that the share q of all took at most, 0 when there
// is nothing.
func (h histogram) quantile(q float64) time.Duration {
	rank := uint32(math.Ceil(q * float64(h.n)))
	var sum uint32
	for i, n := range &h.buckets {
		if sum += n; n > 0 && sum >= rank {
			return time.Duration(math.Exp2(float64(i)/perOctave) * float64(time.Microsecond))
		}
	}
	return 0
}
