package events_test

import (
	"fmt"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/aura360/eventbus/events"
)

type (
	undefined struct{ events.Base }
	hidesUser struct {
		events.Base
		Owner string `json:"user_id"`
	}
	inner struct {
		Kind string `json:"event_type"`
	}
	hidesEmbedded struct {
		events.Base
		inner2
	}
	inner2     struct{ inner }
	hidesByTag struct {
		events.Base
		In inner `json:",embed"`
	}
	typo struct {
		events.Base
		Data struct {
			Name string `json:"name" event:"requierd"`
		} `json:"data"`
	}
	byPointer struct{ *events.Base }
)

func panicText(f func()) (text string) {
	defer func() {
		if r := recover(); r != nil {
			text = fmt.Sprint(r)
		}
	}()
	f()
	return ""
}

func TestDefinePanicsSayWhatIsWrong(t *testing.T) {
	topic := events.Topic("t")
	up := func(b []byte) ([]byte, error) { return b, nil }
	for _, c := range []struct {
		name string
		f    func()
		want string
	}{
		{"no name", func() { events.Define[undefined]("", topic) }, "1 to 200 visible ASCII"},
		{"space", func() { events.Define[undefined]("a b", topic) }, "1 to 200 visible ASCII"},
		{"newline", func() { events.Define[undefined]("a\nb", topic) }, "1 to 200 visible ASCII"},
		{"not ASCII", func() { events.Define[undefined]("señal", topic) }, "1 to 200 visible ASCII"},
		{"long name", func() { events.Define[undefined](strings.Repeat("a", 201), topic) }, "1 to 200 visible ASCII"},
		{"no topic", func() { events.Define[undefined]("x") }, `topic "": want events.Topic`},
		{"dots", func() { events.Define[undefined]("x", events.Topic("..")) }, `topic ".."`},
		{"bad topic", func() { events.Define[undefined]("x", events.Topic("a/b")) }, `topic "a/b"`},
		{"long topic", func() { events.Define[undefined]("x", events.Topic(strings.Repeat("a", 201))) }, "1 to 200 bytes"},
		{"version 0", func() { events.Define[undefined]("x", topic, events.Version(0)) }, "version 0: want 1 or more"},
		{"upcast to nowhere", func() { events.Define[undefined]("x", topic, events.Upcast(1, up)) }, "upcast from version 1"},
		{"upcast from 0", func() { events.Define[undefined]("x", topic, events.Version(2), events.Upcast(0, up)) }, "want 1 to 1"},
		{"name taken", func() { events.Define[undefined]("simple", topic) }, "taken by events_test.simple"},
		{"type taken", func() { events.Define[simple]("simple2", topic) }, `defined already as "simple"`},
		{"pointer", func() { events.Define[*undefined]("x", topic) }, "want a struct type"},
		{"interface", func() { events.Define[events.Event]("x", topic) }, "want a struct type"},
		{"embedded pointer", func() { events.Define[byPointer]("x", topic) }, "want events.Base embedded by value"},
		{"hides a common field", func() { events.Define[hidesUser]("x", topic) }, `"user_id", which is one of events.Base`},
		{"hides it from below", func() { events.Define[hidesEmbedded]("x", topic) }, `"event_type", which is one of events.Base`},
		{"hides it by tag", func() { events.Define[hidesByTag]("x", topic) }, `"event_type", which is one of events.Base`},
		{"tag misspelt", func() { events.Define[typo]("x", topic) }, `field Name: tag event:"requierd"`},
	} {
		got := panicText(c.f)
		if !strings.HasPrefix(got, "events.Define[") || !strings.Contains(got, c.want) {
			t.Errorf("%s: %q: want it to hold %q", c.name, got, c.want)
		}
	}
	if _, ok := events.Lookup("x"); ok {
		t.Error("a refused definition was registered")
	}
}

func TestDefinitionsAreFound(t *testing.T) {
	d, ok := events.Lookup("order.placed")
	if !ok || d.Topic != "shop.orders" || d.Version != 1 || d.GoType != reflect.TypeFor[orderPlaced]() {
		t.Fatalf("Lookup: %+v, %v", d, ok)
	}
	for _, e := range []events.Event{orderPlaced{}, &orderPlaced{}} {
		if got, err := events.DefinitionOf(e); err != nil || got != d {
			t.Errorf("DefinitionOf(%T): %v, %v", e, got, err)
		}
	}
	if got, err := events.DefinitionFor[*orderPlaced](); err != nil || got != d {
		t.Errorf("DefinitionFor: %v, %v", got, err)
	}
	_, err := events.DefinitionOf(undefined{})
	wantError(t, err, events.ReasonUnknownType, "")
	if !strings.Contains(err.Error(), "events.Define[events_test.undefined]") {
		t.Errorf("%v: want it to say how to define the type", err)
	}
	_, err = events.DefinitionOf(nil)
	wantError(t, err, events.ReasonInvalid, "")
	if _, ok := events.Lookup("nope"); ok {
		t.Error("Lookup found what was never defined")
	}
	if names := typesDefined(); !slices.IsSorted(names) || !slices.Contains(names, "grown") {
		t.Errorf("Definitions: %v", names)
	}
}

type generic[T any] struct {
	events.Base
	V T `json:"v"`
}

func TestDefineAndLookupRunTogether(t *testing.T) {
	define := []func(){
		func() { events.Define[generic[int]]("generic.int", events.Topic("t")) },
		func() { events.Define[generic[string]]("generic.string", events.Topic("t")) },
		func() { events.Define[generic[bool]]("generic.bool", events.Topic("t")) },
		func() { events.Define[generic[[]int]]("generic.ints", events.Topic("t")) },
	}
	var wg sync.WaitGroup
	for _, f := range define {
		wg.Go(f)
		wg.Go(func() {
			for range 200 {
				events.Lookup("generic.int")
				events.Definitions()
				enc, err := events.Encode(order(), events.Base{})
				if err != nil {
					t.Error(err)
					return
				}
				if _, err := events.Decode[orderPlaced](nil, enc.Body); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	for _, n := range []string{"generic.int", "generic.string", "generic.bool", "generic.ints"} {
		if _, ok := events.Lookup(n); !ok {
			t.Errorf("%s was lost", n)
		}
	}
}
