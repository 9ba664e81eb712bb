package redisbus_test

import (
	"bytes"
	"maps"
	"strconv"
	"strings"
	"testing"

	"github.com/ThreeDotsLabs/watermill"
	"github.com/ThreeDotsLabs/watermill-redisstream/pkg/redisstream"
	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/redis/go-redis/v9"

	"github.com/aura360/eventbus/bus/redisbus"
	"github.com/aura360/eventbus/events"
	"github.com/aura360/eventbus/internal/brokertest"
)

func TestPlainWatermillReadsOursAndWeReadTheirs(t *testing.T) {
	eachRedis(t, func(t *testing.T, r brokertest.Redis) {
		b := open(t, creating(r.URL))
		sent := message.NewMessage(watermill.NewUUID(), []byte("payload \x00\xff"))
		sent.Metadata = message.Metadata{events.HeaderKey: "user-1", "empty": "", "ce_type": "x"}
		check := func(got *message.Message) {
			t.Helper()
			if !got.Equals(sent) {
				t.Errorf("got %s %q %v, want %s %q %v", got.UUID, got.Payload, got.Metadata, sent.UUID, sent.Payload, sent.Metadata)
			}
			got.Ack()
		}

		ours := brokertest.Name(t, "ours")
		marked := sent.Copy()
		marked.Metadata.Set(events.HeaderMalformed, "never on the wire")
		if err := b.Publish(t.Context(), ours, marked); err != nil {
			t.Fatal(err)
		}
		theirSub, err := redisstream.NewSubscriber(redisstream.SubscriberConfig{
			Client: client(t, r.URL), ConsumerGroup: "plain", DisableIndefiniteInitialBlock: true,
		}, nil)
		if err != nil {
			t.Fatal(err)
		}
		defer theirSub.Close()
		ch, err := theirSub.Subscribe(t.Context(), ours)
		if err != nil {
			t.Fatal(err)
		}
		check(next(t, ch))

		theirs := brokertest.Name(t, "theirs")
		theirPub, err := redisstream.NewPublisher(redisstream.PublisherConfig{Client: client(t, r.URL)}, nil)
		if err != nil {
			t.Fatal(err)
		}
		defer theirPub.Close()
		if err := theirPub.Publish(theirs, sent); err != nil {
			t.Fatal(err)
		}
		check(next(t, subscribe(t, subscriber(t, b, "g"), theirs)))

		// Byte for byte, but for the order of a map.
		c := client(t, r.URL)
		if err := theirPub.Publish(ours, message.NewMessage("bare", []byte("p"))); err != nil {
			t.Fatal(err)
		}
		if err := b.Publish(t.Context(), ours, message.NewMessage("bare", []byte("p"))); err != nil {
			t.Fatal(err)
		}
		last, err := c.XRevRangeN(t.Context(), ours, "+", "-", 2).Result()
		if err != nil || !maps.Equal(last[0].Values, last[1].Values) {
			t.Errorf("entries differ: %v (%v)", last, err)
		}
	})
}

// entries is what strangers put into streams, and what becomes of it.
var entries = []struct {
	name      string
	fields    []any
	payload   string
	malformed string // part of the reason; "" when it is good
}{
	{"payload only", []any{"payload", "x"}, "x", ""},
	{"payload and other fields", []any{"payload", "x", "other", "y"}, "x", ""},
	{"UUID only", []any{"_watermill_message_uuid", "u"}, "", ""},
	{"foreign fields", []any{"event", "{}", "n", "1"}, `{"event":"{}","n":"1"}`, "no field"},
	{"foreign bytes", []any{"b", "\xff"}, `{"b":{"base64":"/w=="}}`, "no field"},
	{"metadata without a payload", []any{"metadata", ""}, `{"metadata":""}`, "no field"},
	{"metadata is no MessagePack", []any{"_watermill_message_uuid", "u", "metadata", "\xc1", "payload", "x"}, "x", "metadata"},
	{"metadata is text", []any{"_watermill_message_uuid", "u", "metadata", "{}", "payload", "x"}, "x", "metadata"},
	{"metadata is cut", []any{"_watermill_message_uuid", "u", "metadata", "\x81\xa3ke", "payload", "x"}, "x", "metadata"},
	{"metadata claims 4 billion headers", []any{"_watermill_message_uuid", "u", "metadata", "\xdf\xff\xff\xff\xff", "payload", "x"}, "x", "metadata"},
	{"a header claims 4 GB", []any{"_watermill_message_uuid", "u", "metadata", "\x81\xdb\xff\xff\xff\xff", "payload", "x"}, "x", "metadata"},
	{"metadata nested without end", []any{"_watermill_message_uuid", "u", "metadata", strings.Repeat("\x81", 100_000), "payload", "x"}, "x", "metadata"},
	{"metadata of 2 MiB", []any{"_watermill_message_uuid", "u", "metadata", strings.Repeat("\x81", 2<<20), "payload", "x"}, "x", "metadata of"},
	{"claims to be malformed", []any{"_watermill_message_uuid", "u", "metadata", "\x81\xaceb_malformed\xa1!", "payload", "x"}, "x", ""},
}

