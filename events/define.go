package events

import (
	"fmt"
	"reflect"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
)

// Definition is what the process knows about one event type.
type Definition struct {
	// Type is the name on the wire, such as "user.mood.created".
	Type string
	// Topic is where events of this type are published.
	Topic string
	// Version of the schema that this build writes; it reads this and older.
	Version int
	// GoType is the struct that holds such an event.
	GoType reflect.Type

	clone    func(Event) settable // a fresh copy; nil for a nil pointer
	fresh    func() settable
	value    func(settable) Event // the struct itself, as handlers take it
	required []requiredField
	plan     *plan
	open     bool // may write members that only its values know
	upcasts  map[int]Upcaster

	readsItself bool // has an unmarshaler of its own
}

// Upcaster rewrites the JSON object of an event from one schema version to the
// next. It must not keep or change body, and need not set event_version. Its
// error must not quote the body; those of JSON libraries are rewritten.
type Upcaster func(body []byte) ([]byte, error)

// Option sets a property of an event type.
type Option func(*Definition)

// Topic is where events of the type are published. Required. 1 to 200 bytes of
// a-z A-Z 0-9 . _ - (Kafka's rule for names).
func Topic(name string) Option { return func(d *Definition) { d.Topic = name } }

// Version is the schema version that this build writes, 1 or more. Defaults to 1.
func Version(n int) Option { return func(d *Definition) { d.Version = n } }

// Upcast says how the body of an event of version from becomes version from+1.
// An old event is taken through as many of these as it needs before it is decoded.
func Upcast(from int, f Upcaster) Option {
	return func(d *Definition) {
		if d.upcasts == nil {
			d.upcasts = map[int]Upcaster{}
		}
		d.upcasts[from] = f
	}
}

// registry is replaced whole on every change, so that looking up takes no lock.
type registry struct {
	byName map[string]*Definition
	byType map[reflect.Type]*Definition
}

var (
	registryMu sync.Mutex // serialises writers
	current    atomic.Pointer[registry]
)

// Define makes T an event type named name, for this process. Call it from a
// package variable, so that importing the package is enough:
//
//	var _ = events.Define[OrderPlaced]("order.placed", events.Topic("shop.orders"))
//
// It panics when the name or the type is defined already, or the definition
// makes no sense: these are mistakes in the program.
//
// Fields of T tagged `event:"required"` (also inside nested structs) must be set
// when publishing (strings, maps, slices, pointers and times not empty) and
// present and not null when reading. Tagged `event:"present"`, a field may be
// empty when publishing.
func Define[T Event](name string, opts ...Option) *Definition {
	t := reflect.TypeFor[T]()
	fail := func(format string, a ...any) {
		panic(fmt.Sprintf("events.Define[%v](%q): %s", t, name, fmt.Sprintf(format, a...)))
	}
	if t.Kind() != reflect.Struct {
		fail("want a struct type that embeds events.Base")
	}
	if !embedsBase(t) {
		fail("want events.Base embedded by value")
	}
	d := &Definition{Type: name, Version: 1, GoType: t}
	for _, o := range opts {
		o(d)
	}
	if !validType(name) {
		fail("want a name of 1 to %d visible ASCII characters", maxTypeBytes)
	}
	if !validTopic(d.Topic) {
		fail("topic %q: want events.Topic with 1 to 200 bytes of a-z A-Z 0-9 . _ -", d.Topic)
	}
	if d.Version < 1 {
		fail("version %d: want 1 or more", d.Version)
	}
	for from := range d.upcasts {
		if from < 1 || from >= d.Version {
			fail("upcast from version %d: want 1 to %d", from, d.Version-1)
		}
	}
	hides, open := ownNames(t)
	if hides != "" {
		fail("a field has the JSON name %q, which is one of events.Base", hides)
	}
	d.open, d.plan, d.readsItself = open, planOf(t), readsItself(t)
	var err error
	if d.required, err = requiredFields(t); err != nil {
		fail("%v", err)
	}
	d.fresh = func() settable { return any(new(T)).(settable) }
	d.value = func(s settable) Event { return *any(s).(*T) }
	d.clone = func(e Event) settable {
		c := new(T)
		switch v := e.(type) {
		case T:
			*c = v
		default:
			p, _ := any(e).(*T)
			if p == nil {
				return nil
			}
			*c = *p
		}
		return any(c).(settable)
	}

	registryMu.Lock()
	defer registryMu.Unlock()
	old := current.Load()
	next := &registry{byName: map[string]*Definition{}, byType: map[reflect.Type]*Definition{}}
	if old != nil {
		for _, o := range old.byName {
			next.byName[o.Type], next.byType[o.GoType] = o, o
		}
	}
	if o := next.byName[name]; o != nil {
		fail("the name is taken by %v", o.GoType)
	}
	if o := next.byType[t]; o != nil {
		fail("the type is defined already as %q", o.Type)
	}
	next.byName[name], next.byType[t] = d, d
	current.Store(next)
	return d
}

// embedsBase reports whether t has a Base that is there as soon as a t is: not
// behind a pointer, however deep it is embedded.
func embedsBase(t reflect.Type) bool {
	f, ok := t.FieldByName("Base")
	if !ok || !f.Anonymous || f.Type != baseType {
		return false
	}
	for _, i := range f.Index {
		if t.Kind() != reflect.Struct {
			return false
		}
		t = t.Field(i).Type
	}
	return true
}

// maxTypeBytes bounds an event type's name.
const maxTypeBytes = 200

func validType(s string) bool {
	return s != "" && len(s) <= maxTypeBytes &&
		!strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r > '~' })
}

func validTopic(s string) bool {
	if s == "" || len(s) > 200 || s == "." || s == ".." {
		return false
	}
	return !strings.ContainsFunc(s, func(r rune) bool {
		return !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '.' || r == '_' || r == '-')
	})
}

// Lookup returns the definition of the type named name.
func Lookup(name string) (*Definition, bool) {
	r := current.Load()
	if r == nil {
		return nil, false
	}
	d, ok := r.byName[name]
	return d, ok
}

// DefinitionOf returns the definition of e's type. The error is an *Error with
// ReasonUnknownType when it was never defined.
func DefinitionOf(e Event) (*Definition, error) {
	if e == nil {
		return nil, &Error{Reason: ReasonInvalid, Err: errNil}
	}
	return definitionOf(reflect.TypeOf(e))
}

// DefinitionFor is DefinitionOf for a type instead of a value.
func DefinitionFor[T Event]() (*Definition, error) { return definitionOf(reflect.TypeFor[T]()) }

func definitionOf(t reflect.Type) (*Definition, error) {
	if t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	if r := current.Load(); r != nil {
		if d, ok := r.byType[t]; ok {
			return d, nil
		}
	}
	return nil, &Error{Reason: ReasonUnknownType, Err: fmt.Errorf(
		"type %v is not defined; it needs: var _ = events.Define[%v](\"its.name\", events.Topic(\"its.topic\"))", t, t)}
}

// Definitions returns all defined types, sorted by name.
func Definitions() []*Definition {
	r := current.Load()
	if r == nil {
		return nil
	}
	out := make([]*Definition, 0, len(r.byName))
	for _, d := range r.byName {
		out = append(out, d)
	}
	slices.SortFunc(out, func(a, b *Definition) int { return strings.Compare(a.Type, b.Type) })
	return out
}
