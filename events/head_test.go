package events_test

import (
	"fmt"
	"reflect"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/aura360/eventbus/events"
)

type headed struct {
	events.Base
	Note  string                `json:"note"`
	Extra map[string]events.Raw `json:",embed"`
}

var headedV2 = events.Define[headed]("test.headed", events.Topic("test"), events.Version(2))

// atByte is the part of an error that a space before the body changes.
var atByte = regexp.MustCompile(` at byte \d+`)

// What is read by the short cut for plain bodies is what the library reads: a
// space before the body turns the short cut off.
func TestPlainBodiesAreReadAsTheLibraryReadsThem(t *testing.T) {
	const plain = `{"event_id":"i","event_type":"test.headed","event_version":2,"timestamp":"2025-01-07T12:34:56.123456Z",` +
		`"trace_id":null,"user_id":"u","metadata":{},"note":"n"}`
	header := map[string]string{"event_id": "i", "event_type": "test.headed", "trace_id": "", "eb_key": "u"}
	bodies := []string{
		plain,
		strings.NewReplacer(`":`, `": `, `,"`, `, "`).Replace(plain),
		strings.Replace(plain, `,"note":"n"`, ``, 1),
		plain + " ", plain + "x", strings.Replace(plain, `"note":"n"}`, ``, 1), plain[:len(plain)-1], "{", "", "{}", "null",
	}
	for _, r := range [][2]string{
		{`"trace_id":null`, `"trace_id":"t"`},
		{`"user_id":"u"`, `"user_id":null`},
		{`"user_id":"u"`, `"user_id":"other"`},
		{`"user_id":"u"`, `"user_id":""`},
		{`"user_id":"u"`, `"user_id":"\u0075"`},
		{`"user_id":"u"`, `"user_id":"ü"`},
		{`"user_id":"u"`, "\"user_id\":\"\xff\""},
		{`"user_id":"u"`, "\"user_id\":\"\n\""},
		{`"user_id":"u"`, `"user_id":7`},
		{`"event_id":"i"`, `"event_id":""`},
		{`"event_id":"i"`, `"event_id":null`},
		{`"event_id":"i"`, `"event_id":"` + strings.Repeat("i", 201) + `"`},
		{`"test.headed"`, `"test.other"`},
		{`"event_version":2,`, ``},
		{`"event_version":2`, `"event_version":1`},
		{`"event_version":2`, `"event_version":3`},
		{`"event_version":2`, `"event_version":02`},
		{`"event_version":2`, `"event_version":2.0`},
		{`"event_version":2`, `"event_version":-2`},
		{`"event_version":2`, `"event_version":99999999999999999999`},
		{`"timestamp":"2025-01-07T12:34:56.123456Z"`, `"timestamp":"2025-01-07T12:34:56"`},
		{`"timestamp":"2025-01-07T12:34:56.123456Z"`, `"timestamp":"2025-01-07T12:34:56+02:00"`},
		{`"timestamp":"2025-01-07T12:34:56.123456Z"`, `"timestamp":"today"`},
		{`"timestamp":"2025-01-07T12:34:56.123456Z"`, `"timestamp":null`},
		{`"metadata":{}`, `"metadata":{"a":1,"b":[12345678901234567890]}`},
		{`"metadata":{}`, `"metadata":{ }`},
		{`"metadata":{}`, `"metadata":null`},
		{`"metadata":{}`, `"metadata":3`},
		{`"metadata":{},`, ``},
		{`"note":"n"`, `"note":"n","more":{"event_id":"x","metadata":1}`},
		{`"note":"n"`, `"note":"n","event_id":"i"`},
		{`"note":"n"`, `"note":"n","\u0065vent_id":"i"`},
		{`"note":"n"`, `"note":"n","event_type":"test.headed"`},
		{`"note":"n"`, `"note":"n","event_version":2`},
		{`"note":"n"`, `"note":"n","timestamp":"2025-01-07T12:34:56.123456Z"`},
		{`"note":"n"`, `"note":"n","trace_id":null`},
		{`"note":"n"`, `"note":"n","user_id":null`},
		{`"note":"n"`, `"note":"n","metadata":{}`},
		{`"note":"n"`, `"note":"n","metadata":null`},
		{`"note":"n"`, `"note":"n","note":"n"`},
		{`"note":"n"`, `"note":7`},
		{`"note":"n"`, `"note":"n",`},
		{`"note":"n"`, `"note" "n"`},
		{`,"note"`, `  ,  "note"`},
		{`,"user_id":"u"`, ``},
	} {
		if !strings.Contains(plain, r[0]) {
			t.Fatal(r)
		}
		bodies = append(bodies, strings.Replace(plain, r[0], r[1], 1))
	}
	for _, body := range bodies {
		for _, h := range []map[string]string{nil, header, {"event_version": "2"}, {"event_version": "1"}} {
			got, err := headedV2.Decode(h, []byte(body))
			want, werr := headedV2.Decode(h, []byte(" "+body))
			if atByte.ReplaceAllString(fmt.Sprint(err), "") != atByte.ReplaceAllString(fmt.Sprint(werr), "") || !reflect.DeepEqual(got, want) {
				t.Errorf("%s, %v:\n read %+v, %v\n want %+v, %v", body, h, got, err, want, werr)
			}
		}
	}
}