func TestWhatCannotBeReadIsDeliveredAndStopsNothing(t *testing.T) {
	eachRedis(t, func(t *testing.T, r brokertest.Redis) {
		b, topic, c := open(t, creating(r.URL)), brokertest.Name(t, "topic"), client(t, r.URL)
		for _, e := range entries {
			if err := c.XAdd(t.Context(), &redis.XAddArgs{Stream: topic, Values: e.fields}).Err(); err != nil {
				t.Fatal(err)
			}
		}
		publish(t, b, topic, "last")
		ch := subscribe(t, subscriber(t, b, "g"), topic)
		for _, e := range entries {
			m := next(t, ch)
			reason, marked := m.Metadata[events.HeaderMalformed]
			if string(m.Payload) != e.payload || m.UUID == "" || marked != (e.malformed != "") || !strings.Contains(reason, e.malformed) {
				t.Errorf("%s: payload %q, UUID %q, reason %q; want payload %q, reason %q", e.name, m.Payload, m.UUID, reason, e.payload, e.malformed)
			}
			m.Ack()
		}
		take(t, ch, "last")
	})
}

func FuzzReadingNeverFails(f *testing.F) {
	f.Add("u", "\x81\xa1k\xa1v", "payload", true, true, true)
	f.Add("", "\xdf\xff\xff\xff\xff", "", true, true, false)
	f.Fuzz(func(t *testing.T, uuid, metadata, payload string, hasUUID, hasMetadata, hasPayload bool) {
		values := map[string]any{"other": metadata}
		if hasUUID {
			values["_watermill_message_uuid"] = uuid
		}
		if hasMetadata {
			values["metadata"] = metadata
		}
		if hasPayload {
			values["payload"] = payload
		}
		m, err := redisbus.Unmarshal(values)
		if err != nil || m == nil {
			t.Fatal(err)
		}
		if hasPayload && string(m.Payload) != payload {
			t.Errorf("payload %q, want %q", m.Payload, payload)
		}
	})
}

func TestMetadataIsWrittenAsTheStockMarshallerWritesIt(t *testing.T) {
	many := func(n int) message.Metadata {
		m := message.Metadata{}
		for i := range n {
			m[strconv.Itoa(i)] = "v"
		}
		return m
	}
	var all []message.Metadata
	for _, n := range []int{0, 1, 31, 32, 255, 256, 65535, 65536} {
		all = append(all, message.Metadata{"k": strings.Repeat("x", n)}, message.Metadata{strings.Repeat("k", n): "ü"})
	}
	all = append(all, nil, many(15), many(16), many(65535), many(65536))
	for _, m := range all {
		msg := message.NewMessage("uuid", []byte("payload"))
		msg.Metadata = m
		ours, err := redisbus.Marshal(msg)
		if err != nil {
			t.Fatal(err)
		}
		stock, err := redisstream.DefaultMarshallerUnmarshaller{}.Marshal("topic", msg)
		if err != nil {
			t.Fatal(err)
		}
		a, b := ours["metadata"].([]byte), stock["metadata"].([]byte)
		// A map has no order: of several entries only the length can be compared.
		if len(a) != len(b) || len(m) < 2 && !bytes.Equal(a, b) {
			t.Errorf("%d entries: %d bytes, the stock writes %d", len(m), len(a), len(b))
		}
		back, err := redisstream.DefaultMarshallerUnmarshaller{}.Unmarshal(map[string]any{
			"_watermill_message_uuid": ours["_watermill_message_uuid"], "metadata": string(a), "payload": string(ours["payload"].([]byte)),
		})
		if err != nil || !maps.Equal(back.Metadata, m) || back.UUID != "uuid" || string(back.Payload) != "payload" {
			t.Errorf("%d entries: the stock reads %v, %v", len(m), back, err)
		}
	}
	reserved := message.NewMessage("uuid", nil)
	reserved.Metadata["_watermill_message_uuid"] = "x"
	if _, err := redisbus.Marshal(reserved); err == nil {
		t.Error("a reserved name was accepted")
	}
}
