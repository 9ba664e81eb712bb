package events

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"reflect"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
)

// This file, plan.go, head.go, values.go, required.go and errors.go are all that
// knows the JSON library.
//
// Encoding splices: the common fields are written by hand in the wire's order
// (null where Python expects null), then the type's own fields as the library
// writes them, by its plan where that is enough. A MarshalJSON on Base would do the same in one step, but Go
// promotes it to the embedding type, and the type's own fields would vanish.

// Raw is one JSON value as it stands on the wire. A field
//
//	Extra map[string]events.Raw `json:",embed"`
//
// keeps the members of an object that its struct does not name, so that they
// survive decoding and encoding.
type Raw = jsontext.Value

var (
	encodeOptions = json.JoinOptions(
		json.WithMarshalers(json.MarshalToFunc(writeTime)),
		json.Deterministic(true), // only maps cost anything
	)
	decodeOptions = json.WithUnmarshalers(json.JoinUnmarshalers(
		json.UnmarshalFromFunc(readTime),
		json.UnmarshalFromFunc(func(dec *jsontext.Decoder, v *any) (err error) {
			*v, err = readAny(dec)
			return err
		}),
	))
)

// Encoded is an event ready to be sent.
type Encoded struct {
	Definition *Definition
	// Base holds the common fields, all filled.
	Base Base
	// Key is the event's key after defaults were applied, "" for none.
	Key string
	// Body is the JSON object that goes on the wire.
	Body []byte
}

// Encode prepares e for sending: it fills the empty common fields (first from
// fill, then as Base's comments say), applies the type's own defaults, checks
// required fields and Validate, and writes the wire's JSON. e itself is not
// changed. The error is an *Error.
func Encode(e Event, fill Base) (Encoded, error) {
	d, err := DefinitionOf(e)
	if err != nil {
		return Encoded{}, err
	}
	c := d.clone(e)
	if c == nil {
		return Encoded{}, &Error{Type: d.Type, Reason: ReasonInvalid, Err: errNil}
	}
	base := d.fill(c.base(), fill)
	c.setBase(base)
	if f, ok := c.(Defaulter); ok {
		f.SetDefaults()
		base = c.base()
	}
	if err := d.checkBase(base); err != nil {
		return Encoded{}, err
	}
	if err := d.checkSet(c); err != nil {
		return Encoded{}, err
	}
	if v, ok := c.(Validator); ok {
		if err := v.Validate(); err != nil {
			return Encoded{}, &Error{Type: d.Type, Reason: ReasonInvalid, Err: err}
		}
	}
	out := Encoded{Definition: d, Base: base, Key: c.Key()}
	if out.Body, err = d.marshal(c, &base); err != nil {
		return Encoded{}, err
	}
	return out, nil
}

// fill completes b, from f where b is empty.
func (d *Definition) fill(b, f Base) Base {
	b.ID = cmp.Or(b.ID, f.ID)
	var made time.Time
	if b.ID == "" {
		b.ID, made = newID()
	}
	b.Type = cmp.Or(b.Type, d.Type)
	b.Version = cmp.Or(b.Version, d.Version)
	if b.Timestamp.IsZero() {
		b.Timestamp = f.Timestamp
	}
	// An id brings its time, so that publishing again with the id alone, after an
	// answer that was lost, says the same as the first time.
	switch {
	case !b.Timestamp.IsZero():
	case made.IsZero():
		b.Timestamp = timeOfID(b.ID)
	default:
		b.Timestamp = made
	}
	b.Timestamp = b.Timestamp.UTC().Truncate(time.Microsecond)
	b.TraceID = cmp.Or(b.TraceID, f.TraceID)
	b.UserID = cmp.Or(b.UserID, f.UserID)
	if b.Metadata == nil {
		b.Metadata = f.Metadata
	}
	return b
}

// maxIDBytes bounds what is kept per id in marks and headers.
const maxIDBytes = 200

