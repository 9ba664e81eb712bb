package events

import (
	"bytes"
	"encoding"
	"reflect"
	"slices"
	"strconv"
	"time"
	"unicode/utf8"
)

// A plan also reads: what the library, Python's json.dumps and most others write
// for a value, without escapes, every member known and there once at most. On
// everything else it gives up, and the library reads the whole event.

// hasReader reports whether t reads itself.
func hasReader(t reflect.Type) bool {
	return readsItself(t) || reflect.PointerTo(t).Implements(reflect.TypeFor[encoding.TextUnmarshaler]())
}

// read reads one value into v, which is zero. It returns what follows the value.
// What v holds is worthless when it returns false.
func (p *plan) read(b []byte, v reflect.Value) (rest []byte, ok bool) {
	switch {
	case len(b) < 2 || p.readsItself: // something follows every value
		return nil, false
	case b[0] == 'n' && p.kind != planOther:
		return bytes.CutPrefix(b, []byte("null"))
	}
	switch p.kind {
	case planString:
		text, rest, ok := plainText(b)
		if ok {
			v.SetString(string(text))
		}
		return rest, ok
	case planBool:
		if rest, ok := bytes.CutPrefix(b, []byte("false")); ok {
			return rest, true
		}
		rest, ok := bytes.CutPrefix(b, []byte("true"))
		v.SetBool(ok)
		return rest, ok
	case planInt, planUint:
		return readInt(b, v, p.kind == planUint)
	case planFloat:
		return readFloat(b, v)
	case planTime:
		return readPlainTime(b, v)
	case planObject:
		switch {
		case b[0] != '{':
			return nil, false
		case b[1] == '}':
			return b[2:], true
		}
		return p.readMembers(b[1:], v)
	case planList:
		return p.readList(b, v)
	case planPointer:
		v.Set(reflect.New(v.Type().Elem()))
		return p.elem.read(b, v.Elem())
	case planMap:
		v.Set(reflect.MakeMap(v.Type()))
		return bytes.CutPrefix(b, []byte("{}"))
	}
	return nil, false
}

// readMembers reads the members of an object and its closing brace.
func (p *plan) readMembers(b []byte, v reflect.Value) (rest []byte, ok bool) {
	var seen uint64
	for next := 0; ; next++ {
		i := next // nearly always in their order
		if i >= len(p.fields) || !hasName(b, p.fields[i]) {
			i = slices.IndexFunc(p.fields, func(f planField) bool { return hasName(b, f) })
		}
		if i < 0 || i >= 64 || seen&(1<<i) != 0 {
			return nil, false
		}
		seen |= 1 << i
		next = i
		f := &p.fields[i]
		b = afterSpace(b[len(f.name)-1:])
		if b, ok = f.plan.read(b, v.Field(f.index)); !ok || len(b) == 0 {
			return nil, false
		}
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

// hasName reports whether b begins with f's name and a colon.
func hasName(b []byte, f planField) bool {
	name := f.name[1:] // without the comma
	return !f.rest && len(b) >= len(name) && string(b[:len(name)]) == name
}

func (p *plan) readList(b []byte, v reflect.Value) (rest []byte, ok bool) {
	if b[0] != '[' {
		return nil, false
	}
	if b = b[1:]; b[0] == ']' {
		v.Set(reflect.MakeSlice(v.Type(), 0, 0))
		return b[1:], true
	}
	for n := 0; ; n++ {
		if n == v.Cap() {
			v.Grow(max(n, 4))
		}
		v.SetLen(n + 1)
		if b, ok = p.elem.read(b, v.Index(n)); !ok || len(b) == 0 {
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

func readPlainTime(b []byte, v reflect.Value) ([]byte, bool) {
	text, rest, ok := plainText(b)
	if !ok {
		return nil, false
	}
	t, ok := parsePlainTime(text)
	to, isTime := reflect.TypeAssert[*time.Time](v.Addr())
	if !ok || !isTime {
		return nil, false
	}
	*to = t
	return rest, true
}

// digits reads a whole number of up to 15 digits, which int64 and float64 hold
// exactly. A zero may not lead others.
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

func readInt(b []byte, v reflect.Value, unsigned bool) ([]byte, bool) {
	minus := b[0] == '-'
	if minus {
		b = b[1:]
	}
	n, rest, ok := digits(b)
	switch {
	case !ok || len(rest) == 0 || rest[0] == '.' || rest[0] == 'e' || rest[0] == 'E':
		return nil, false
	case unsigned:
		if minus || v.OverflowUint(uint64(n)) {
			return nil, false
		}
		v.SetUint(uint64(n))
		return rest, true
	case minus:
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
	end := 0 // of the fraction
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
