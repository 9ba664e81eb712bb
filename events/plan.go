package events

import (
	"encoding"
	"math"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	stdjson "encoding/json"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
)

// plan says how values of one Go type are written, made once when an event type
// is defined. It writes what the JSON library writes, byte for byte, in a third of
// its time: it looks nothing up. It knows only what most events are made of, and
// gives up on everything else (a map with something in it, a marshaler of the
// type's own) and on every error: then the library writes the whole event, and
// says what is wrong.
type plan struct {
	kind   planKind
	fields []planField // of an object
	elem   *plan       // of a list or a pointer
}

type planKind uint8

const (
	planOther planKind = iota // not known here
	planString
	planBool
	planInt
	planUint
	planFloat
	planTime
	planObject
	planList
	planPointer
	planMap // known when empty
	planInterface
)

type planField struct {
	index     int
	name      string // as it is written, with the comma before and the colon after
	omitZero  bool
	omitEmpty bool
	rest      bool // a map whose members stand in this object
	plan      *plan
}

// planOf makes the plan of t. outer are the types that t stands in: one that
// contains itself is left to the library, which knows cycles.
func planOf(t reflect.Type, outer ...reflect.Type) *plan {
	if t == timeType {
		return &plan{kind: planTime}
	}
	if slices.Contains(outer, t) {
		return &plan{}
	}
	outer = append(outer[:len(outer):len(outer)], t)
	if t.Kind() == reflect.Pointer { // its methods are its element's
		return &plan{kind: planPointer, elem: planOf(t.Elem(), outer...)}
	}
	if t == reflect.TypeFor[time.Duration]() || implementsAny(t) {
		return &plan{}
	}
	switch t.Kind() {
	case reflect.String:
		return &plan{kind: planString}
	case reflect.Bool:
		return &plan{kind: planBool}
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		return &plan{kind: planInt}
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		return &plan{kind: planUint}
	case reflect.Float64:
		return &plan{kind: planFloat}
	case reflect.Map:
		return &plan{kind: planMap}
	case reflect.Interface:
		return &plan{kind: planInterface}
	case reflect.Slice:
		if t.Elem().Kind() == reflect.Uint8 { // base64
			return &plan{}
		}
		return &plan{kind: planList, elem: planOf(t.Elem(), outer...)}
	case reflect.Struct:
		return planOfStruct(t, outer)
	}
	return &plan{}
}

var timeType = reflect.TypeFor[time.Time]()

// implementsAny tells that t or a pointer to it writes itself.
func implementsAny(t reflect.Type) bool {
	for _, own := range []reflect.Type{
		reflect.TypeFor[json.MarshalerTo](), reflect.TypeFor[stdjson.Marshaler](),
		reflect.TypeFor[encoding.TextAppender](), reflect.TypeFor[encoding.TextMarshaler](),
	} {
		if t.Implements(own) || reflect.PointerTo(t).Implements(own) {
			return true
		}
	}
	return false
}

func planOfStruct(t reflect.Type, outer []reflect.Type) *plan {
	p := &plan{kind: planObject}
	names := map[string]bool{}
	var rest []planField
	for i := range t.NumField() {
		f := t.Field(i)
		tag := f.Tag.Get("json")
		if f.Type == baseType && f.Anonymous && len(outer) == 1 && tag == "" || tag == "-" || !f.IsExported() && !f.Anonymous {
			continue
		}
		name, options, _ := strings.Cut(tag, ",")
		if name == "" {
			name = f.Name
		}
		field := planField{index: i, name: `,"` + name + `":`}
		for o := range strings.SplitSeq(options, ",") {
			switch o {
			case "":
			case "omitzero":
				field.omitZero = true
			case "omitempty":
				field.omitEmpty = true
			case "embed":
				field.rest = true
			default:
				return &plan{}
			}
		}
		switch {
		case f.Anonymous, names[name], strings.ContainsFunc(name, needsCare):
			return &plan{}
		case field.rest && (f.Type.Kind() != reflect.Map || implementsAny(f.Type)):
			return &plan{}
		case field.omitZero && f.Type != timeType && hasIsZero(f.Type):
			return &plan{}
		case field.rest: // the library writes it last
			rest = append(rest, field)
			continue
		}
		names[name] = true
		field.plan = planOf(f.Type, outer...)
		p.fields = append(p.fields, field)
	}
	if len(p.fields) == 0 && t.NumField() > 0 && len(outer) > 1 {
		return &plan{} // an error, when none of its fields is exported
	}
	p.fields = append(p.fields, rest...)
	return p
}

