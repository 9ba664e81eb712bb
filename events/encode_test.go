package events_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"math"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/aura360/eventbus/events"
)

func TestEncodeFillsTheCommonFields(t *testing.T) {
	before := time.Now().UTC().Truncate(time.Microsecond)
	enc := encode(t, simple{})
	b := enc.Base
	if len(b.ID) != 36 || b.ID[14] != '7' || b.Type != "simple" || b.Version != 1 || b.Timestamp.Before(before.Add(-time.Millisecond)) || enc.Key != "" {
		t.Errorf("filled %+v", b)
	}

	fill := events.Base{ID: "f", Timestamp: at, TraceID: "tr", UserID: "u", Metadata: map[string]any{"m": 1.0}}
	enc, err := events.Encode(&simple{}, fill)
	if err != nil {
		t.Fatal(err)
	}
	want := `{"event_id":"f","event_type":"simple","timestamp":"2025-01-07T12:34:56.123456Z","trace_id":"tr","user_id":"u","metadata":{"m":1}}`
	if string(enc.Body) != want || enc.Key != "u" {
		t.Errorf("key %q, body\n%s\nwant\n%s", enc.Key, enc.Body, want)
	}

	own := simple{events.Base{
		ID: "o", Type: "simple", Version: 1, UserID: "me", TraceID: "mine",
		Timestamp: time.Date(2025, 1, 7, 13, 34, 56, 123456789, time.FixedZone("CET", 3600)), Metadata: map[string]any{},
	}}
	if enc, err = events.Encode(own, fill); err != nil {
		t.Fatal(err)
	}
	want = `{"event_id":"o","event_type":"simple","timestamp":"2025-01-07T12:34:56.123456Z","trace_id":"mine","user_id":"me","metadata":{}}`
	if string(enc.Body) != want {
		t.Errorf("body\n%s\nwant\n%s", enc.Body, want)
	}
	if got := events.BaseOf(own); got.ID != "o" || got.Timestamp.Nanosecond() != 123456789 {
		t.Errorf("Encode changed its argument: %+v", got)
	}
}

func TestEncodeRefusesBadCommonFields(t *testing.T) {
	for _, c := range []struct {
		base  events.Base
		field string
	}{
		{events.Base{ID: strings.Repeat("x", 201)}, "event_id"},
		{events.Base{ID: "a\nb"}, "event_id"},
		{events.Base{ID: "a\x7f"}, "event_id"},
		{events.Base{ID: "a\xff"}, "event_id"},
		{events.Base{Type: "other"}, "event_type"},
		{events.Base{Version: 2}, "event_version"},
		{events.Base{Timestamp: time.Date(10000, 1, 1, 0, 0, 0, 0, time.UTC)}, "timestamp"},
		{events.Base{Timestamp: time.Date(-1, 1, 1, 0, 0, 0, 0, time.UTC)}, "timestamp"},
		{events.Base{TraceID: "\xff"}, "trace_id"},
		{events.Base{UserID: "\xff"}, "user_id"},
		{events.Base{Metadata: map[string]any{"c": make(chan int)}}, "metadata.c"},
		{events.Base{Metadata: map[string]any{"f": math.NaN()}}, "metadata.f"},
		{events.Base{Metadata: map[string]any{"s": []any{"\xff"}}}, "metadata.s.0"},
	} {
		enc, err := events.Encode(simple{c.base}, events.Base{})
		wantError(t, err, events.ReasonInvalid, c.field)
		if !reflect.DeepEqual(enc, events.Encoded{}) {
			t.Errorf("%s: an error came with %+v", c.field, enc)
		}
	}
	if _, err := events.Encode(simple{events.Base{ID: strings.Repeat("x", 200)}}, events.Base{}); err != nil {
		t.Error(err)
	}
}

func TestEncodeRefusesWhatIsNoEvent(t *testing.T) {
	_, err := events.Encode(nil, events.Base{})
	wantError(t, err, events.ReasonInvalid, "")
	_, err = events.Encode((*orderPlaced)(nil), events.Base{})
	wantError(t, err, events.ReasonInvalid, "")
	_, err = events.Encode(undefined{}, events.Base{})
	wantError(t, err, events.ReasonUnknownType, "")
}

func TestPublishingNeedsRequiredFields(t *testing.T) {
	if body := string(encode(t, order()).Body); !strings.Contains(body,
		`"metadata":{},"item":{"sku":"s","count":0,"gift":false,"note":""},"due":"2025-01-07T12:34:56.123456Z","tags":[""],"attrs":{"a":null},"total":0,"any":false,"memo":""}`) {
		t.Errorf("0, false and \"\" are values; body %s", body)
	}
	for field, empty := range map[string]func(*orderPlaced){
		"item.sku": func(e *orderPlaced) { e.Item.SKU = "" },
		"due":      func(e *orderPlaced) { e.Due = time.Time{} },
		"tags":     func(e *orderPlaced) { e.Tags = []string{} },
		"attrs":    func(e *orderPlaced) { e.Attrs = nil },
		"total":    func(e *orderPlaced) { e.Total = nil },
		"any":      func(e *orderPlaced) { e.Any = nil },
	} {
		e := order()
		empty(&e)
		_, err := events.Encode(e, events.Base{})
		wantError(t, err, events.ReasonInvalid, field)
	}
}

