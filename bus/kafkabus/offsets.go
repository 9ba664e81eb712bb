package kafkabus

import (
	"encoding/base64"
	"encoding/binary"
	"slices"
	"sort"
	"strings"
)

// offsets is what a member knows of one partition: which of the records that it
// has fetched are not done. Messages are acked in any order, Kafka remembers one
// offset; so the offset before which all is done is committed, and what is done
// beyond it is written into the commit's metadata, for the next owner.
//
// Invariants, checked against a model in offsets_test.go:
//
//   - every offset below next is done, or does not exist (compacted, a
//     transaction's marker), or is in open with done false;
//   - open is ascending from first on, and open[first] is not done;
//   - inherited holds what an earlier owner had done at next or beyond,
//     ascending, in spans that do not touch.
//
// Memory grows with what is not done, not with how far ahead others are.
type offsets struct {
	next      int64 // after the last one added; -1 when the start is not known yet
	open      []openOffset
	first     int
	undone    int
	inherited []span
}

type openOffset struct {
	offset int64
	done   bool
}

// span is the offsets that begin at from and end before to.
type span struct{ from, to int64 }

// newOffsets starts at a committed offset, -1 for none, with what was done beyond.
func newOffsets(committed int64, beyond []span) offsets {
	if committed < 0 {
		return offsets{next: -1}
	}
	return offsets{next: committed, inherited: beyond}
}

// add notes that a record was fetched, and reports whether it is still to be
// handled. Offsets are added in ascending order.
func (o *offsets) add(offset int64) bool {
	o.next = offset + 1
	for len(o.inherited) > 0 && o.inherited[0].to <= offset {
		o.inherited = o.inherited[1:]
	}
	if len(o.inherited) > 0 && o.inherited[0].from <= offset {
		if o.inherited[0].from = o.next; o.inherited[0].from == o.inherited[0].to {
			o.inherited = o.inherited[1:]
		}
		return false
	}
	o.open = append(o.open, openOffset{offset: offset})
	o.undone++
	return true
}

// done notes that the record at offset is handled. Others change nothing.
func (o *offsets) done(offset int64) {
	rest := o.open[o.first:]
	i := sort.Search(len(rest), func(i int) bool { return rest[i].offset >= offset })
	if i == len(rest) || rest[i].offset != offset || rest[i].done {
		return
	}
	rest[i].done = true
	o.undone--
	for o.first < len(o.open) && o.open[o.first].done {
		o.first++
	}
	if len(o.open) > 64 && 2*o.undone < len(o.open) {
		o.open = slices.DeleteFunc(o.open, func(e openOffset) bool { return e.done })
		o.first = 0
	}
}

// prefix is the offset to commit: before it all is done. -1 while it is not known.
func (o *offsets) prefix() int64 {
	if o.first < len(o.open) {
		return o.open[o.first].offset
	}
	return o.next
}

// beyond is what is done beyond the prefix.
func (o *offsets) beyond() []span {
	var list []span
	at := o.prefix()
	for _, e := range o.open[o.first:] {
		if e.done {
			continue
		}
		if e.offset > at {
			list = append(list, span{at, e.offset})
		}
		at = e.offset + 1
	}
	if at < o.next {
		list = append(list, span{at, o.next})
	}
	for _, s := range o.inherited {
		if n := len(list); n > 0 && list[n-1].to == s.from {
			list[n-1].to = s.to
		} else {
			list = append(list, s)
		}
	}
	return list
}

const (
	// metadataMark begins our metadata: other clients write other things there.
	metadataMark = "eb1:"
	// maxMetadata is what brokers take by default (offset.metadata.max.bytes).
	maxMetadata = 4096
)

// topicID tells a topic from another of its name, made later. Brokers older than
// 2.8 have none: it is zero.
type topicID [16]byte

// encodeMetadata writes the topic and the spans: for each, how far it begins after
// the end of the one before, and its length, as varints, all in base64. What does
// not fit is left out from the end: it will be handled again.
func encodeMetadata(topic topicID, prefix int64, spans []span) string {
	const room = (maxMetadata - len(metadataMark)) * 3 / 4
	b := topic[:]
	at := prefix
	for _, s := range spans {
		before := len(b)
		b = binary.AppendUvarint(b, uint64(s.from-at))   //nolint:gosec // ascending
		b = binary.AppendUvarint(b, uint64(s.to-s.from)) //nolint:gosec // ascending
		if len(b) > room {
			b = b[:before]
			break
		}
		at = s.to
	}
	return metadataMark + base64.RawStdEncoding.EncodeToString(b)
}

// decodeMetadata reads what encodeMetadata wrote. Of anything else it believes
// nothing, and returns no topic.
func decodeMetadata(prefix int64, metadata string) (topic topicID, spans []span) {
	text, ok := strings.CutPrefix(metadata, metadataMark)
	if !ok {
		return topicID{}, nil
	}
	b, err := base64.RawStdEncoding.DecodeString(text)
	if err != nil || len(b) < len(topic) {
		return topicID{}, nil
	}
	b = b[copy(topic[:], b):]
	at := prefix
	for len(b) > 0 {
		gap, n := binary.Uvarint(b)
		if n <= 0 {
			return topicID{}, nil
		}
		size, k := binary.Uvarint(b[n:])
		if k <= 0 || size == 0 || gap == 0 && len(spans) > 0 || gap > 1<<40 || size > 1<<40 {
			return topicID{}, nil
		}
		b = b[n+k:]
		from := at + int64(gap) //nolint:gosec // checked
		at = from + int64(size) //nolint:gosec // checked
		spans = append(spans, span{from, at})
	}
	return topic, spans
}

// committedIn returns where to go on in a topic, -1 for its start, and what is
// done beyond. A commit that was made in another topic of the name says nothing
// about this one; one that does not tell, because another client made it, is
// believed.
func committedIn(topic topicID, committed int64, metadata string) (int64, []span) {
	of, beyond := decodeMetadata(committed, metadata)
	if of != topic && of != (topicID{}) && topic != (topicID{}) {
		return -1, nil
	}
	return committed, beyond
}