// needsCare finds what has a meaning in a tag or is escaped in JSON.
func needsCare(r rune) bool { return r < ' ' || r > '~' || strings.ContainsRune("\\'\"`<>&", r) }

func hasIsZero(t reflect.Type) bool {
	zeroer := reflect.TypeFor[interface{ IsZero() bool }]()
	return t.Implements(zeroer) || reflect.PointerTo(t).Implements(zeroer)
}

// append writes v. What b holds is worthless when it returns false.
func (p *plan) append(b []byte, v reflect.Value) ([]byte, bool) {
	switch p.kind {
	case planString:
		b, err := jsontext.AppendQuote(b, v.String())
		return b, err == nil
	case planBool:
		return strconv.AppendBool(b, v.Bool()), true
	case planInt:
		return strconv.AppendInt(b, v.Int(), 10), true
	case planUint:
		return strconv.AppendUint(b, v.Uint(), 10), true
	case planFloat:
		return appendFloat(b, v.Float())
	case planTime:
		return appendTimeValue(b, v)
	case planObject:
		b = append(b, '{')
		start := len(b)
		b, ok := p.appendFields(b, v)
		if ok && len(b) > start { // without the first comma
			b = append(b[:start], b[start+1:]...)
		}
		return append(b, '}'), ok
	case planList:
		b = append(b, '[')
		for i := range v.Len() {
			if i > 0 {
				b = append(b, ',')
			}
			var ok bool
			if b, ok = p.elem.append(b, v.Index(i)); !ok {
				return b, false
			}
		}
		return append(b, ']'), true
	case planPointer:
		if v.IsNil() {
			return append(b, "null"...), true
		}
		return p.elem.append(b, v.Elem())
	case planMap:
		return append(b, "{}"...), v.Len() == 0
	case planInterface:
		return append(b, "null"...), v.IsNil()
	}
	return b, false
}

// appendFields writes the members of an object, each with a comma before it.
func (p *plan) appendFields(b []byte, v reflect.Value) ([]byte, bool) {
	for i := range p.fields {
		f := &p.fields[i]
		fv := v.Field(f.index)
		if f.rest {
			if fv.Len() > 0 {
				return b, false
			}
			continue
		}
		if f.omitZero && fv.IsZero() {
			continue
		}
		before := len(b)
		b = append(b, f.name...)
		value := len(b)
		var ok bool
		if b, ok = f.plan.append(b, fv); !ok {
			return b, false
		}
		if f.omitEmpty {
			switch string(b[value:]) {
			case `null`, `""`, `{}`, `[]`:
				b = b[:before]
			}
		}
	}
	return b, true
}

// appendFloat writes f as JavaScript does.
func appendFloat(b []byte, f float64) ([]byte, bool) {
	abs := math.Abs(f)
	switch {
	case math.IsNaN(f) || abs > math.MaxFloat64:
		return b, false
	case abs != 0 && (abs < 1e-6 || abs >= 1e21):
		b = strconv.AppendFloat(b, f, 'e', -1, 64)
		if n := len(b); n >= 4 && string(b[n-4:n-1]) == "e-0" { // two digits at least
			b = append(b[:n-2], b[n-1])
		}
		return b, true
	}
	return strconv.AppendFloat(b, f, 'f', -1, 64), true
}

func appendTimeValue(b []byte, v reflect.Value) ([]byte, bool) {
	t, ok := reflect.TypeAssert[time.Time](v)
	if !ok {
		return b, false
	}
	if t.IsZero() {
		return append(b, "null"...), true
	}
	if y := t.UTC().Year(); y < 1 || y > 9999 {
		return b, false
	}
	return append(appendTime(append(b, '"'), t), '"'), true
}
