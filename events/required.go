package events

import (
	"errors"
	"fmt"
	"reflect"
	"strings"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
)

// requiredField is one field tagged `event:"required"` or `event:"present"`.
type requiredField struct {
	index []int
	path  []string // JSON names from the event down
	empty bool     // "present": a publisher may leave it empty
}

var baseType = reflect.TypeFor[Base]()

func requiredFields(t reflect.Type) ([]requiredField, error) {
	return appendRequired(nil, t, nil, nil)
}

func appendRequired(out []requiredField, t reflect.Type, index []int, path []string) (_ []requiredField, err error) {
	for i := range t.NumField() {
		f := t.Field(i)
		if f.Type == baseType || !f.IsExported() && !f.Anonymous {
			continue
		}
		name, embed := jsonTag(f)
		if name == "-" || embed && f.Type.Kind() != reflect.Struct {
			continue
		}
		at := append(append([]int(nil), index...), i)
		names := append([]string(nil), path...)
		switch {
		case embed: // its members stand in this object
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
			return nil, fmt.Errorf("field %s: tag event:%q: want required or present", f.Name, rule)
		}
		if f.Type.Kind() == reflect.Struct && f.Type.PkgPath() != "time" {
			if out, err = appendRequired(out, f.Type, at, names); err != nil {
				return nil, err
			}
		}
	}
	return out, nil
}

// jsonTag returns a field's JSON name, "" for the Go name, and whether its
// members stand in the object around it instead.
func jsonTag(f reflect.StructField) (name string, embed bool) {
	name, opts, _ := strings.Cut(f.Tag.Get("json"), ",")
	embed = f.Anonymous && name == ""
	for o := range strings.SplitSeq(opts, ",") {
		embed = embed || o == "embed"
	}
	return name, embed
}

// commonNames are the members that Base stands for.
var commonNames = func() map[string]bool {
	m := map[string]bool{}
	for i := range baseType.NumField() {
		name, _ := jsonTag(baseType.Field(i))
		m[name] = true
	}
	return m
}()

// ownNames looks at the members that t adds to Base's. It returns one that
// hides a common field ("" for none), and whether t may also write members that
// only its values know.
func ownNames(t reflect.Type) (hides string, open bool) {
	if reflect.PointerTo(t).Implements(reflect.TypeFor[json.Marshaler]()) ||
		reflect.PointerTo(t).Implements(reflect.TypeFor[json.MarshalerTo]()) {
		open = true
	}
	for i := range t.NumField() {
		f := t.Field(i)
		if f.Type == baseType || !f.IsExported() && !f.Anonymous {
			continue
		}
		name, embed := jsonTag(f)
		switch {
		case !embed && commonNames[name]:
			return name, open
		case embed && f.Type.Kind() == reflect.Struct:
			h, o := ownNames(f.Type)
			if h != "" {
				return h, open
			}
			open = open || o
		case embed:
			open = true
		}
	}
	return "", open
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
		return &Error{
			Type: d.Type, Field: "event_id", Reason: ReasonInvalid,
			Err: fmt.Errorf("%d bytes: want at most %d", len(b.ID), maxIDBytes),
		}
	case b.Type == "":
		return requiredField{path: []string{"event_type"}}.missing(d)
	case b.Type != d.Type:
		return &Error{
			Type: d.Type, Field: "event_type", Reason: ReasonInvalid,
			Err: errors.New("the body's type is not the one its metadata names"),
		}
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
