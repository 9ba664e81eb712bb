package redisbus

import (
	"fmt"
	"maps"
	"strconv"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/aura360/eventbus/bus/driver"
	"github.com/aura360/eventbus/events"
)

// The native build writes its commands itself, in RESP
// (https://redis.io/docs/latest/develop/reference/protocol-spec/), each message
// once, on its publisher's goroutine: what is sent can then be put together with
// that of others, and a publisher that leaves keeps nothing back.

const (
	commandMulti = "*1\r\n$5\r\nMULTI\r\n"
	commandExec  = "*1\r\n$4\r\nEXEC\r\n"
)

// xaddPrefix is how an XADD to stream begins, up to the value of the first field.
func xaddPrefix(stream string, create bool) []byte {
	args := 9
	if !create {
		args++
	}
	b := append([]byte(nil), '*')
	b = append(strconv.AppendInt(b, int64(args), 10), "\r\n"...)
	b = appendBulk(b, "XADD")
	b = appendBulk(b, stream)
	if !create {
		b = appendBulk(b, "NOMKSTREAM")
	}
	b = appendBulk(b, "*")
	return appendBulk(b, fieldUUID)
}

// appendBulk writes a RESP bulk string.
func appendBulk[T ~string | ~[]byte](b []byte, s T) []byte {
	b = append(b, '$')
	b = strconv.AppendInt(b, int64(len(s)), 10)
	b = append(b, "\r\n"...)
	b = append(b, s...)
	return append(b, "\r\n"...)
}

// appendEntry writes the rest of an XADD: watermill-redisstream's own entry.
// scratch is for the metadata; it is returned to be used again.
func appendEntry(b, scratch []byte, msg *message.Message, maxBytes int) (out, used []byte, err error) {
	metadata := msg.Metadata
	if metadata[fieldUUID] != "" {
		return b, scratch, fmt.Errorf("%w: metadata %s is the adapter's own", driver.ErrPermanent, fieldUUID)
	}
	if len(msg.Payload) > maxBytes { // or it would be copied first
		return b, scratch, errTooLarge(len(msg.Payload), maxBytes)
	}
	if _, ok := metadata[events.HeaderMalformed]; ok {
		metadata = maps.Clone(metadata)
		delete(metadata, events.HeaderMalformed)
	}
	scratch, size := appendMetadata(scratch[:0], metadata)
	if size += len(msg.UUID) + len(msg.Payload); size > maxBytes {
		return b, scratch, errTooLarge(size, maxBytes)
	}
	b = appendBulk(b, msg.UUID)
	b = append(b, "$8\r\n"+fieldMetadata+"\r\n"...)
	b = appendBulk(b, scratch)
	b = append(b, "$7\r\n"+fieldPayload+"\r\n"...)
	return appendBulk(b, msg.Payload), scratch, nil
}

func errTooLarge(size, most int) error {
	return fmt.Errorf("%w: message of %d bytes, more than %d", driver.ErrPermanent, size, most)
}
