package events

import (
	"bytes"
	"math"
	"reflect"
	"testing"
	"time"

	"github.com/go-json-experiment/json"
	"pgregory.net/rapid"
)

type (
	planned struct {
		S    string  `json:"s"`
		Sub  nested  `json:"sub"`
		Ptr  *nested `json:"ptr"`
		List []nested
		F    float64          `json:"f,omitempty"`
		I    int16            `json:"i,omitzero"`
		U    uint64           `json:"u"`
		B    bool             `json:"b,omitempty"`
		T    time.Time        `json:"t"`
		TZ   time.Time        `json:"tz,omitzero"`
		TP   *time.Time       `json:"tp,omitempty"`
		FF   [][]float64      `json:"ff"`
		SS   []string         `json:"ss,omitempty"`
		Kind planKindName     `json:"kind"`
		Any  any              `json:"any"`
		Map  map[string]any   `json:"map,omitempty"`
		Maps []map[string]any `json:"maps"`
		Raw  Raw              `json:"raw,omitzero"`
		skip int
		No   string         `json:"-"`
		Rest map[string]Raw `json:",embed"`
		Last string         `json:"last,omitempty"`
	}
	nested struct {
		A     string    `json:"a,omitempty"`
		At    time.Time `json:"at,omitempty"`
		Empty struct{}  `json:"empty,omitempty"`
	}
	planKindName string
)

func drawPlanned(t *rapid.T) planned {
	text := rapid.OneOf(rapid.String(), rapid.SampledFrom([]string{"", "<a&b>", "\u2028\x00\x7f\"\\/", "\xff", "é"}))
	float := rapid.OneOf(rapid.Float64(), rapid.Custom(func(t *rapid.T) float64 { return math.Float64frombits(rapid.Uint64().Draw(t, "bits")) }),
		rapid.SampledFrom([]float64{0, math.Copysign(0, -1), 1e-6, 9.9e-7, 1e21, 1e20, 7, 0.1, 5e-324, math.MaxFloat64, math.Inf(1), math.NaN()}))
	when := rapid.Custom(func(t *rapid.T) time.Time {
		if rapid.IntRange(0, 3).Draw(t, "zero") == 0 {
			return time.Time{}
		}
		zone := time.FixedZone("", rapid.IntRange(-50000, 50000).Draw(t, "zone"))
		return time.Unix(rapid.Int64Range(-62135600000, 253402400000).Draw(t, "sec"), rapid.Int64Range(0, 999999999).Draw(t, "ns")).In(zone)
	})
	inner := rapid.Custom(func(t *rapid.T) nested { return nested{A: text.Draw(t, "a"), At: when.Draw(t, "at")} })
	p := planned{
		S: text.Draw(t, "s"), Sub: inner.Draw(t, "sub"), F: float.Draw(t, "f"), I: rapid.Int16().Draw(t, "i"),
		U: rapid.Uint64().Draw(t, "u"), B: rapid.Bool().Draw(t, "b"), T: when.Draw(t, "t"), TZ: when.Draw(t, "tz"),
		FF: rapid.SliceOfN(rapid.SliceOfN(float, 0, 3), 0, 3).Draw(t, "ff"), SS: rapid.SliceOfN(text, 0, 3).Draw(t, "ss"),
		List: rapid.SliceOfN(inner, 0, 2).Draw(t, "list"), Kind: planKindName(text.Draw(t, "kind")), Last: text.Draw(t, "last"), skip: 1, No: "no",
	}
	if rapid.Bool().Draw(t, "pointers") {
		n, at := inner.Draw(t, "ptr"), when.Draw(t, "tp")
		p.Ptr, p.TP = &n, &at
	}
	switch rapid.IntRange(0, 9).Draw(t, "free") {
	case 0:
		p.Any = "x"
	case 1:
		p.Map = map[string]any{"k": 1.0}
	case 2:
		p.Maps = []map[string]any{{}, {"k": 1.0}}
	case 3:
		p.Raw = Raw(`{"r":1}`)
	case 4:
		p.Rest = map[string]Raw{"rest": Raw("1")}
	case 5:
		p.Map, p.Maps, p.Rest = map[string]any{}, []map[string]any{{}, nil}, map[string]Raw{}
	}
	return p
}

func TestAPlanWritesWhatTheLibraryWrites(t *testing.T) {
	p := planOf(reflect.TypeFor[planned]())
	rapid.Check(t, func(t *rapid.T) {
		v := drawPlanned(t)
		want, err := json.Marshal(&v, encodeOptions)
		got, ok := p.append(nil, reflect.ValueOf(&v).Elem())
		free := v.Any != nil || len(v.Map) > 0 || len(v.Maps) > 1 && len(v.Maps[1]) > 0 || v.Raw != nil || len(v.Rest) > 0
		switch {
		case ok != (err == nil && !free):
			t.Fatalf("the plan gave up: %v; the library's error: %v; free members: %v", !ok, err, free)
		case ok && !bytes.Equal(got, want):
			t.Fatalf("wrote\n%s\nwant\n%s", got, want)
		}
	})
}

type (
	ownText  struct{ X int }
	ownJSON  struct{ X int }
	ownZero  struct{ X int }
	loop     struct{ Next *loop }
	knot     *knot
	hidden   struct{ x int }
	embedded struct{ nested }
)

func (ownText) MarshalText() ([]byte, error)  { return []byte("own"), nil }
func (*ownJSON) MarshalJSON() ([]byte, error) { return []byte(`"own"`), nil }
func (ownZero) IsZero() bool                  { return true }

func TestAPlanLeavesWhatItDoesNotKnowToTheLibrary(t *testing.T) {
	for _, v := range []any{
		&struct{ V ownText }{},
		&struct{ V ownJSON }{},
		&struct{ V []*ownJSON }{V: []*ownJSON{{}}},
		&struct {
			V ownZero `json:",omitzero"`
		}{},
		&struct{ V loop }{V: loop{Next: &loop{}}},
		&struct{ V knot }{V: new(knot)},
		&struct{ V hidden }{V: hidden{1}},
		&struct{ V embedded }{},
		&struct{ V time.Duration }{},
		&struct{ V []byte }{},
		&struct{ V [2]int }{},
		&struct{ V float32 }{},
		&struct{ V func() }{},
		&struct {
			V int `json:"v,string"`
		}{},
		&struct {
			V time.Time `json:"v,format:unix"`
		}{},
		&struct {
			V int `json:"'a,b'"`
		}{},
		&struct {
			V int `json:"<v>"`
		}{},
		&struct {
			V nested `json:",embed"`
		}{},
	} {
		e := reflect.ValueOf(v).Elem()
		if b, ok := planOf(e.Type()).append(nil, e); ok {
			t.Errorf("%v is written as %s", e.Type(), b)
		}
	}
}
