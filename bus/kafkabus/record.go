package kafkabus

import (
	"bytes"
	"encoding/binary"

	"github.com/ThreeDotsLabs/watermill-kafka/v3/pkg/kafka"
	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/aura360/eventbus/bus/driver"
	"github.com/aura360/eventbus/events"
)

// writeRecords makes the records of msgs as the stock marshaler does: Watermill's
// UUID and the metadata as headers, the partition key as key. Everything is
// copied, in few pieces: a record may outlive the call that made it.
func writeRecords(topic string, msgs []*message.Message) []kgo.Record {
	total, headers := 0, 0
	for _, m := range msgs {
		total += len(m.UUID) + len(m.Payload)
		headers += len(m.Metadata) + 1
		for _, v := range m.Metadata {
			total += len(v)
		}
	}
	records := make([]kgo.Record, len(msgs))
	list := make([]kgo.RecordHeader, 0, headers)
	data := make([]byte, 0, total)
	add := func(s string) []byte {
		at := len(data)
		data = append(data, s...)
		return data[at:len(data):len(data)]
	}
	for i, m := range msgs {
		r := &records[i]
		r.Topic = topic
		at := len(list)
		if m.UUID != "" {
			list = append(list, kgo.RecordHeader{Key: kafka.UUIDHeaderKey, Value: add(m.UUID)})
		}
		for name, value := range m.Metadata {
			switch name {
			case events.HeaderKey, events.HeaderMalformed, kafka.UUIDHeaderKey:
				// The key is the record's. The others are ours to set on delivery.
			default:
				list = append(list, kgo.RecordHeader{Key: name, Value: add(value)})
			}
		}
		r.Headers = list[at:len(list):len(list)]
		if key := driver.Key(m); key != "" {
			r.Key = add(key)
		}
		if m.Payload != nil {
			at := len(data)
			data = append(data, m.Payload...)
			r.Value = data[at:len(data):len(data)]
		}
	}
	return records
}

// recordSize is at least what r takes in a batch.
// https://kafka.apache.org/documentation/#record
func recordSize(r *kgo.Record) int {
	n := 40 + len(r.Key) + len(r.Value) // seven varints and the attributes
	for i := range r.Headers {
		n += 10 + len(r.Headers[i].Key) + len(r.Headers[i].Value)
	}
	return n
}

// readRecord packs what a message is made of, other than its payload, into one
// string: how many pieces of metadata there are, then name and value of each, and
// of the UUID under its header's name. Nothing of the client's memory is kept, which is that of a
// whole batch: one message that waits for an hour must not hold a megabyte.
// Reading never fails; what cannot be read whole is marked malformed.
func readRecord(scratch []byte, r *kgo.Record) (fields string, payload []byte, buf []byte) {
	// At most: what is left out leaves a little room in a map.
	buf = binary.AppendUvarint(scratch[:0], uint64(min(len(r.Headers), maxHeaders)+2)) //nolint:gosec // positive
	size := 0
	malformed, hasUUID := false, false
	for i := range r.Headers {
		h := &r.Headers[i]
		size += len(h.Key) + len(h.Value)
		if i == maxHeaders || size > maxHeaderBytes {
			malformed = true
			break
		}
		switch h.Key {
		case events.HeaderKey, events.HeaderMalformed:
			continue // not a producer's to say
		case kafka.UUIDHeaderKey:
			hasUUID = hasUUID || len(h.Value) > 0
		}
		buf = appendField(buf, h.Key, h.Value)
	}
	if malformed {
		buf = appendField(buf, events.HeaderMalformed, tooManyHeaders(len(r.Headers)))
	}
	if len(r.Key) > 0 {
		buf = appendField(buf, events.HeaderKey, r.Key)
	}
	if !hasUUID {
		buf = appendField(buf, kafka.UUIDHeaderKey, recordUUID(r.Topic, r.Partition, r.Offset, r.Timestamp))
	}
	return string(buf), bytes.Clone(r.Value), buf
}

func appendField[V string | []byte](b []byte, name string, value V) []byte {
	b = binary.AppendUvarint(b, uint64(len(name)))
	b = append(b, name...)
	b = binary.AppendUvarint(b, uint64(len(value)))
	return append(b, value...)
}

// newMessage makes a message of what readRecord returned.
func newMessage(fields string, payload []byte) *message.Message {
	n, fields := cutCount(fields)
	msg := message.NewMessage("", payload)
	msg.Metadata = make(message.Metadata, n)
	for fields != "" {
		var name, value string
		name, fields = cutField(fields)
		value, fields = cutField(fields)
		if name == kafka.UUIDHeaderKey {
			msg.UUID = value
		} else {
			msg.Metadata[name] = value
		}
	}
	return msg
}

// cutField takes a length and as many bytes off the front.
func cutField(s string) (field, rest string) {
	n, rest := cutCount(s)
	return rest[:n], rest[n:]
}

// cutCount takes a varint off the front.
func cutCount(s string) (n int, rest string) {
	for i := range len(s) {
		n |= int(s[i]&0x7f) << (7 * i)
		if s[i] < 0x80 {
			return n, s[i+1:]
		}
	}
	return 0, ""
}
