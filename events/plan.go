package events

import (
	"bytes"
	"encoding"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

// A plan reads what follows the head of a plain body into a type's own fields,
// with what their Go types are worked out beforehand. As with the head this is a
// short cut: a body that holds anything else than the members of the fields, each
// at most once and written plainly, is read by the JSON library. A type with
// fields that are no strings, numbers, booleans, times, or structs and slices of
// those has no plan.

// plan reads one JSON value into v, which is zero. It returns what follows the
// value, and whether all was as expected; else v may hold anything.
type plan func(b []byte, v reflect.Value) (rest []byte, ok bool)

// planField is a member that an object may have.
type planField struct {
	name  string // between its quotes
	index int
	read  plan
}

// maxPlanDepth bounds nested types: a type may contain slices of itself.
const maxPlanDepth = 8

// planOf returns the plan for an event type, nil when there is none. It reads
// what follows the head's comma.
func planOf(t reflect.Type) plan {
	fields, ok := planFields(t, 0)
	if !ok || len(fields) == 0 {
		return nil
	}
	return func(b []byte, v reflect.Value) ([]byte, bool) { return readMembers(b, v, fields) }
}

func planFields(t reflect.Type, depth int) (fields []planField, ok bool) {
	for i := range t.NumField() {
		f := t.Field(i)
		if f.Type == baseType || !f.IsExported() && !f.Anonymous {
			continue
		}
		name, opts, _ := strings.Cut(f.Tag.Get("json"), ",")
		switch {
		case name == "-" || opts == "embed" && f.Type.Kind() == reflect.Map:
			continue // its members are unexpected ones
		case f.Anonymous || opts != "" && opts != "omitzero" && opts != "omitempty":
			return nil, false
		case name == "":
			name = f.Name
		}
		read := planFor(f.Type, depth+1)
		if read == nil || strings.ContainsFunc(name, isOddInName) ||
			slices.ContainsFunc(fields, func(o planField) bool { return o.name == name }) {
			return nil, false
		}
		fields = append(fields, planField{name, i, read})
	}
	return fields, len(fields) <= 64
}

// isOddInName reports whether a name with r in it is written in its tag in
// another way than in JSON.
func isOddInName(r rune) bool {
	return r != '_' && r != '-' && (r < '0' || r > '9') && (r < 'A' || r > 'Z') && (r < 'a' || r > 'z')
}

// planFor returns the plan for a value, nil when there is none.
func planFor(t reflect.Type, depth int) plan {
	if t == reflect.TypeFor[time.Time]() {
		return orNull(readPlainTime)
	}
	if depth > maxPlanDepth || t.PkgPath() == "time" || hasReader(t) {
		return nil
	}
	switch t.Kind() {
	case reflect.String:
		return orNull(readString)
	case reflect.Bool:
		return orNull(readBool)
	case reflect.Float64:
		return orNull(readFloat)
	case reflect.Int, reflect.Int64, reflect.Int32:
		return orNull(readInt)
	case reflect.Slice:
		if t.Elem().Kind() == reflect.Uint8 { // base64
			return nil
		}
		if elem := planFor(t.Elem(), depth+1); elem != nil {
			return orNull(sliceOf(elem))
		}
	case reflect.Struct:
		if fields, ok := planFields(t, depth); ok {
			return orNull(func(b []byte, v reflect.Value) ([]byte, bool) {
				switch {
				case b[0] != '{':
					return nil, false
				case len(b) > 1 && b[1] == '}':
					return b[2:], true
				}
				return readMembers(b[1:], v, fields)
			})
		}
	}
	return nil
}

// hasReader reports whether t reads itself.
func hasReader(t reflect.Type) bool {
	return readsItself(t) || reflect.PointerTo(t).Implements(reflect.TypeFor[encoding.TextUnmarshaler]())
}

// orNull lets null stand for the zero value. It also sees to it that there is a
// byte to look at.
func orNull(read plan) plan {
	return func(b []byte, v reflect.Value) ([]byte, bool) {
		if rest, found := bytes.CutPrefix(b, []byte("null")); found {
			return rest, true
		}
		if len(b) == 0 {
			return nil, false
		}
		return read(b, v)
	}
}

// readMembers reads an object from behind its brace, or from behind a comma.
func readMembers(b []byte, v reflect.Value, fields []planField) (rest []byte, ok bool) {
	var seen uint64
	for next := 0; ; next++ {
		var name []byte
		if name, b, ok = plainText(b); !ok || len(b) < 2 || b[0] != ':' {
			return nil, false
		}
		i := next // nearly always in their order
		if i >= len(fields) || string(name) != fields[i].name {
			if i = slices.IndexFunc(fields, func(f planField) bool { return string(name) == f.name }); i < 0 {
				return nil, false
			}
		}
		if seen&(1<<i) != 0 {
			return nil, false
		}
		seen |= 1 << i
		if b, ok = fields[i].read(afterSpace(b[1:]), v.Field(fields[i].index)); !ok || len(b) == 0 {
			return nil, false
		}
		next = i
		switch b[0] {
		case '}':
			return b[1:], true
		case ',':
			b = afterSpace(b[1:])
		default:
			return nil, false
		}
	}
}

// afterSpace skips the one space that Python writes.
func afterSpace(b []byte) []byte {
	if len(b) > 0 && b[0] == ' ' {
		return b[1:]
	}
	return b
}

// plainText reads a string without escapes.
func plainText(b []byte) (text, rest []byte, ok bool) {
	if len(b) == 0 || b[0] != '"' {
		return nil, nil, false
	}
	b = b[1:]
	ascii := true
	for i, c := range b {
		switch {
		case c == '"':
			return b[:i], b[i+1:], ascii || utf8.Valid(b[:i])
		case c < ' ' || c == '\\':
			return nil, nil, false
		case c >= utf8.RuneSelf:
			ascii = false
		}
	}
	return nil, nil, false
}

func readString(b []byte, v reflect.Value) ([]byte, bool) {
	text, rest, ok := plainText(b)
	if ok {
		v.SetString(string(text))
	}
	return rest, ok
}

func readPlainTime(b []byte, v reflect.Value) ([]byte, bool) {
	text, rest, ok := plainText(b)
	if !ok {
		return nil, false
	}
	t, ok := parsePlainTime(text)
	if ok {
		*v.Addr().Interface().(*time.Time) = t
	}
	return rest, ok
}

func readBool(b []byte, v reflect.Value) ([]byte, bool) {
	if rest, found := bytes.CutPrefix(b, []byte("false")); found {
		return rest, true
	}
	rest, found := bytes.CutPrefix(b, []byte("true"))
	v.SetBool(found)
	return rest, found
}

// digits reads a whole number of up to 15 digits, which int64 and float64 hold
// exactly, without its sign. A zero may not lead others.
func digits(b []byte) (n int64, rest []byte, ok bool) {
	i := 0
	for i < len(b) && b[i] >= '0' && b[i] <= '9' {
		n = 10*n + int64(b[i]-'0')
		if i++; i > 15 {
			return 0, nil, false
		}
	}
	return n, b[i:], i == 1 || i > 1 && b[0] != '0'
}

func readInt(b []byte, v reflect.Value) ([]byte, bool) {
	minus := b[0] == '-'
	if minus {
		b = b[1:]
	}
	n, rest, ok := digits(b)
	if !ok || len(rest) == 0 || rest[0] == '.' || rest[0] == 'e' || rest[0] == 'E' {
		return nil, false
	}
	if minus {
		n = -n
	}
	if v.OverflowInt(n) {
		return nil, false
	}
	v.SetInt(n)
	return rest, true
}

func readFloat(b []byte, v reflect.Value) ([]byte, bool) {
	whole := b
	minus := b[0] == '-'
	if minus {
		b = b[1:]
	}
	n, rest, ok := digits(b)
	if !ok || len(rest) == 0 {
		return nil, false
	}
	end := 0
	if rest[0] == '.' {
		for end = 1; end < len(rest) && rest[end] >= '0' && rest[end] <= '9'; end++ {
		}
	}
	if end == 1 || end == len(rest) || rest[end] == 'e' || rest[end] == 'E' {
		return nil, false
	}
	f := float64(n)
	if end > 0 || minus && n == 0 {
		var err error
		if f, err = strconv.ParseFloat(string(whole[:len(whole)-len(rest)+end]), 64); err != nil {
			return nil, false
		}
	} else if minus {
		f = -f
	}
	v.SetFloat(f)
	return rest[end:], true
}

// sliceOf reads an array.
func sliceOf(elem plan) plan {
	return func(b []byte, v reflect.Value) (_ []byte, ok bool) {
		if b[0] != '[' {
			return nil, false
		}
		b = b[1:]
		if len(b) > 0 && b[0] == ']' {
			v.Set(reflect.MakeSlice(v.Type(), 0, 0))
			return b[1:], true
		}
		for n := 0; ; n++ {
			if n == v.Cap() {
				v.Grow(max(n, 4))
			}
			v.SetLen(n + 1)
			if b, ok = elem(b, v.Index(n)); !ok || len(b) == 0 {
				return nil, false
			}
			switch b[0] {
			case ']':
				return b[1:], true
			case ',':
				b = afterSpace(b[1:])
			default:
				return nil, false
			}
		}
	}
}
