package redisbus

import (
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"maps"
	"unicode/utf8"

	"github.com/ThreeDotsLabs/watermill"
	"github.com/ThreeDotsLabs/watermill-redisstream/pkg/redisstream"
	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/aura360/eventbus/events"
)

// Fields of an entry, as watermill-redisstream writes and reads them.
const (
	fieldUUID     = redisstream.UUIDHeaderKey
	fieldMetadata = "metadata" // MessagePack map of strings; empty without metadata
	fieldPayload  = "payload"
)

// maxMetadataBytes is the longest metadata field that is decoded. Ordinary
// metadata has about 500 bytes, poison some kilobytes.
const maxMetadataBytes = 1 << 20

// wire is watermill-redisstream's default wire, byte for byte, for which reading
// never fails: an error would end the stock adapter's subscription for good, at
// the same entry every time.
type wire struct {
	stock    redisstream.DefaultMarshallerUnmarshaller
	maxBytes int // of a message that is written; 0 for no limit
}

// Marshal writes msg. It refuses one of more than maxBytes, where the metadata is
// looked through anyway. The payload is wrapped, so that Publish learns whether
// the entry was written to a connection.
func (w wire) Marshal(topic string, msg *message.Message) (map[string]any, error) {
	if msg.Metadata[fieldUUID] != "" {
		return w.stock.Marshal(topic, msg) // which says what is wrong
	}
	metadata := msg.Metadata
	if _, ok := metadata[events.HeaderMalformed]; ok {
		metadata = maps.Clone(metadata)
		delete(metadata, events.HeaderMalformed)
	}
	packed, size := appendMetadata(make([]byte, 0, 512), metadata)
	size += len(msg.UUID) + len(msg.Payload)
	if w.maxBytes > 0 && size > w.maxBytes {
		return nil, fmt.Errorf("%d bytes, more than %d", size, w.maxBytes)
	}
	values := map[string]any{fieldUUID: msg.UUID, fieldMetadata: packed, fieldPayload: []byte(msg.Payload)}
	if a := attemptOf(msg.Context()); a != nil {
		values[fieldPayload] = written{attempt: a, payload: msg.Payload}
	}
	return values, nil
}

// appendMetadata writes what the stock marshaller writes, a MessagePack map of
// strings or nothing, in a quarter of its time. size is what the strings take.
// https://github.com/msgpack/msgpack/blob/master/spec.md
func appendMetadata(b []byte, metadata message.Metadata) (_ []byte, size int) {
	switch n := len(metadata); {
	case n == 0:
		return b, 0
	case n < 1<<4:
		b = append(b, 0x80|byte(n))
	case n < 1<<16:
		b = binary.BigEndian.AppendUint16(append(b, 0xde), uint16(n))
	default:
		b = binary.BigEndian.AppendUint32(append(b, 0xdf), uint32(n)) //nolint:gosec // Publish bounds the whole
	}
	for k, v := range metadata {
		size += len(k) + len(v)
		b = appendString(appendString(b, k), v)
	}
	return b, size
}

func appendString(b []byte, s string) []byte {
	switch n := len(s); {
	case n < 1<<5:
		b = append(b, 0xa0|byte(n))
	case n < 1<<8:
		b = append(b, 0xd9, byte(n))
	case n < 1<<16:
		b = binary.BigEndian.AppendUint16(append(b, 0xda), uint16(n))
	default:
		b = binary.BigEndian.AppendUint32(append(b, 0xdb), uint32(n)) //nolint:gosec // Publish bounds the whole
	}
	return append(b, s...)
}

// Unmarshal reads an entry, whatever it is. What plain Watermill reads is read
// the same. An entry with a payload and no UUID is one that something else
// wrote, and good. In anything else the reason stands in events.HeaderMalformed.
func (w wire) Unmarshal(values map[string]any) (*message.Message, error) {
	_, hasUUID := values[fieldUUID].(string)
	payload, hasPayload := values[fieldPayload].(string)
	if !hasUUID && !hasPayload {
		reason := fmt.Sprintf("no field %q or %q in the entry", fieldPayload, fieldUUID)
		return malformed(values, fieldsAsJSON(values), reason), nil
	}
	if md, _ := values[fieldMetadata].(string); len(md) > maxMetadataBytes {
		reason := fmt.Sprintf("metadata of %d bytes, more than %d", len(md), maxMetadataBytes)
		return malformed(values, []byte(payload), reason), nil
	}
	if !hasUUID {
		values = maps.Clone(values)
		values[fieldUUID] = watermill.NewUUID()
	}
	msg, err := w.decode(values)
	if err != nil {
		return malformed(values, []byte(payload), err.Error()), nil
	}
	delete(msg.Metadata, events.HeaderMalformed) // ours to say, not a stranger's
	return msg, nil
}

// decode is the stock unmarshaller, and an error where it panics.
func (w wire) decode(values map[string]any) (msg *message.Message, err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("decode entry: panic: %v", r)
		}
	}()
	return w.stock.Unmarshal(values)
}

func malformed(values map[string]any, payload []byte, reason string) *message.Message {
	uuid, _ := values[fieldUUID].(string)
	if uuid == "" {
		uuid = watermill.NewUUID()
	}
	msg := message.NewMessage(uuid, payload)
	msg.Metadata.Set(events.HeaderMalformed, reason)
	return msg
}

// fieldsAsJSON is an entry that has no payload as an object. A value that is not
// UTF-8 becomes {"base64": "..."}.
func fieldsAsJSON(values map[string]any) []byte {
	if len(values) == 0 {
		return nil
	}
	out := make(map[string]any, len(values))
	for k, v := range values {
		if s, ok := v.(string); ok && !utf8.ValidString(s) {
			v = map[string]string{"base64": base64.StdEncoding.EncodeToString([]byte(s))}
		}
		out[k] = v
	}
	b, err := json.Marshal(out)
	if err != nil { // values are strings: what else it is cannot be sent
		return fmt.Append(nil, out)
	}
	return b
}