func TestDefaulterValidatorAndKeyWorkOnTheCopy(t *testing.T) {
	e := dressed{Base: events.Base{UserID: "u"}}
	for _, e := range []events.Event{e, &e} {
		enc := encode(t, e)
		if enc.Key != "room-u" || !strings.Contains(string(enc.Body), `"room":"u"`) {
			t.Errorf("key %q, body %s", enc.Key, enc.Body)
		}
	}
	if e.Room != "" {
		t.Error("the publisher's event was changed")
	}
	_, err := events.Encode(dressed{Room: "r", Seats: -1}, events.Base{})
	wantError(t, err, events.ReasonInvalid, "")
	if !errors.Is(err, errSeats) {
		t.Errorf("%v: want Validate's error in the chain", err)
	}
	_, err = events.Encode(dressed{}, events.Base{})
	wantError(t, err, events.ReasonInvalid, "room")
	_, err = events.Encode(dressed{Room: "drop-id"}, events.Base{})
	wantError(t, err, events.ReasonInvalid, "event_id")
	_, err = events.Encode(dressed{Room: "drop-time"}, events.Base{})
	wantError(t, err, events.ReasonInvalid, "timestamp")
	// Reading asks for neither.
	got, err := events.Decode[dressed](nil, []byte(`{"event_id":"1","event_type":"dressed","timestamp":"2025-01-07T12:34:56","room":"r","seats":-1}`))
	if err != nil || got.Seats != -1 {
		t.Errorf("%+v, %v", got, err)
	}
}

func TestOwnFieldsCannotBreakTheWire(t *testing.T) {
	for name, e := range map[string]events.Event{
		"event_id":      openEvent{Extra: map[string]events.Raw{"event_id": events.Raw(`"x"`)}},
		"event_version": openEvent{Extra: map[string]events.Raw{"event_version": events.Raw(`9`)}},
		"timestamp":     stubborn{JSON: `{"a":1,"timestamp":2}`},
	} {
		_, err := events.Encode(e, events.Base{})
		wantError(t, err, events.ReasonInvalid, name)
	}
	_, err := events.Encode(stubborn{JSON: `"x"`}, events.Base{})
	wantError(t, err, events.ReasonInvalid, "")
	_, err = events.Encode(stubborn{JSON: `{"a":`}, events.Base{})
	wantError(t, err, events.ReasonInvalid, "")
	if got := string(encode(t, stubborn{JSON: ` { } `, Base: events.Base{ID: "i", Timestamp: at}}).Body); !strings.HasSuffix(got, `"metadata":{}}`) {
		t.Errorf("body %s", got)
	}
	e := order()
	e.Item.Extra = map[string]events.Raw{"sku": events.Raw(`"other"`)}
	_, err = events.Encode(e, events.Base{})
	wantError(t, err, events.ReasonInvalid, "item.sku")
	e.Item.Extra = map[string]events.Raw{"x": events.Raw(`{`)}
	_, err = events.Encode(e, events.Base{})
	wantError(t, err, events.ReasonInvalid, "item.x")
	e = order()
	e.Later = time.Date(10000, 1, 1, 0, 0, 0, 0, time.UTC)
	_, err = events.Encode(e, events.Base{})
	wantError(t, err, events.ReasonInvalid, "later")
	e = order()
	e.Free = func() {}
	_, err = events.Encode(e, events.Base{})
	wantError(t, err, events.ReasonInvalid, "free")

	in := openEvent{Base: events.Base{ID: "i"}, Extra: map[string]events.Raw{"z": events.Raw(`1.50`), "a": events.Raw(`null`)}}
	got, err := events.Decode[openEvent](nil, encode(t, in).Body)
	if err != nil || !reflect.DeepEqual(got.Extra, in.Extra) {
		t.Errorf("%v, %v", got.Extra, err)
	}
}

func TestHeaderIsTheOrdinaryMetadata(t *testing.T) {
	e := order()
	e.TraceID = "4bf92f3577b34da6a3ce929d0e0e4736"
	got := encode(t, e).Header("/shop")
	want := map[string]string{
		"event_id": "o-1", "event_type": "order.placed", "trace_id": "4bf92f3577b34da6a3ce929d0e0e4736",
		"ce_specversion": "1.0", "ce_id": "o-1", "ce_type": "order.placed", "ce_source": "/shop",
		"content-type": "application/json", "eb_key": "u-1",
	}
	if !maps.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	got = encode(t, simple{}).Header("")
	if trace, ok := got["trace_id"]; !ok || trace != "" || got["ce_source"] != "/unknown" {
		t.Errorf("got %v", got)
	}
	if _, ok := got["eb_key"]; ok {
		t.Error("an event without a key has a key header")
	}
}

