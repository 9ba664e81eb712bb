package events

import (
	"bytes"
	"math"
	"reflect"
	"strconv"
	"time"

	"github.com/go-json-experiment/json"
)

// Most of an ordinary body is its head: the common fields, in the order in which
// appendBase and Python's dataclasses write them. Reading those by hand and only
// the rest with the JSON library takes half the time.
//
// This is a short cut and no second parser: what is not exactly as expected is
// left to the library, which then reads the whole body and says what is wrong.

// maxHeadBody bounds the bodies whose rest is copied.
const maxHeadBody = maxPooledBuffer

// readsItself tells whether t has an unmarshaler of its own, which wants to see
// the whole body.
func readsItself(t reflect.Type) bool {
	p := reflect.PointerTo(t)
	return p.Implements(reflect.TypeFor[json.Unmarshaler]()) || p.Implements(reflect.TypeFor[json.UnmarshalerFrom]())
}

// taken stands in Base while the rest is read: values that no JSON gives. A common
// field that stands in the rest, perhaps a second time, replaces one.
var taken = Base{
	ID: "\xff", Type: "\xff", TraceID: "\xff", UserID: "\xff",
	Timestamp: time.Date(-1, 1, 1, 0, 0, 0, 0, time.UTC), Version: math.MinInt,
}

func isTaken(b Base) bool {
	return b.ID == taken.ID && b.Type == taken.Type && b.TraceID == taken.TraceID && b.UserID == taken.UserID &&
		b.Timestamp.Equal(taken.Timestamp) && b.Version == taken.Version
}

// decodeByHead reads an event of the version that the Go type holds. ok is false
// for a body that is not plain enough, or not right.
func (d *Definition) decodeByHead(header map[string]string, body []byte) (_ settable, ok bool) {
	if d.readsItself || len(body) > maxHeadBody || header[HeaderEventVersion] != "" {
		return nil, false
	}
	base, rest, ok := d.readHead(header, body)
	if !ok {
		return nil, false
	}
	s := d.fresh()
	if rest[0] == ',' {
		// A null would leave no trace in a nil map.
		if base.Metadata != nil && bytes.Contains(rest, []byte("metadata")) {
			return nil, false
		}
		s.setBase(taken)
		if !readRest(rest, s) {
			return nil, false
		}
		b := s.base()
		if !isTaken(b) {
			return nil, false
		}
		if base.Metadata == nil {
			base.Metadata = b.Metadata
		}
	}
	s.setBase(base)
	return s, true
}

// readRest reads what follows the head, from its comma on, as an object.
func readRest(rest []byte, s settable) bool {
	buf := buffers.Get().(*bytes.Buffer)
	defer func() {
		buf.Reset()
		buffers.Put(buf)
	}()
	buf.WriteByte('{')
	buf.Write(rest[1:])
	return json.Unmarshal(buf.Bytes(), s, decodeOptions) == nil
}

// readHead returns the common fields and what follows them: a comma and the
// type's own members, or the closing brace. Metadata with anything in it is left
// to the rest.
func (d *Definition) readHead(header map[string]string, body []byte) (b Base, rest []byte, ok bool) {
	if len(body) == 0 || body[0] != '{' {
		return b, nil, false
	}
	text, rest, ok := textMember(body, "event_id")
	if !ok {
		return b, nil, false
	}
	b.ID = textOf(text, header[HeaderEventID])
	if text, rest, ok = textMember(rest, "event_type"); !ok || string(text) != d.Type {
		return b, nil, false
	}
	b.Type = d.Type
	b.Version = 1
	if after, found := afterName(rest, "event_version"); found {
		n := 0
		for n < len(after) && n < 9 && after[n] >= '0' && after[n] <= '9' && after[0] != '0' {
			n++
		}
		b.Version, _ = strconv.Atoi(string(after[:n]))
		rest = after[n:]
	}
	if b.Version != d.Version {
		return b, nil, false
	}
	text, rest, ok = textMember(rest, "timestamp")
	if !ok {
		return b, nil, false
	}
	if b.Timestamp, ok = parsePlainTime(text); !ok {
		return b, nil, false
	}
	if text, rest, ok = nullableMember(rest, "trace_id"); !ok {
		return b, nil, false
	}
	b.TraceID = textOf(text, header[HeaderTraceID])
	if text, rest, ok = nullableMember(rest, "user_id"); !ok {
		return b, nil, false
	}
	b.UserID = textOf(text, header[HeaderKey])
	if after, found := afterName(rest, "metadata"); found && bytes.HasPrefix(after, []byte("{}")) {
		b.Metadata, rest = map[string]any{}, after[2:]
	}
	return b, rest, len(rest) > 0 && (rest[0] == ',' || len(rest) == 1 && rest[0] == '}')
}

// textOf returns text as a string: the given one when it says the same, which
// then need not be made.
func textOf(text []byte, same string) string {
	if string(text) == same {
		return same
	}
	return string(text)
}

// afterName returns what follows a brace or comma, a member's name and a colon,
// with one space behind each or none: appendBase writes none, Python one.
func afterName(b []byte, name string) (rest []byte, ok bool) {
	if len(b) < len(name)+6 || b[0] != ',' && b[0] != '{' {
		return nil, false
	}
	if b = b[1:]; b[0] == ' ' {
		b = b[1:]
	}
	n := len(name)
	if b[0] != '"' || string(b[1:n+1]) != name || b[n+1] != '"' || b[n+2] != ':' {
		return nil, false
	}
	if b = b[n+3:]; len(b) > 0 && b[0] == ' ' {
		b = b[1:]
	}
	return b, true
}

// textMember reads a member that is a string of plain ASCII.
func textMember(b []byte, name string) (text, rest []byte, ok bool) {
	b, ok = afterName(b, name)
	if !ok || len(b) == 0 || b[0] != '"' {
		return nil, nil, false
	}
	b = b[1:]
	for i, c := range b {
		switch {
		case c == '"':
			return b[:i], b[i+1:], true
		case c < ' ' || c == '\\' || c >= 0x80:
			return nil, nil, false
		}
	}
	return nil, nil, false
}

// nullableMember is textMember for one that may be null.
func nullableMember(b []byte, name string) (text, rest []byte, ok bool) {
	if after, found := afterName(b, name); found && bytes.HasPrefix(after, []byte("null")) {
		return nil, after[4:], true
	}
	return textMember(b, name)
}
