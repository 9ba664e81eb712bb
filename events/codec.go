package events

import (
	"fmt"
	"math"
	"strconv"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
)

// This file, required.go and errors.go are all that knows the JSON library.
//
// Encoding splices: the common fields are written by hand in the wire's order
// (null where Python expects null), then the type's own fields as the library
// writes them. A MarshalJSON on Base would do the same in one step, but Go
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
		json.WithMarshalers(json.MarshalToFunc(func(enc *jsontext.Encoder, t time.Time) error {
			var buf [len(TimeLayout) + 2]byte
			b := append(buf[:0], '"')
			b = appendTime(b, t)
			return enc.WriteValue(append(b, '"'))
		})),
		json.Deterministic(true),
	)
	decodeOptions = json.WithUnmarshalers(json.UnmarshalFromFunc(func(dec *jsontext.Decoder, t *time.Time) error {
		tok, err := dec.ReadToken()
		if err != nil {
			return err
		}
		switch tok.Kind() {
		case 'n':
			*t = time.Time{}
			return nil
		case '"':
			*t, err = ParseTime(tok.String())
			return err
		default:
			return errTime
		}
	}))
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
	base, err := d.fill(c.base(), fill)
	if err != nil {
		return Encoded{}, err
	}
	c.setBase(base)
	if f, ok := c.(Defaulter); ok {
		f.SetDefaults()
		base = c.base()
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
	out.Body, err = d.marshal(c, base)
	return out, err
}

// fill completes b, from f where b is empty.
func (d *Definition) fill(b, f Base) (Base, error) {
	if b.ID == "" {
		b.ID = f.ID
	}
	if b.ID == "" {
		b.ID = NewID()
	}
	if len(b.ID) > maxIDBytes {
		return b, &Error{Type: d.Type, Field: "event_id", Reason: ReasonInvalid,
			Err: fmt.Errorf("%d bytes: want at most %d", len(b.ID), maxIDBytes)}
	}
	if b.Type != "" && b.Type != d.Type {
		return b, &Error{Type: d.Type, Field: "event_type", Reason: ReasonInvalid,
			Err: fmt.Errorf("%q: want it empty or %q", clip(b.Type), d.Type)}
	}
	b.Type = d.Type
	if b.Version != 0 && b.Version != d.Version {
		return b, &Error{Type: d.Type, Field: "event_version", Reason: ReasonInvalid,
			Err: fmt.Errorf("%d: want it empty or %d", b.Version, d.Version)}
	}
	b.Version = d.Version
	if b.Timestamp.IsZero() {
		b.Timestamp = f.Timestamp
	}
	if b.Timestamp.IsZero() {
		b.Timestamp = time.Now()
	}
	b.Timestamp = b.Timestamp.UTC().Truncate(time.Microsecond)
	if y := b.Timestamp.Year(); y < 1 || y > 9999 {
		return b, &Error{Type: d.Type, Field: "timestamp", Reason: ReasonInvalid,
			Err: fmt.Errorf("year %d: want 1 to 9999", y)}
	}
	if b.TraceID == "" {
		b.TraceID = f.TraceID
	}
	if b.UserID == "" {
		b.UserID = f.UserID
	}
	if b.Metadata == nil {
		b.Metadata = f.Metadata
	}
	return b, nil
}

// maxIDBytes bounds what is kept per id in marks and headers.
const maxIDBytes = 200

func clip(s string) string {
	if len(s) > 64 {
		return s[:64] + "..."
	}
	return s
}