func TestSourceOf(t *testing.T) {
	for service, want := range map[string]string{
		"": "/unknown", "//": "/unknown", "vectordb": "/vectordb", "vector db": "/vector%20db", "a/b": "/a/b", "//host/x": "/host/x",
		"a:b": "/a%3Ab", "100%": "/100%25", "ñ": "/%C3%B1", "urn:": "/urn%3A", "urn:a:b": "urn:a:b",
		"https://aura360.app/api": "https://aura360.app/api", "https://": "/https%3A//", "https://a b/": "/https%3A//a%20b/",
	} {
		if got := events.SourceOf(service); got != want {
			t.Errorf("SourceOf(%q) = %q, want %q", service, got, want)
		}
	}
}

func TestTheSameIDSaysTheSameWhenPublishedAgain(t *testing.T) {
	before := time.Now()
	first, err := events.Encode(dressed{Room: "r", Seats: 1}, events.Base{TraceID: "one"})
	if err != nil {
		t.Fatal(err)
	}
	if d := first.Base.Timestamp.Sub(before); d < -2*time.Millisecond || d > 2*time.Second {
		t.Errorf("timestamp %v, published at %v", first.Base.Timestamp, before)
	}
	again, err := events.Encode(dressed{Room: "r", Base: events.Base{ID: first.Base.ID}, Seats: 1}, events.Base{TraceID: "two"})
	if err != nil {
		t.Fatal(err)
	}
	if !again.Base.Timestamp.Equal(first.Base.Timestamp) {
		t.Errorf("timestamp %v, then %v", first.Base.Timestamp, again.Base.Timestamp)
	}
	if !bytes.Equal(events.Content(first.Body), events.Content(again.Body)) || bytes.Equal(first.Body, again.Body) {
		t.Errorf("contents differ:\n%s\n%s", first.Body, again.Body)
	}
	other, err := events.Encode(dressed{Room: "r", Base: events.Base{ID: first.Base.ID}, Seats: 2}, events.Base{})
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Equal(events.Content(first.Body), events.Content(other.Body)) {
		t.Error("another text, but the same content")
	}
	tricky, err := events.Encode(dressed{Room: "r", Base: events.Base{ID: `x","user_id":"y`}, Seats: 1}, events.Base{UserID: "z"})
	if err != nil {
		t.Fatal(err)
	}
	if got := string(events.Content(tricky.Body)); !strings.HasPrefix(got, `,"user_id":"z"`) {
		t.Errorf("content %s", got)
	}
	if foreign := `{"event_type": "x", "user_id": 1}`; string(events.Content([]byte(foreign))) != foreign {
		t.Error("a foreign body is not its own content")
	}
}

func TestContentLeavesOutNothingButTheHeadThatEncodeWrites(t *testing.T) {
	for _, foreign := range []string{
		`{"event_id":"1","data":{"n":%d},"user_id":"u"}`,
		`{"event_id":"1","event_type":"t","timestamp":"2025-01-07T12:34:56","data":{"n":%d,"user_id":"u"}}`,
		`{"event_id":"1","event_type":"t","timestamp":"x","trace_id":null,"n":%d,"user_id":"u"}`,
		`{"event_id":"1","event_type":"t","event_version":2,"timestamp":%d,"trace_id":null,"user_id":"u"}`,
		`{"event_id":"1","event_type":"t","timestamp":"x","trace_id":{"a":%d},"user_id":"u"}`,
		`{"event_id":"1\"","n":%d,"user_id":"u"}`,
		`{"event_id":"%d`,
	} {
		one, two := fmt.Sprintf(foreign, 1), fmt.Sprintf(foreign, 2)
		if bytes.Equal(events.Content([]byte(one)), events.Content([]byte(two))) {
			t.Errorf("%s and %s have the same content", one, two)
		}
	}
}

func TestNewIDsAreUUIDv7InOrder(t *testing.T) {
	before := time.Now().UnixMilli()
	last := ""
	for range 10_000 {
		id := events.NewID()
		u, err := uuid.Parse(id)
		if err != nil || u.String() != id || u.Version() != 7 || u.Variant() != uuid.RFC4122 {
			t.Fatalf("%q: %v, version %d, variant %v", id, err, u.Version(), u.Variant())
		}
		if id <= last {
			t.Fatalf("%s after %s", id, last)
		}
		last = id
	}
	u := uuid.MustParse(last)
	ms := int64(binary.BigEndian.Uint64(u[:]) >> 16)
	if after := time.Now().UnixMilli(); ms < before || ms > after+10 {
		t.Errorf("made at %d, want %d to %d", ms, before, after)
	}
	heads := map[string]bool{} // of the random part
	for range 1000 {
		heads[events.NewID()[20:]] = true
	}
	if len(heads) != 1000 {
		t.Errorf("%d random parts in 1000 ids", len(heads))
	}
}