// checkBase reports the first common field that cannot be published as it is.
func (d *Definition) checkBase(b Base) error {
	invalid := func(field, format string, a ...any) error {
		return &Error{Type: d.Type, Field: field, Reason: ReasonInvalid, Err: fmt.Errorf(format, a...)}
	}
	switch y := b.Timestamp.Year(); {
	case b.ID == "":
		return requiredField{path: []string{"event_id"}}.missing(d)
	case len(b.ID) > maxIDBytes:
		return invalid("event_id", "%d bytes: want at most %d", len(b.ID), maxIDBytes)
	case hasControl(b.ID): // it becomes a header and a CloudEvents attribute
		return invalid("event_id", "want no control characters")
	case b.Type != d.Type:
		return invalid("event_type", "preset to another: want it empty or %q", d.Type)
	case b.Version != d.Version:
		return invalid("event_version", "preset to %d: want it empty or %d", b.Version, d.Version)
	case b.Timestamp.IsZero():
		return requiredField{path: []string{"timestamp"}}.missing(d)
	case y < 1 || y > 9999:
		return invalid("timestamp", "year %d: want 1 to 9999", y)
	}
	return nil
}

func hasControl(s string) bool {
	for i := range len(s) {
		if s[i] < ' ' || s[i] == 0x7f {
			return true
		}
	}
	return false
}

// buffers holds what events are written into before the body is cut to size.
var buffers = sync.Pool{New: func() any { return new(bytes.Buffer) }}

// maxPooledBuffer keeps one huge event from pinning its memory for ever.
const maxPooledBuffer = 64 << 10

// marshal writes base, then c's own fields, into one buffer.
func (d *Definition) marshal(c settable, base *Base) ([]byte, error) {
	buf := buffers.Get().(*bytes.Buffer)
	defer func() {
		if buf.Cap() <= maxPooledBuffer {
			buf.Reset()
			buffers.Put(buf)
		}
	}()
	buf.Grow(512)
	head, err := d.appendBase(buf.AvailableBuffer(), base)
	if err != nil {
		return nil, err
	}
	if d.plan.kind == planObject {
		if b, ok := d.plan.appendFields(head, reflect.ValueOf(c).Elem()); ok {
			b = append(b, '}')
			if cap(b) > buf.Cap() {
				*buf = *bytes.NewBuffer(b[:0])
			}
			return bytes.Clone(b), nil
		}
	}
	buf.Write(head)
	c.setBase(Base{}) // every one of its fields is omitzero: own fields remain
	err = json.MarshalWrite(buf, c, encodeOptions)
	c.setBase(*base)
	if err != nil {
		return nil, encodeError(d.Type, err)
	}
	b := buf.Bytes()
	own := b[len(head):]
	if len(own) < 2 || own[0] != '{' { // a marshaler of the type's own
		return nil, &Error{Type: d.Type, Reason: ReasonInvalid, Err: errNoObject}
	}
	if d.open {
		if name := reservedMember(own); name != "" {
			return nil, &Error{Type: d.Type, Field: name, Reason: ReasonInvalid, Err: errReserved}
		}
	}
	if len(own) == 2 {
		b = append(b[:len(head)], '}')
	} else {
		own[0] = ','
	}
	return bytes.Clone(b), nil
}

