package kafkabus

import (
	"fmt"
	"time"

	"github.com/IBM/sarama"
	"github.com/ThreeDotsLabs/watermill-kafka/v3/pkg/kafka"
	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/google/uuid"

	"github.com/aura360/eventbus/bus/driver"
	"github.com/aura360/eventbus/events"
)

// Headers beyond these are cut, and the message is malformed: a map of a million
// headers must not take the consumer down.
const (
	maxHeaders     = 1000
	maxHeaderBytes = 1 << 20
)

// marshaler writes what the stock DefaultMarshaler writes (Watermill's UUID and
// the metadata as headers, the payload as value) and reads what anybody writes.
//
// It differs in the key, which is the record's and never a header, and in that
// reading never fails: the stock subscriber would end its claim on an error, and
// read the same record again, for ever.
type marshaler struct{}

var _ kafka.MarshalerUnmarshaler = marshaler{}

// Marshal implements kafka.Marshaler.
func (marshaler) Marshal(topic string, msg *message.Message) (*sarama.ProducerMessage, error) {
	headers := make([]sarama.RecordHeader, 0, len(msg.Metadata)+1)
	if msg.UUID != "" {
		headers = append(headers, sarama.RecordHeader{Key: []byte(kafka.UUIDHeaderKey), Value: []byte(msg.UUID)})
	}
	for name, value := range msg.Metadata {
		switch name {
		case events.HeaderKey, events.HeaderMalformed, kafka.UUIDHeaderKey:
			// The key is the record's. The others are ours to set on delivery.
		default:
			headers = append(headers, sarama.RecordHeader{Key: []byte(name), Value: []byte(value)})
		}
	}
	out := &sarama.ProducerMessage{
		Topic:   topic,
		Headers: headers,
		Value:   sarama.ByteEncoder(msg.Payload),
	}
	if key := driver.Key(msg); key != "" {
		out.Key = sarama.StringEncoder(key)
	}
	return out, nil
}

// Unmarshal implements kafka.Unmarshaler. The error is always nil.
func (marshaler) Unmarshal(rec *sarama.ConsumerMessage) (*message.Message, error) {
	msg := message.NewMessage("", rec.Value)
	msg.Metadata = make(message.Metadata, min(len(rec.Headers), maxHeaders)+1)
	malformed := ""
	size := 0
	for i, h := range rec.Headers {
		if h == nil {
			continue
		}
		size += len(h.Key) + len(h.Value)
		if i == maxHeaders || size > maxHeaderBytes {
			malformed = tooManyHeaders(len(rec.Headers))
			break
		}
		switch name := string(h.Key); name {
		case kafka.UUIDHeaderKey:
			msg.UUID = string(h.Value)
		case events.HeaderKey, events.HeaderMalformed:
			// Not a producer's to say.
		default:
			msg.Metadata[name] = string(h.Value)
		}
	}
	if malformed != "" {
		msg.Metadata[events.HeaderMalformed] = malformed
	}
	if len(rec.Key) > 0 {
		msg.Metadata[events.HeaderKey] = string(rec.Key)
	}
	if msg.UUID == "" {
		msg.UUID = recordUUID(rec.Topic, rec.Partition, rec.Offset, rec.Timestamp)
	}
	return msg, nil
}

// tooManyHeaders is what events.HeaderMalformed says of a record with n headers.
func tooManyHeaders(n int) string {
	return fmt.Sprintf("%d headers: more than %d, or more than %d bytes: cut", n, maxHeaders, maxHeaderBytes)
}

// recordUUID names a record of a producer that knows no Watermill: the same for
// every delivery of it, another for a record at its place in a topic made anew.
func recordUUID(topic string, partition int32, offset int64, at time.Time) string {
	name := fmt.Appendf(nil, "%s/%d/%d/%d", topic, partition, offset, at.UnixMilli())
	return uuid.NewSHA1(recordSpace, name).String()
}

var recordSpace = uuid.NewSHA1(uuid.NameSpaceURL, []byte("https://kafka.apache.org/protocol#record"))