type (
	planned struct {
		events.Base
		Text    string         `json:"text"`
		Named   plannedName    `json:"named"`
		Flag    bool           `json:"flag"`
		Float   float64        `json:"float"`
		Int     int            `json:"int"`
		Small   int32          `json:"small"`
		At      time.Time      `json:"at"`
		Texts   []string       `json:"texts"`
		Vectors [][]float64    `json:"vectors"`
		Inner   plannedInner   `json:"inner"`
		Inners  []plannedInner `json:"inners,omitempty"`
		Ptr     *plannedInner  `json:"ptr"`
		Uint    uint16         `json:"uint"`
		Map     map[string]int `json:"map"`
		Any     any            `json:"any"`
		Lower   lower          `json:"lower"`
		Month   time.Month     `json:"month"`
		Skipped string         `json:"-"`
		own     string         //nolint:unused // not on the wire
		Untag   string
	}
	plannedInner struct {
		A string                `json:"a"`
		B int64                 `json:"b"`
		X map[string]events.Raw `json:",embed"`
	}
	plannedName string
)

// lower reads itself, but does not write itself.
type lower struct{ S string }

func (l *lower) UnmarshalText(b []byte) error { l.S = strings.ToLower(string(b)); return nil }

var plannedType = events.Define[planned]("test.planned", events.Topic("test"))

// The same for the type's own fields, value by value.
func TestPlainFieldsAreReadAsTheLibraryReadsThem(t *testing.T) {
	const head = `{"event_id":"i","event_type":"test.planned","timestamp":"2025-01-07T12:34:56Z","trace_id":null,"user_id":"u","metadata":{},`
	values := []string{
		`null`, `true`, `false`, `truer`, `"s"`, `"SHOUT"`, `65535`, `65536`, `""`, `"é"`, `"\u00e9"`, `"a\"b"`, "\"\xff\"", "\"\t\"", `"`, `{}`, `{ }`, `[]`, `[ ]`, `[1]`, `[1,]`, `[,1]`,
		`0`, `-0`, `00`, `01`, `-1`, `-`, `+1`, `7`, `2147483647`, `2147483648`, `-2147483648`, `-2147483649`, `9223372036854775807`, `9223372036854775808`,
		`123456789012345`, `1234567890123456`, `12345678901234567890`, `1.5`, `-0.25`, `-0.0`, `1.`, `.5`, `1e3`, `1E400`, `1.5e3`, `0.1`, `3.141592653589793238462643`, `NaN`,
		`"2025-01-07T12:34:56"`, `"2025-01-07T12:34:56+01:00"`, `"2025-02-30T12:34:56Z"`, `"today"`,
		`["a","b"]`, `["a", "b"]`, `["a" ,"b"]`, `["a",null]`, `["a",1]`, `["a"`, `[[1,2.5],[],null,[-3]]`, `[[1,2],["a"]]`, `[null]`,
		`{"a":"x","b":1}`, `{"b":1,"a":"x"}`, `{"b": 1, "a": "x"}`, `{"a":"x","a":"y"}`, `{"a":"x","more":[1,{"b":2}]}`, `{"A":"x"}`, `{"a":"x",}`, `{"a"}`, `{"a":}`, `{`,
		`[{"a":"x"},{"b":2},{}]`, `[{"a":"x"},{"c":2}]`, `[{"a":"x"},null]`,
	}
	fields := []string{"text", "named", "flag", "float", "int", "small", "at", "texts", "vectors", "inner", "inners", "ptr", "uint", "map", "any", "lower", "month", "Untag", "Skipped", "own", "-", "", "Text"}
	for _, field := range fields {
		for _, value := range values {
			for _, end := range []string{"}", `,"text":"again"}`, `, "flag": true}`, "", "]", " }"} {
				body := head + `"` + field + `":` + value + end
				got, err := plannedType.Decode(nil, []byte(body))
				want, werr := plannedType.Decode(nil, []byte(" "+body))
				if atByte.ReplaceAllString(fmt.Sprint(err), "") != atByte.ReplaceAllString(fmt.Sprint(werr), "") || !reflect.DeepEqual(got, want) {
					t.Errorf("%s:\n read %#v, %v\n want %#v, %v", body, got, err, want, werr)
				}
			}
		}
	}
}