// appendBase writes the common fields, without the brace that closes them.
func (d *Definition) appendBase(b []byte, base *Base) ([]byte, error) {
	var err error
	b = append(b, `{"event_id":`...)
	if b, err = jsontext.AppendQuote(b, base.ID); err != nil {
		return nil, badText(d.Type, "event_id")
	}
	b = append(b, `,"event_type":`...)
	b, _ = jsontext.AppendQuote(b, base.Type)
	if base.Version > 1 {
		b = append(b, `,"event_version":`...)
		b = strconv.AppendInt(b, int64(base.Version), 10)
	}
	b = append(b, `,"timestamp":"`...)
	b = appendTime(b, base.Timestamp)
	b = append(b, `","trace_id":`...)
	if b, err = appendNullable(b, base.TraceID); err != nil {
		return nil, badText(d.Type, "trace_id")
	}
	b = append(b, `,"user_id":`...)
	if b, err = appendNullable(b, base.UserID); err != nil {
		return nil, badText(d.Type, "user_id")
	}
	b = append(b, `,"metadata":`...)
	if len(base.Metadata) == 0 {
		return append(b, `{}`...), nil
	}
	meta, err := json.Marshal(base.Metadata, encodeOptions)
	if err != nil {
		e := encodeError(d.Type, err)
		e.Field = strings.TrimSuffix("metadata."+e.Field, ".")
		return nil, e
	}
	return append(b, meta...), nil
}

func badText(typ, field string) error {
	return &Error{Type: typ, Field: field, Reason: ReasonInvalid, Err: errUTF8}
}

func appendNullable(b []byte, s string) ([]byte, error) {
	if s == "" {
		return append(b, "null"...), nil
	}
	return jsontext.AppendQuote(b, s)
}

// Decode reads an event of type T from a message's metadata (may be nil) and
// body. It is liberal: metadata may be missing, unknown members are ignored,
// times may lack a zone. An older version is upcast first. The error is an
// *Error with ReasonUndecodable, ReasonInvalid or ReasonVersion.
func Decode[T Event](header map[string]string, body []byte) (T, error) {
	var zero T
	d, err := DefinitionFor[T]()
	if err != nil {
		return zero, err
	}
	s, err := d.decode(header, body)
	if err != nil {
		return zero, err
	}
	switch v := any(s).(type) {
	case *T:
		return *v, nil
	case T: // T is the pointer type
		return v, nil
	}
	return zero, &Error{Type: d.Type, Reason: ReasonUnknownType, Err: fmt.Errorf("cannot decode into %T", zero)}
}

// Decode is the function Decode for a type known only at run time. The result
// holds the struct, not a pointer to it.
func (d *Definition) Decode(header map[string]string, body []byte) (Event, error) {
	s, err := d.decode(header, body)
	if err != nil {
		return nil, err
	}
	return d.value(s), nil
}

func (d *Definition) decode(header map[string]string, body []byte) (_ settable, err error) {
	// Upcasters and the types' own UnmarshalJSON run on what strangers sent. A
	// panic there is that message's fault, and must not stop the next one.
	defer func() {
		if r := recover(); r != nil {
			err = &Error{Type: d.Type, Reason: ReasonUndecodable, Err: errPanic}
		}
	}()
	s, ok := d.decodeByHead(header, body)
	if !ok {
		if body, err = d.upcast(header, body); err != nil {
			return nil, err
		}
		s = d.fresh()
		if err := json.Unmarshal(body, s, decodeOptions); err != nil {
			// A newer schema need not fit the Go type: then that is the reason.
			if v, verr := bodyVersion(body); verr == nil && v > int64(d.Version) {
				return nil, d.versionError(v)
			}
			return nil, jsonError(d.Type, err)
		}
	}
	b := s.base()
	if b.Version > d.Version {
		return nil, d.versionError(int64(b.Version))
	}
	if b.Version < 0 {
		return nil, d.badVersion("event_version")
	}
	if err := d.checkPresent(s, b, body); err != nil {
		return nil, err
	}
	b.Version = d.Version
	s.setBase(b)
	return s, nil
}

func (d *Definition) versionError(v int64) error {
	return &Error{
		Type: d.Type, Field: "event_version", Reason: ReasonVersion,
		Err: fmt.Errorf("%d: this build knows up to %d", v, d.Version),
	}
}

func (d *Definition) badVersion(field string) error {
	return &Error{Type: d.Type, Field: field, Reason: ReasonUndecodable, Err: errVersion}
}

