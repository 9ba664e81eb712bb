package redisbus

import (
	"encoding/binary"
	"strings"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/aura360/eventbus/events"
)

// parseID is parseStreamID for ids that Redis wrote in full.
func parseID(b []byte) (id streamID, ok bool) {
	at := 0
	for ; at < len(b) && b[at] != '-'; at++ {
		id.ms = id.ms*10 + uint64(b[at]-'0')
	}
	for at++; at < len(b); at++ {
		id.seq = id.seq*10 + uint64(b[at]-'0')
	}
	return id, at == len(b) && at > 0
}

// entry is one entry of a stream, as the delivery needs it: enough to make its
// message again after a nack.
type entry struct {
	p    *lease
	id   streamID
	uuid string

	// What the publishers of the wire write. metadata is the field's bytes.
	metadata string
	payload  []byte

	// values is set for all else, and says the same less compactly.
	values map[string]any
}

// decode reads the fields of an entry, name and value in turns, which it does not
// keep. It never fails: see wire.Unmarshal, which it is a fast form of.
func decode(p *lease, id streamID, fields [][]byte) (entry, *message.Message) {
	e := entry{p: p, id: id}
	var uuid, metadata []byte
	plain := len(fields) == 6
	for i := 0; plain && i < len(fields); i += 2 {
		switch string(fields[i]) {
		case fieldUUID:
			uuid = fields[i+1]
		case fieldMetadata:
			metadata = fields[i+1]
		case fieldPayload:
			e.payload = append([]byte{}, fields[i+1]...)
		default:
			plain = false
		}
	}
	if plain && uuid != nil && e.payload != nil && len(metadata) <= maxMetadataBytes {
		// One string for both: they live and die together.
		var both strings.Builder
		both.Grow(len(uuid) + len(metadata))
		both.Write(uuid)
		both.Write(metadata)
		e.uuid, e.metadata = both.String()[:len(uuid)], both.String()[len(uuid):]
		if md, ok := readMetadata(e.metadata); ok {
			return e, newMessage(e.uuid, e.payload, md)
		}
	}
	e.uuid, e.metadata, e.payload = "", "", nil
	e.values = make(map[string]any, len(fields)/2)
	for i := 0; i+1 < len(fields); i += 2 {
		e.values[string(fields[i])] = string(fields[i+1])
	}
	msg := e.message()
	e.uuid = msg.UUID // it may have been made up
	return e, msg
}

// message makes the entry's message.
func (e entry) message() *message.Message {
	if e.values == nil {
		md, _ := readMetadata(e.metadata)
		return newMessage(e.uuid, e.payload, md)
	}
	msg, err := wire{}.Unmarshal(e.values)
	if err != nil { // it never is
		msg = malformed(e.values, nil, err.Error())
	}
	if e.uuid != "" {
		msg.UUID = e.uuid
	}
	return msg
}

func newMessage(uuid string, payload []byte, md message.Metadata) *message.Message {
	msg := message.NewMessage(uuid, payload)
	msg.Metadata = md
	delete(md, events.HeaderMalformed) // ours to say, not a stranger's
	return msg
}

// readMetadata reads a MessagePack map of strings, or nothing. ok is false for
// everything else, also for what is valid and not written by the publishers we
// know: the general decoder decides then. The strings are parts of s.
func readMetadata(s string) (md message.Metadata, ok bool) {
	if s == "" {
		return message.Metadata{}, true
	}
	var n int
	switch c := s[0]; {
	case c&0xf0 == 0x80:
		n, s = int(c&0x0f), s[1:]
	case c == 0xde && len(s) >= 3:
		n, s = int(binary.BigEndian.Uint16([]byte(s[1:3]))), s[3:]
	default:
		return nil, false
	}
	md = make(message.Metadata, min(n, len(s)/2))
	for range n {
		var k, v string
		if k, s, ok = readString(s); !ok {
			return nil, false
		}
		if v, s, ok = readString(s); !ok {
			return nil, false
		}
		md[k] = v
	}
	return md, s == ""
}

func readString(s string) (v, rest string, ok bool) {
	if s == "" {
		return "", "", false
	}
	var n int
	head := 1
	switch c := s[0]; {
	case c&0xe0 == 0xa0:
		n = int(c & 0x1f)
	case c == 0xd9 && len(s) >= 2:
		head, n = 2, int(s[1])
	case c == 0xda && len(s) >= 3:
		head, n = 3, int(s[1])<<8|int(s[2])
	case c == 0xdb && len(s) >= 5:
		head, n = 5, int(s[1])<<24|int(s[2])<<16|int(s[3])<<8|int(s[4])
	default:
		return "", "", false
	}
	if len(s)-head < n {
		return "", "", false
	}
	return s[head : head+n], s[head+n:], true
}
