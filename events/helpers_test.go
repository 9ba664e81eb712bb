package events_test

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/aura360/eventbus/events"
)

var at = time.Date(2025, 1, 7, 12, 34, 56, 123456000, time.UTC)

type item struct {
	SKU   string                `json:"sku" event:"required"`
	Count int                   `json:"count" event:"required"`
	Gift  bool                  `json:"gift" event:"required"`
	Note  string                `json:"note"`
	Extra map[string]events.Raw `json:",embed"`
}

// orderPlaced has a field of every kind that required knows.
type orderPlaced struct {
	events.Base
	Item   item           `json:"item" event:"required"`
	Due    time.Time      `json:"due" event:"required"`
	Tags   []string       `json:"tags" event:"required"`
	Attrs  map[string]any `json:"attrs" event:"required"`
	Total  *float64       `json:"total" event:"required"`
	Any    any            `json:"any" event:"required"`
	Memo   string         `json:"memo" event:"present"`
	Free   any            `json:"free,omitzero"`
	Later  time.Time      `json:"later,omitzero"`
	Ignore string         `json:"-" event:"required"`
}

// simple has nothing of its own.
type simple struct{ events.Base }

// dressed has defaults, rules and a key of its own.
type dressed struct {
	events.Base
	Room  string   `json:"room" event:"required"`
	Seats int      `json:"seats"`
	List  []string `json:"list"`
}

func (e dressed) Key() string { return "room-" + e.Room }
func (e *dressed) SetDefaults() {
	if e.Room == "" {
		e.Room = e.UserID
	}
	if e.Room == "drop-id" {
		e.ID = ""
	}
	if e.Room == "drop-time" {
		e.Timestamp = time.Time{}
	}
}

var errSeats = errors.New("seats: want 0 or more")

func (e *dressed) Validate() error {
	if e.Seats < 0 {
		return errSeats
	}
	return nil
}

// grown is at version 3: 1 had "name", 2 changed nothing that needs rewriting,
// before 3 "full_name" was "title".
type grown struct {
	events.Base
	FullName string `json:"full_name" event:"required"`
}

// openEvent keeps unknown members of the event itself.
type openEvent struct {
	events.Base
	Extra map[string]events.Raw `json:",embed"`
}

// stubborn writes itself.
type stubborn struct {
	events.Base
	JSON string
}

func (e stubborn) MarshalJSON() ([]byte, error) { return []byte(e.JSON), nil }
func (e *stubborn) UnmarshalJSON([]byte) error  { panic("secret") }

var (
	_ = events.Define[orderPlaced]("order.placed", events.Topic("shop.orders"))
	_ = events.Define[simple]("simple", events.Topic("t"))
	_ = events.Define[dressed]("dressed", events.Topic("t"))
	_ = events.Define[openEvent]("open", events.Topic("t"))
	_ = events.Define[stubborn]("stubborn", events.Topic("t"))
	_ = events.Define[grown]("grown", events.Topic("t"), events.Version(3),
		events.Upcast(1, func(b []byte) ([]byte, error) {
			if strings.Contains(string(b), "panic") {
				panic("secret")
			}
			return []byte(strings.Replace(string(b), `"name"`, `"title"`, 1)), nil
		}),
		events.Upcast(2, func(b []byte) ([]byte, error) {
			return []byte(strings.Replace(string(b), `"title"`, `"full_name"`, 1)), nil
		}))
)

func order() orderPlaced {
	total := 0.0
	return orderPlaced{
		Base: events.Base{ID: "o-1", Timestamp: at, UserID: "u-1"},
		Item: item{SKU: "s"}, Due: at, Tags: []string{""}, Attrs: map[string]any{"a": nil},
		Total: &total, Any: false,
	}
}

func encode(t testing.TB, e events.Event) events.Encoded {
	t.Helper()
	enc, err := events.Encode(e, events.Base{})
	if err != nil {
		t.Fatal(err)
	}
	return enc
}

// wantError checks that err is an *events.Error about one field.
func wantError(t testing.TB, err error, reason events.Reason, field string) {
	t.Helper()
	var e *events.Error
	if !errors.As(err, &e) {
		t.Errorf("error %v: want an *events.Error, reason %s, field %q", err, reason, field)
		return
	}
	if e.Reason != reason || e.Field != field {
		t.Errorf("error %v: reason %s, field %q; want %s, %q", err, e.Reason, e.Field, reason, field)
	}
}

func typesDefined() []string {
	var out []string
	for _, d := range events.Definitions() {
		out = append(out, d.Type)
	}
	return slices.Clone(out)
}