// bodyVersion returns the body's event_version, 0 when it has none.
func bodyVersion(body []byte) (int64, error) {
	raw, found, err := member(body, "event_version")
	if err != nil || !found || raw.Kind() == 'n' {
		return 0, err
	}
	v, err := strconv.ParseInt(string(raw), 10, 32)
	if err != nil || v < 0 {
		return 0, errVersion
	}
	return v, nil
}

// upcast brings body to the version that the Go type holds. The body's own
// event_version wins over the header's; absent (or 0) is 1.
func (d *Definition) upcast(header map[string]string, body []byte) ([]byte, error) {
	h := header[HeaderEventVersion]
	if d.Version == 1 && h == "" {
		return body, nil // decode sees the body's own
	}
	v, err := bodyVersion(body)
	switch {
	case errors.Is(err, errVersion):
		return nil, d.badVersion("event_version")
	case err != nil:
		return nil, jsonError(d.Type, err)
	}
	if v == 0 && h != "" {
		if v, err = strconv.ParseInt(h, 10, 32); err != nil || v < 1 {
			return nil, d.badVersion(HeaderEventVersion + " (header)")
		}
	}
	v = max(v, 1)
	if v > int64(d.Version) {
		return nil, d.versionError(v)
	}
	for ; v < int64(d.Version); v++ {
		up := d.upcasts[int(v)]
		if up == nil {
			continue // the change was compatible: nothing to rewrite
		}
		if body, err = up(body); err != nil {
			return nil, upcastError(d.Type, v, err)
		}
	}
	return body, nil
}

// TypeOf tells the type of a message from its metadata or, when a producer sent
// none, from its body. The error is an *Error with ReasonUndecodable or
// ReasonInvalid.
func TypeOf(header map[string]string, body []byte) (string, error) {
	if t := header[HeaderEventType]; t != "" {
		return t, nil
	}
	if t := header[HeaderCEType]; t != "" {
		return t, nil
	}
	raw, found, err := member(body, "event_type")
	if err != nil {
		return "", jsonError("", err)
	}
	if !found {
		return "", &Error{Field: "event_type", Reason: ReasonInvalid, Err: errMissing}
	}
	var s string
	if err := json.Unmarshal(raw, &s); err != nil || s == "" || len(s) > maxTypeBytes {
		return "", &Error{
			Field: "event_type", Reason: ReasonInvalid,
			Err: fmt.Errorf("want a string of 1 to %d bytes", maxTypeBytes),
		}
	}
	return s, nil
}

// Content returns the part of a body that says what happened: without what the
// bus fills anew when the same event is published again (the time and the trace).
// Two bodies with one event id and the same content are copies of one event. A
// body that Encode did not write is its own content.
func Content(body []byte) []byte {
	// The head as appendBase writes it, member by member: in another's body
	// anything may stand before or around a user_id.
	rest, _ := afterText(body, `{"event_id":`)
	rest, ok := afterText(rest, `,"event_type":`)
	if !ok {
		return body
	}
	if v, found := bytes.CutPrefix(rest, []byte(`,"event_version":`)); found {
		rest = bytes.TrimLeft(v, "0123456789")
	}
	if rest, ok = afterText(rest, `,"timestamp":`); !ok {
		return body
	}
	if v, found := bytes.CutPrefix(rest, []byte(`,"trace_id":null`)); found {
		rest = v
	} else if rest, ok = afterText(rest, `,"trace_id":`); !ok {
		return body
	}
	if !bytes.HasPrefix(rest, []byte(`,"user_id":`)) {
		return body
	}
	return rest
}

// afterText returns what follows prefix and a JSON string in b.
func afterText(b []byte, prefix string) (rest []byte, ok bool) {
	if len(b) <= len(prefix) || string(b[:len(prefix)]) != prefix || b[len(prefix)] != '"' {
		return nil, false
	}
	for i := len(prefix) + 1; i < len(b); i++ {
		switch b[i] {
		case '\\':
			i++
		case '"':
			return b[i+1:], true
		}
	}
	return nil, false
}
