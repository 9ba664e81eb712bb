package events

import (
	"bytes"
	"errors"
	"io"
	"strconv"
	"sync"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
)

// How single values stand in JSON, and how one member is found without reading
// the rest.

// writeTime writes the zero time as null: readTime reads it so, and year 1 would
// be a date to everyone else.
func writeTime(enc *jsontext.Encoder, t time.Time) error {
	if t.IsZero() {
		return enc.WriteToken(jsontext.Null)
	}
	if y := t.UTC().Year(); y < 1 || y > 9999 {
		return errTime
	}
	var buf [len(TimeLayout) + 2]byte
	b := append(buf[:0], '"')
	b = appendTime(b, t)
	return enc.WriteValue(append(b, '"'))
}

func readTime(dec *jsontext.Decoder, t *time.Time) error {
	v, err := dec.ReadValue()
	if err != nil {
		return err
	}
	switch {
	case v.Kind() == 'n':
		*t = time.Time{}
		return nil
	case v.Kind() != '"' || len(v) > maxTimeBytes+2:
		return errTime
	case bytes.IndexByte(v, '\\') >= 0:
		var s string
		if err := json.Unmarshal(v, &s); err != nil {
			return errTime
		}
		*t, err = ParseTime(s)
		return err
	}
	if plain, ok := parsePlainTime(v[1 : len(v)-1]); ok {
		*t = plain
		return nil
	}
	*t, err = ParseTime(string(v[1 : len(v)-1]))
	return err
}

// readAny reads any value as the JSON library does, but keeps as Raw a number
// that float64 would change: another service's 64-bit ids pass through here.
func readAny(dec *jsontext.Decoder) (any, error) {
	switch dec.PeekKind() {
	case '{':
		if _, err := dec.ReadToken(); err != nil {
			return nil, err
		}
		m := map[string]any{}
		for dec.PeekKind() != '}' {
			name, err := dec.ReadToken()
			if err != nil {
				return nil, err
			}
			key := name.String()
			if m[key], err = readAny(dec); err != nil {
				return nil, err
			}
		}
		_, err := dec.ReadToken()
		return m, err
	case '[':
		if _, err := dec.ReadToken(); err != nil {
			return nil, err
		}
		a := []any{}
		for dec.PeekKind() != ']' {
			v, err := readAny(dec)
			if err != nil {
				return nil, err
			}
			a = append(a, v)
		}
		_, err := dec.ReadToken()
		return a, err
	case '0':
		v, err := dec.ReadValue()
		if err != nil {
			return nil, err
		}
		if f, err := strconv.ParseFloat(string(v), 64); err == nil && fitsFloat(v, f) {
			return f, nil
		}
		return v.Clone(), nil
	}
	tok, err := dec.ReadToken()
	if err != nil {
		return nil, err
	}
	switch tok.Kind() {
	case 'n':
		return nil, nil
	case '"':
		return tok.String(), nil
	}
	return tok.Bool(), nil
}

// fitsFloat reports whether f, read from the number v, says the same as v:
// every float that a program wrote does, a long integer or decimal may not.
func fitsFloat(v []byte, f float64) bool {
	if len(v) <= 15 && f != 0 {
		return true
	}
	digits, whole := 0, true // significant ones
	for _, c := range v {
		switch {
		case c == 'e' || c == 'E':
			return digits <= 17 && (f != 0 || digits == 0)
		case c == '.':
			whole = false
		case c >= '1' && c <= '9', c == '0' && digits > 0:
			digits++
		}
	}
	if whole && digits > 15 {
		var buf [32]byte
		return bytes.Equal(v, strconv.AppendFloat(buf[:0], f, 'f', -1, 64))
	}
	return digits <= 17 && (f != 0 || digits == 0)
}

// scanner finds members. Reading from a bytes.Buffer, a jsontext.Decoder works
// on the buffer's own bytes: no copy is made of the body.
type scanner struct {
	buf bytes.Buffer
	dec jsontext.Decoder
}

var scanners = sync.Pool{New: func() any { return new(scanner) }}

// scan calls f with the name of each member of a JSON object in turn, as it
// stands between its quotes. When f returns true, scan returns the member's
// value, a part of body, and does not look at what stands behind it.
func scan(body []byte, f func(name []byte) bool) (jsontext.Value, bool, error) {
	s := scanners.Get().(*scanner)
	s.buf = *bytes.NewBuffer(body)
	s.dec.Reset(&s.buf, jsontext.AllowDuplicateNames(true))
	defer func() {
		s.buf = bytes.Buffer{}
		s.dec.Reset(&s.buf) // lets go of body
		scanners.Put(s)
	}()
	dec := &s.dec
	tok, err := dec.ReadToken()
	if err != nil {
		if errors.Is(err, io.EOF) {
			err = &jsontext.SyntacticError{Err: io.ErrUnexpectedEOF}
		}
		return nil, false, err
	}
	if tok.Kind() != '{' {
		return nil, false, errNoObject
	}
	for dec.PeekKind() != '}' {
		name, err := dec.ReadValue()
		if err != nil {
			return nil, false, err
		}
		if f(name[1 : len(name)-1]) {
			v, err := dec.ReadValue()
			if err != nil {
				return nil, false, err
			}
			end := dec.InputOffset()
			return body[end-int64(len(v)) : end : end], true, nil
		}
		if err := dec.SkipValue(); err != nil {
			return nil, false, err
		}
	}
	return nil, false, nil
}

// member returns the value of one member of a JSON object.
func member(body []byte, name string) (jsontext.Value, bool, error) {
	return scan(body, func(raw []byte) bool { return sameName(raw, name) })
}

// reservedMember returns the first common field's name among own's members.
func reservedMember(own []byte) (found string) {
	_, _, _ = scan(own, func(raw []byte) bool {
		if commonNames[string(raw)] { // the library wrote it: nothing is escaped without need
			found = string(raw)
		}
		return found != ""
	})
	return found
}

// sameName compares a member's name as it is written with a plain one. Python's
// ensure_ascii never escapes ASCII, but JSON allows it.
func sameName(raw []byte, name string) bool {
	if string(raw) == name {
		return true
	}
	if bytes.IndexByte(raw, '\\') < 0 {
		return false
	}
	var s string
	quoted := append(append([]byte{'"'}, raw...), '"')
	return json.Unmarshal(quoted, &s) == nil && s == name
}
