package bustest

import (
	"fmt"
	"reflect"
	"strings"

	"github.com/aura360/eventbus/events"
)

const poisonPrefix = "eventbus.poison."

// All returns the events of type T that were published so far, by the test and
// by handlers, in order.
func All[T events.Event](h *Harness) []T {
	h.t.Helper()
	def, err := events.DefinitionFor[T]()
	if err != nil {
		h.t.Fatalf("bustest: %v", err)
	}
	var out []T
	for _, p := range h.broker.all() {
		if p.topic != def.Topic || p.msg.Metadata[events.HeaderEventType] != def.Type {
			continue
		}
		e, err := events.Decode[T](p.msg.Metadata, p.msg.Payload)
		if err != nil {
			h.t.Fatalf("bustest: %v", err)
		}
		out = append(out, e)
	}
	return out
}

// One returns the one event of type T that was published; any other number
// ends the test.
func One[T events.Event](h *Harness) T {
	h.t.Helper()
	all := All[T](h)
	if len(all) != 1 {
		h.t.Fatalf("bustest: %d events of type %v were published, want 1", len(all), reflect.TypeFor[T]())
	}
	return all[0]
}

// None fails the test if an event of type T was published.
func None[T events.Event](h *Harness) {
	h.t.Helper()
	if n := len(All[T](h)); n != 0 {
		h.t.Errorf("bustest: %d events of type %v were published, want none", n, reflect.TypeFor[T]())
	}
}

// Poisoned is a message in a poison queue.
type Poisoned struct {
	Group   string
	Handler string // "" when no handler was to blame
	Type    string // event type as the message's metadata says
	ID      string // event id, likewise
	Reason  events.Reason
	Error   string // error chain
	Body    []byte
}

// String is what %v and %+v print of it: the body as text.
func (p Poisoned) String() string {
	return fmt.Sprintf("{%s/%s: %s %s, reason %s: %s, body %s}",
		p.Group, orDash(p.Handler), orDash(p.Type), orDash(p.ID), p.Reason, p.Error, clip(p.Body))
}

// Poisoned returns what was given up so far, in order.
func (h *Harness) Poisoned() []Poisoned {
	var out []Poisoned
	for _, p := range h.broker.all() {
		if !strings.HasPrefix(p.topic, poisonPrefix) {
			continue
		}
		m := p.msg.Metadata
		out = append(out, Poisoned{
			Group: m[events.HeaderPoisonGroup], Handler: m[events.HeaderPoisonHandler],
			Type: m[events.HeaderEventType], ID: m[events.HeaderEventID],
			Reason: events.Reason(m[events.HeaderPoisonReason]), Error: m[events.HeaderPoisonError],
			Body: p.msg.Payload,
		})
	}
	return out
}
