package events_test

import (
	"fmt"
	"reflect"
	"regexp"
	"strings"
	"testing"

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
