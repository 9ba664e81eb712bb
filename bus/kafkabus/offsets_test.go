package kafkabus

import (
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// TestOffsetsAgainstAModel: members own a partition one after the other. Each
// fetches from what the one before committed, in which there may be holes, and
// acks in any order. Nothing is taken for done that was not, nothing done comes
// again that the commit told.
func TestOffsetsAgainstAModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		// The log: which offsets exist.
		var log []int64
		steps := rapid.SliceOfN(rapid.SampledFrom([]int64{1, 1, 1, 2, 5}), 200, 200).Draw(t, "steps")
		for at := rapid.Int64Range(0, 1000).Draw(t, "start"); len(log) < len(steps); at += steps[len(log)-1] {
			log = append(log, at)
		}
		done := map[int64]bool{}  // ever acked
		mine := map[int64]bool{}  // of those, what this owner knows of
		known := map[int64]bool{} // and the last commit told
		committed, metadata := log[0], ""
		id := topicID{1: 7, 15: 255}
		var o offsets
		var fetched []int64 // to be handled, by this owner
		var at int          // in log, the next to fetch
		takeOver := func(*rapid.T) {
			o = newOffsets(committedIn(id, committed, metadata))
			fetched, mine = nil, maps.Clone(known)
			at = slices.IndexFunc(log, func(x int64) bool { return x >= committed })
			if at < 0 {
				at = len(log)
			}
		}
		takeOver(t)
		t.Repeat(map[string]func(*rapid.T){
			"fetch": func(t *rapid.T) {
				for range rapid.IntRange(1, 20).Draw(t, "n") {
					if at == len(log) {
						return
					}
					x := log[at]
					at++
					if o.add(x) {
						if known[x] {
							t.Fatalf("%d comes again, though the commit told that it is done", x)
						}
						fetched = append(fetched, x)
					} else if !done[x] {
						t.Fatalf("%d is skipped and was never done", x)
					}
				}
			},
			"ack": func(t *rapid.T) {
				for range rapid.IntRange(1, 10).Draw(t, "n") {
					if len(fetched) == 0 {
						return
					}
					i := rapid.IntRange(0, len(fetched)-1).Draw(t, "which")
					o.done(fetched[i])
					o.done(fetched[i]) // again changes nothing
					done[fetched[i]], mine[fetched[i]] = true, true
					fetched = slices.Delete(fetched, i, i+1)
				}
			},
			"commit": func(*rapid.T) {
				committed, metadata = o.prefix(), encodeMetadata(id, o.prefix(), o.beyond())
				known = maps.Clone(mine)
			},
			"take over": takeOver,
			"": func(t *rapid.T) {
				p := o.prefix()
				for _, x := range log {
					if x < p && !done[x] {
						t.Fatalf("the prefix is %d and %d is not done", p, x)
					}
				}
				for _, s := range o.beyond() {
					for x := s.from; x < s.to; x++ {
						if slices.Contains(log, x) && !done[x] {
							t.Fatalf("%v is beyond %d, and %d is not done", s, p, x)
						}
					}
				}
				if of, got := decodeMetadata(p, encodeMetadata(id, p, o.beyond())); of != id || !slices.Equal(got, o.beyond()) {
					t.Fatalf("%v is read as %v", o.beyond(), got)
				}
				if open := len(o.open) - o.first; open > 64+2*len(fetched) {
					t.Fatalf("%d kept for %d not done", open, len(fetched))
				}
			},
		})
	})
}

// What does not fit is left out from the end.
func TestOffsetsMetadataIsBounded(t *testing.T) {
	for _, step := range []int64{2, 200, 20000} {
		var spans []span
		for i := range int64(10_000) {
			spans = append(spans, span{5 + i*step, 5 + i*step + 1})
		}
		text := encodeMetadata(topicID{9}, 1, spans)
		_, got := decodeMetadata(1, text)
		if len(text) > maxMetadata || len(got) < 500 || !slices.Equal(got, spans[:len(got)]) {
			t.Errorf("step %d: %d bytes for %d spans", step, len(text), len(got))
		}
		t.Logf("step %d: %d spans in %d bytes", step, len(got), len(text))
	}
}

func TestOffsetsBelieveNothingElse(t *testing.T) {
	for _, s := range []string{
		"", "consumer-1-0b2e", metadataMark, metadataMark + "!", metadataMark + "gA", metadataMark + strings.Repeat("A", 24) + "//",
		metadataMark + strings.Repeat("/", 40), metadataMark + strings.Repeat("A", 22) + "AQA",
	} {
		if of, got := decodeMetadata(10, s); got != nil || of != (topicID{}) {
			t.Errorf("%q: %v %v", s, of, got)
		}
	}
	// A commit is believed in the topic it was made in, or where that is not known.
	one, two := topicID{1}, topicID{2}
	for _, c := range []struct {
		made, now topicID
		want      int64
	}{{one, one, 10}, {one, two, -1}, {topicID{}, two, 10}, {one, topicID{}, 10}} {
		if at, _ := committedIn(c.now, 10, encodeMetadata(c.made, 10, nil)); at != c.want {
			t.Errorf("made in %v, now %v: %d", c.made, c.now, at)
		}
	}
}

func BenchmarkOffsets(b *testing.B) {
	o := newOffsets(0, nil)
	window := make([]int64, 0, 256)
	next := int64(0)
	for b.Loop() {
		for len(window) < cap(window) {
			o.add(next)
			window = append(window, next)
			next++
		}
		i := rand.N(len(window))
		o.done(window[i])
		window[i] = window[len(window)-1]
		window = window[:len(window)-1]
	}
	if o.prefix() < 0 {
		b.Fatal("no prefix")
	}
}