// marshal writes base, then c's own fields.
func (d *Definition) marshal(c settable, base Base) ([]byte, error) {
	c.setBase(Base{}) // every one of its fields is omitzero: own fields remain
	own, err := json.Marshal(c, encodeOptions)
	c.setBase(base)
	if err != nil {
		return nil, jsonError(d.Type, err)
	}
	b := make([]byte, 0, len(own)+224+len(base.ID)+len(base.UserID)+len(base.TraceID)+len(d.Type))
	b = append(b, `{"event_id":`...)
	if b, err = appendString(b, base.ID); err != nil {
		return nil, badText(d.Type, "event_id")
	}
	b = append(b, `,"event_type":`...)
	b, _ = appendString(b, base.Type)
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
		b = append(b, `{}`...)
	} else {
		meta, err := json.Marshal(base.Metadata, encodeOptions)
		if err != nil {
			e := jsonError(d.Type, err).(*Error)
			e.Field = "metadata"
			return nil, e
		}
		b = append(b, meta...)
	}
	if len(own) > 2 {
		b = append(b, ',')
		b = append(b, own[1:]...)
	} else {
		b = append(b, '}')
	}
	return b, nil
}

func badText(typ, field string) error {
	return &Error{Type: typ, Field: field, Reason: ReasonInvalid, Err: fmt.Errorf("invalid UTF-8")}
}

func appendString(b []byte, s string) ([]byte, error) { return jsontext.AppendQuote(b, s) }

func appendNullable(b []byte, s string) ([]byte, error) {
	if s == "" {
		return append(b, "null"...), nil
	}
	return appendString(b, s)
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

func (d *Definition) decode(header map[string]string, body []byte) (settable, error) {
	body, err := d.upcast(header, body)
	if err != nil {
		return nil, err
	}
	s := d.fresh()
	if err := json.Unmarshal(body, s, decodeOptions); err != nil {
		return nil, jsonError(d.Type, err)
	}
	b := s.base()
	if b.Version > d.Version {
		return nil, d.versionError(int64(b.Version))
	}
	if err := d.checkPresent(s, b, body); err != nil {
		return nil, err
	}
	b.Version = d.Version
	s.setBase(b)
	return s, nil
}

func (d *Definition) versionError(v int64) error {
	return &Error{Type: d.Type, Field: "event_version", Reason: ReasonVersion,
		Err: fmt.Errorf("%d: this build knows up to %d", v, d.Version)}
}

// upcast brings body to the version that the Go type holds. The body's own
// event_version wins over the header's; absent is 1.
func (d *Definition) upcast(header map[string]string, body []byte) ([]byte, error) {
	h := header[HeaderEventVersion]
	if d.Version == 1 && h == "" {
		return body, nil // decode sees the body's own
	}
	v := int64(1)
	if h != "" {
		n, err := strconv.ParseInt(h, 10, 32)
		if err != nil || n < 1 {
			return nil, &Error{Type: d.Type, Field: HeaderEventVersion, Reason: ReasonUndecodable,
				Err: fmt.Errorf("header %q: want a whole number from 1", clip(h))}
		}
		v = n
	}
	raw, found, err := member(body, "event_version")
	if err != nil {
		return nil, jsonError(d.Type, err)
	}
	if found && raw.Kind() != 'n' {
		f, err := strconv.ParseFloat(string(raw), 64)
		if err != nil || f < 1 || f != math.Trunc(f) || f > math.MaxInt32 {
			return nil, &Error{Type: d.Type, Field: "event_version", Reason: ReasonUndecodable,
				Err: fmt.Errorf("want a whole number from 1")}
		}
		v = int64(f)
	}
	if v > int64(d.Version) {
		return nil, d.versionError(v)
	}
	for ; v < int64(d.Version); v++ {
		up := d.upcasts[int(v)]
		if up == nil {
			continue // the change was compatible: nothing to rewrite
		}
		if body, err = up(body); err != nil {
			return nil, &Error{Type: d.Type, Reason: ReasonUndecodable,
				Err: fmt.Errorf("upcast from version %d: %w", v, err)}
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
	if err := json.Unmarshal(raw, &s); err != nil || s == "" {
		return "", &Error{Field: "event_type", Reason: ReasonInvalid, Err: fmt.Errorf("want a string that is not empty")}
	}
	return s, nil
}
