package middleware

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"strings"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/aura360/eventbus/events"
)

func TestPoisonMessageKeepsBytesAndHeaders(t *testing.T) {
	msg := keyed("id-1", "user-1")
	msg.Metadata["x-raw"] = "\xff\x00"
	msg.Metadata[events.HeaderPoisonSize] = "99" // of an earlier poisoning
	before := maps.Clone(msg.Metadata)
	at := time.Date(2026, 1, 2, 3, 4, 5, 678900, time.FixedZone("", 3600))
	out := PoisonMessage(msg, PoisonInfo{
		Reason: events.ReasonExhausted, Err: fmt.Errorf("outer: %w", errBoom),
		Handler: "h", Group: "g", Topic: "t", Backend: "kafka", Host: "host", Attempts: 5, First: at, Last: at.Add(time.Second),
	}, 1<<20)
	want := message.Metadata{
		"event_id": "id-1", "eb_key": "user-1", "x-raw": "\xff\x00",
		"eb_poison_reason": "exhausted", "eb_poison_error": "outer: boom", "eb_poison_handler": "h", "eb_poison_group": "g",
		"eb_poison_topic": "t", "eb_poison_attempts": "5", "eb_poison_first_failure": "2026-01-02T02:04:05.000678Z",
		"eb_poison_last_failure": "2026-01-02T02:04:06.000678Z", "eb_poison_backend": "kafka", "eb_poison_host": "host", "eb_poison_uuid": "id-1",
	}
	if !maps.Equal(out.Metadata, want) || out.UUID != "id-1" || string(out.Payload) != "{}" {
		t.Errorf("got %v\nwant %v", out.Metadata, want)
	}
	if !maps.Equal(msg.Metadata, before) {
		t.Error("the message was changed")
	}
}

func TestPoisonMessageIsBounded(t *testing.T) {
	msg := keyed("id-1", "")
	msg.Payload = bytes.Repeat([]byte("x"), 1000)
	for i := range 50 {
		msg.Metadata[fmt.Sprintf("h%02d", i)] = strings.Repeat("v", 10<<10)
	}
	info := PoisonInfo{Reason: events.ReasonTooLarge, Err: errors.New(strings.Repeat("é", 1<<20)), Backend: "redis", Topic: "t", Host: strings.Repeat("h", 1<<16)}
	out := PoisonMessage(msg, info, 100)
	size := 0
	for k, v := range out.Metadata {
		size += len(k) + len(v)
	}
	sum := sha256.Sum256(msg.Payload)
	m := out.Metadata
	if len(out.Payload) != 100 || m["eb_poison_size"] != "1000" || m["eb_poison_sha256"] != hex.EncodeToString(sum[:]) || m["eb_poison_source"] != "redis:t:id-1" {
		t.Errorf("payload %d, size %s, sha %s, source %s", len(out.Payload), m["eb_poison_size"], m["eb_poison_sha256"], m["eb_poison_source"])
	}
	if size > maxPoisonHeaderBytes+maxPoisonErrorBytes+8<<10 || len(m["eb_poison_error"]) > maxPoisonErrorBytes {
		t.Errorf("headers of %d bytes, error %d", size, len(m["eb_poison_error"]))
	}
	if m["event_id"] != "id-1" || m["h00"] == "" || m["h49"] != "" || !strings.Contains(m["eb_poison_error"], "headers do not fit") {
		t.Errorf("kept %d headers; error ends %q", len(m), m["eb_poison_error"][len(m["eb_poison_error"])-40:])
	}
	info.Source = "redis:t:1700-0"
	if got := PoisonMessage(msg, info, 100).Metadata["eb_poison_source"]; got != "redis:t:1700-0" {
		t.Errorf("source %s", got)
	}
}

func TestPoisonWantsASink(t *testing.T) {
	for name, f := range map[string]func(){"Poison": func() { Poison(nil, nil) }, "PoisonPublish": func() { PoisonPublish(nil) }} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("%s took a nil sink", name)
				}
			}()
			f()
		}()
	}
}
