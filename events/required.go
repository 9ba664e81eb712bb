package events

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"reflect"
	"strings"

	"github.com/go-json-experiment/json/jsontext"
)

// requiredField is one field tagged `event:"required"` or `event:"present"`.
type requiredField struct {
	index []int
	path  []string // JSON names from the event down
	empty bool     // "present": a publisher may leave it empty
}

var baseType = reflect.TypeFor[Base]()

func requiredFields(t reflect.Type) []requiredField { return appendRequired(nil, t, nil, nil) }

func appendRequired(out []requiredField, t reflect.Type, index []int, path []string) []requiredField {
	for i := range t.NumField() {
		f := t.Field(i)
		if f.Type == baseType || !f.IsExported() && !f.Anonymous {
			continue
		}
		name, opts, _ := strings.Cut(f.Tag.Get("json"), ",")
		if name == "-" || opts == "embed" && f.Type.Kind() != reflect.Struct {
			continue
		}
		at := append(append([]int(nil), index...), i)
		names := append([]string(nil), path...)
		switch {
		case f.Anonymous && name == "" || opts == "embed": // its members stand in this object
		case name == "":
			names = append(names, f.Name)
		default:
			names = append(names, name)
		}
		switch rule := f.Tag.Get("event"); rule {
		case "":
		case "required", "present":
			out = append(out, requiredField{index: at, path: names, empty: rule == "present"})
		default:
			panic(fmt.Sprintf("field %s: tag event:%q: want required or present", f.Name, rule))
		}
		if f.Type.Kind() == reflect.Struct && f.Type.PkgPath() != "time" {
			out = appendRequired(out, f.Type, at, names)
		}
	}
	return out
}

func (f requiredField) missing(d *Definition) error {
	return &Error{Type: d.Type, Field: strings.Join(f.path, "."), Reason: ReasonInvalid, Err: errMissing}
}

// checkSet reports the first required field that a publisher left empty. A
// number or boolean is never empty: 0 and false are values.
func (d *Definition) checkSet(s settable) error {
	if len(d.required) == 0 {
		return nil
	}
	v := reflect.ValueOf(s).Elem()
	for _, f := range d.required {
		if f.empty {
			continue
		}
		fv := v.FieldByIndex(f.index)
		switch fv.Kind() {
		case reflect.String, reflect.Map, reflect.Slice:
			if fv.Len() == 0 {
				return f.missing(d)
			}
		case reflect.Pointer, reflect.Interface, reflect.Struct:
			// A nested struct is checked by its own fields; a zero one without
			// any required field of its own is an empty object, which is allowed.
			if fv.IsZero() && (fv.Kind() != reflect.Struct || fv.Type().PkgPath() == "time") {
				return f.missing(d)
			}
		}
	}
	return nil
}

// checkPresent reports the first required field that a received event lacks.
// Only a field that is zero after decoding can be missing, so that the body is
// looked at again only for those.
func (d *Definition) checkPresent(s settable, b Base, body []byte) error {
	switch {
	case b.ID == "":
		return requiredField{path: []string{"event_id"}}.missing(d)
	case len(b.ID) > maxIDBytes:
		return &Error{Type: d.Type, Field: "event_id", Reason: ReasonInvalid,
			Err: fmt.Errorf("%d bytes: want at most %d", len(b.ID), maxIDBytes)}
	case b.Type == "":
		return requiredField{path: []string{"event_type"}}.missing(d)
	case b.Type != d.Type:
		return &Error{Type: d.Type, Field: "event_type", Reason: ReasonInvalid,
			Err: errors.New("the body's type is not the one its metadata names")}
	case b.Timestamp.IsZero():
		return requiredField{path: []string{"timestamp"}}.missing(d)
	}
	if len(d.required) == 0 {
		return nil
	}
	v := reflect.ValueOf(s).Elem()
	for _, f := range d.required {
		if !v.FieldByIndex(f.index).IsZero() {
			continue
		}
		raw := jsontext.Value(body)
		for _, name := range f.path {
			next, found, err := member(raw, name)
			if err != nil {
				return jsonError(d.Type, err)
			}
			if !found || next.Kind() == 'n' {
				return f.missing(d)
			}
			raw = next
		}
	}
	return nil
}

// member returns the value of one member of a JSON object, without decoding the
// rest. Its memory is bounded by the body's; what stands behind the member is
// not looked at.
func member(body []byte, name string) (jsontext.Value, bool, error) {
	dec := jsontext.NewDecoder(bytes.NewBuffer(body), jsontext.AllowDuplicateNames(true))
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
		tok, err := dec.ReadToken()
		if err != nil {
			return nil, false, err
		}
		if tok.String() == name {
			v, err := dec.ReadValue()
			return v.Clone(), err == nil, err
		}
		if err := dec.SkipValue(); err != nil {
			return nil, false, err
		}
	}
	return nil, false, nil
}
