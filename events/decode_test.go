package events_test

import (
	"errors"
	"fmt"
	"reflect"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/aura360/eventbus/events"
)

const simpleBody = `{"event_id":"1","event_type":"simple","timestamp":"2025-01-07T12:34:56.123456"%s}`

func TestDecodeIsLiberal(t *testing.T) {
	want := events.Base{ID: "1", Type: "simple", Version: 1, Timestamp: at}
	for _, body := range []string{
		fmt.Sprintf(simpleBody, ""),
		fmt.Sprintf(simpleBody, `,"trace_id":null,"user_id":null,"metadata":null,"event_version":null`),
		fmt.Sprintf(simpleBody, `,"event_version":1,"unknown":{"a":[1,2,{}]}`),
		fmt.Sprintf(simpleBody, `,"event_version":0`),
		" \n" + strings.ReplaceAll(fmt.Sprintf(simpleBody, ""), ",", " ,\t") + "\n",
		`{"\u0065vent_type":"\u0073imple","event_id":"\u0031","timestamp":"2025-01-07 12:34:56\u002e123456"}`,
	} {
		got, err := events.Decode[simple](nil, []byte(body))
		if err != nil || !reflect.DeepEqual(got.Base, want) {
			t.Errorf("%s: %+v, %v", body, got, err)
		}
		if typ, err := events.TypeOf(nil, []byte(body)); err != nil || typ != "simple" {
			t.Errorf("%s: type %q, %v", body, typ, err)
		}
	}
	p, err := events.Decode[*simple](nil, []byte(fmt.Sprintf(simpleBody, "")))
	if err != nil || !reflect.DeepEqual(p.Base, want) {
		t.Errorf("into a pointer: %+v, %v", p, err)
	}
	d, _ := events.Lookup("simple")
	e, err := d.Decode(nil, []byte(fmt.Sprintf(simpleBody, "")))
	if err != nil || !reflect.DeepEqual(e, simple{want}) {
		t.Errorf("by definition: %#v, %v", e, err)
	}
	_, err = events.Decode[undefined](nil, []byte(`{}`))
	wantError(t, err, events.ReasonUnknownType, "")
	if _, err = d.Decode(nil, nil); err == nil {
		t.Error("an empty body was read")
	}
}

func TestDecodeSaysWhichFieldIsWrong(t *testing.T) {
	full := string(encode(t, order()).Body)
	change := func(old, to string) string {
		t.Helper()
		if !strings.Contains(full, old) {
			t.Fatalf("%s is not in %s", old, full)
		}
		return strings.Replace(full, old, to, 1)
	}
	for _, c := range []struct {
		name, body string
		reason     events.Reason
		field      string
	}{
		{"empty", "", events.ReasonUndecodable, ""},
		{"white space", " ", events.ReasonUndecodable, ""},
		{"array", "[]", events.ReasonUndecodable, ""},
		{"string", `"x"`, events.ReasonUndecodable, ""},
		{"null", `null`, events.ReasonInvalid, "event_id"},
		{"two values", full + "{}", events.ReasonUndecodable, ""},
		{"not JSON", "\x00\x01", events.ReasonUndecodable, ""},
		{"NaN", change(`"total":0`, `"total":NaN`), events.ReasonUndecodable, "total"},
		{"no id", change(`"event_id":"o-1",`, ``), events.ReasonInvalid, "event_id"},
		{"empty id", change(`"o-1"`, `""`), events.ReasonInvalid, "event_id"},
		{"long id", change(`"o-1"`, `"`+strings.Repeat("x", 201)+`"`), events.ReasonInvalid, "event_id"},
		{"number as id", change(`"o-1"`, `1`), events.ReasonUndecodable, "event_id"},
		{"no type", change(`"event_type":"order.placed",`, ``), events.ReasonInvalid, "event_type"},
		{"another type", change(`"order.placed"`, `"simple"`), events.ReasonInvalid, "event_type"},
		{"no time", change(`"timestamp":"2025-01-07T12:34:56.123456Z",`, ``), events.ReasonInvalid, "timestamp"},
		{"null time", change(`"timestamp":"2025-01-07T12:34:56.123456Z",`, `"timestamp":null,`), events.ReasonInvalid, "timestamp"},
		{"number as time", change(`"timestamp":"2025-01-07T12:34:56.123456Z"`, `"timestamp":1736253296`), events.ReasonUndecodable, "timestamp"},
		{"object as time", change(`"timestamp":"2025-01-07T12:34:56.123456Z"`, `"timestamp":{}`), events.ReasonUndecodable, "timestamp"},
		{"no time at all", change(`"due":"2025-01-07T12:34:56.123456Z"`, `"due":"tomorrow"`), events.ReasonUndecodable, "due"},
		{"time with escapes", change(`"due":"2025-01-07T12:34:56.123456Z"`, `"due":"\u0000"`), events.ReasonUndecodable, "due"},
		{"negative version", change(`"event_id"`, `"event_version":-1,"event_id"`), events.ReasonUndecodable, "event_version"},
		{"half a version", change(`"event_id"`, `"event_version":1.5,"event_id"`), events.ReasonUndecodable, "event_version"},
		{"future version", change(`"event_id"`, `"event_version":2,"event_id"`), events.ReasonVersion, "event_version"},
		{"future version of another shape", change(`"item":{`, `"event_version":2,"item":[],"o":{`), events.ReasonVersion, "event_version"},
		{"item missing", change(`"item":{"sku":"s","count":0,"gift":false,"note":""},`, ``), events.ReasonInvalid, "item"},
		{"item null", change(`{"sku":"s","count":0,"gift":false,"note":""}`, `null`), events.ReasonInvalid, "item"},
		{"item empty", change(`{"sku":"s","count":0,"gift":false,"note":""}`, `{}`), events.ReasonInvalid, "item.sku"},
		{"item an array", change(`{"sku":"s","count":0,"gift":false,"note":""}`, `[]`), events.ReasonUndecodable, "item"},
		{"count missing", change(`"count":0,`, ``), events.ReasonInvalid, "item.count"},
		{"count null", change(`"count":0,`, `"count":null,`), events.ReasonInvalid, "item.count"},
		{"count a string", change(`"count":0,`, `"count":"0",`), events.ReasonUndecodable, "item.count"},
		{"count too large", change(`"count":0,`, `"count":1e400,`), events.ReasonUndecodable, "item.count"},
		{"gift missing", change(`"gift":false,`, ``), events.ReasonInvalid, "item.gift"},
		{"due null", change(`"due":"2025-01-07T12:34:56.123456Z"`, `"due":null`), events.ReasonInvalid, "due"},
		{"tags null", change(`"tags":[""]`, `"tags":null`), events.ReasonInvalid, "tags"},
		{"tag a number", change(`"tags":[""]`, `"tags":["",1]`), events.ReasonUndecodable, "tags.1"},
		{"attrs missing", change(`"attrs":{"a":null},`, ``), events.ReasonInvalid, "attrs"},
		{"any null", change(`"any":false`, `"any":null`), events.ReasonInvalid, "any"},
		{"total too large", change(`"total":0`, `"total":1e999`), events.ReasonUndecodable, "total"},
		{"memo missing", change(`,"memo":""`, ``), events.ReasonInvalid, "memo"},
		{"twice", change(`"any":false`, `"any":false,"any":true`), events.ReasonUndecodable, "any"},
		{"twice below", change(`"count":0`, `"count":0,"count":1`), events.ReasonUndecodable, "item.count"},
		{"twice where nobody looks", change(`"any":false`, `"any":false,"new":{"a":1,"a":2}`), events.ReasonUndecodable, "new.a"},
		{"invalid UTF-8", change(`"memo":""`, "\"memo\":\"a\xff\""), events.ReasonUndecodable, "memo"},
		{"half a surrogate", change(`"memo":""`, `"memo":"\ud83d"`), events.ReasonUndecodable, "memo"},
		{"deep", change(`"memo":""`, `"memo":"","deep":`+strings.Repeat("[", 10000)+strings.Repeat("]", 10000)), events.ReasonUndecodable, "deep.0.0.0.0.0...."},
		{"deep in a free field", change(`"any":false`, `"any":`+strings.Repeat(`{"":`, 20000)), events.ReasonUndecodable, "any......"},
	} {
		_, err := events.Decode[orderPlaced](nil, []byte(c.body))
		if c.name == "deep" || c.name == "deep in a free field" {
			if !strings.Contains(fmt.Sprint(err), "nested too deeply") || len(err.Error()) > 300 {
				t.Errorf("%s: %v", c.name, err)
			}
			continue
		}
		t.Run(c.name, func(t *testing.T) { wantError(t, err, c.reason, c.field) })
	}
	for i := range full {
		if _, err := events.Decode[orderPlaced](nil, []byte(full[:i])); events.ReasonOf(err) != events.ReasonUndecodable {
			t.Fatalf("cut to %d bytes: %v", i, err)
		}
	}
}

func TestDecodeTurnsPanicsIntoErrors(t *testing.T) {
	_, err := events.Decode[stubborn](nil, []byte(`{}`))
	wantError(t, err, events.ReasonUndecodable, "")
	_, err = events.Decode[grown](nil, []byte(`{"event_id":"panic"}`))
	wantError(t, err, events.ReasonUndecodable, "")
	if strings.Contains(err.Error(), "secret") {
		t.Error(err)
	}
}

func TestOldVersionsAreUpcast(t *testing.T) {
	body := func(own string) []byte {
		return []byte(`{"event_id":"1","event_type":"grown","timestamp":"2025-01-07T12:34:56",` + own + `}`)
	}
	for _, c := range []struct {
		own    string
		header string
	}{
		{`"name":"x"`, ""},
		{`"name":"x","event_version":1`, ""},
		{`"name":"x","event_version":null`, ""},
		{`"name":"x","event_version":1`, "3"}, // the body wins
		{`"name":"x"`, "1"},
		{`"title":"x","event_version":2`, ""},
		{`"title":"x"`, "2"},
		{`"full_name":"x","event_version":3`, ""},
		{`"full_name":"x"`, "3"},
	} {
		h := map[string]string{}
		if c.header != "" {
			h["event_version"] = c.header
		}
		got, err := events.Decode[grown](h, body(c.own))
		if err != nil || got.FullName != "x" || got.Version != 3 {
			t.Errorf("%s, header %q: %+v, %v", c.own, c.header, got, err)
		}
	}
	for own, header := range map[string]string{`"event_version":4`: "", `"a":1`: "4", `"event_version":9,"full_name":[]`: ""} {
		_, err := events.Decode[grown](map[string]string{"event_version": header}, body(own))
		wantError(t, err, events.ReasonVersion, "event_version")
	}
	for _, v := range []string{`"1"`, `1.5`, `-1`, `{}`, `1e9`, `99999999999999999999`} {
		_, err := events.Decode[grown](nil, body(`"event_version":`+v))
		wantError(t, err, events.ReasonUndecodable, "event_version")
	}
	for _, v := range []string{"x", "0", "-1", "1.0", " 1", "99999999999"} {
		_, err := events.Decode[grown](map[string]string{"event_version": v}, body(`"name":"x"`))
		wantError(t, err, events.ReasonUndecodable, "event_version (header)")
		_, err = events.Decode[simple](map[string]string{"event_version": v}, []byte(fmt.Sprintf(simpleBody, "")))
		wantError(t, err, events.ReasonUndecodable, "event_version (header)")
	}
	_, err := events.Decode[grown](nil, []byte(`[]`))
	wantError(t, err, events.ReasonUndecodable, "")
	_, err = events.Decode[grown](nil, []byte(`{"a":`))
	wantError(t, err, events.ReasonUndecodable, "a")
	if got := string(encode(t, grown{FullName: "x"}).Body); !strings.Contains(got, `"event_type":"grown","event_version":3,`) {
		t.Errorf("version is not written: %s", got)
	}
}

func TestTypeOf(t *testing.T) {
	h := func(kv ...string) map[string]string {
		m := map[string]string{}
		for i := 0; i < len(kv); i += 2 {
			m[kv[i]] = kv[i+1]
		}
		return m
	}
	for _, c := range []struct {
		header map[string]string
		body   string
		want   string
	}{
		{h("event_type", "a", "ce_type", "b"), `{"event_type":"c"}`, "a"},
		{h("ce_type", "b"), `{"event_type":"c"}`, "b"},
		{h("event_type", ""), `{"x":[{"event_type":"no"}],"event_type":"c"}`, "c"},
		{nil, `{"event_type":"c", what stands behind is not looked at`, "c"},
		{nil, `{"event_typ\u0065":"\u0063"}`, "c"},
	} {
		if got, err := events.TypeOf(c.header, []byte(c.body)); err != nil || got != c.want {
			t.Errorf("%v %s: %q, %v", c.header, c.body, got, err)
		}
	}
	for body, reason := range map[string]events.Reason{
		``: events.ReasonUndecodable, `[]`: events.ReasonUndecodable, `{`: events.ReasonUndecodable, `{"a":1`: events.ReasonUndecodable,
		`{"event_type":`: events.ReasonUndecodable, `{"event_type" 1}`: events.ReasonUndecodable, `{1}`: events.ReasonUndecodable, `{"a":x}`: events.ReasonUndecodable,
		`{}`: events.ReasonInvalid, `{"event_type":null}`: events.ReasonInvalid, `{"event_type":""}`: events.ReasonInvalid, `{"event_type":{}}`: events.ReasonInvalid,
		`{"event_type":"` + strings.Repeat("x", 201) + `"}`: events.ReasonInvalid,
	} {
		if _, err := events.TypeOf(nil, []byte(body)); events.ReasonOf(err) != reason {
			t.Errorf("%.40s: %v, want reason %s", body, err, reason)
		}
	}
}

func TestNumbersSurvive(t *testing.T) {
	for _, n := range []string{
		"0", "-0", "1", "1.5", "-12", "0.1", "1e+21", "1e-7", "123456789012345", "9007199254740992", "9007199254740993",
		"-1234567890123456789", "18446744073709551616", "12345678901234567890123", "0.12345678901234566", "0.123456789012345678901", "1e400", "1e-400",
		"3.141592653589793", "100000000000000000000",
	} {
		body := []byte(fmt.Sprintf(simpleBody, `,"metadata":{"n":`+n+`,"in":[{"n":`+n+`}]}`))
		e, err := events.Decode[simple](nil, body)
		if err != nil {
			t.Errorf("%s: %v", n, err)
			continue
		}
		if got := string(encode(t, e).Body); !strings.Contains(got, `"in":[{"n":`+n+`}],"n":`+n+`}`) {
			t.Errorf("%s: written again as %s", n, got)
		}
	}
	for _, n := range []string{"0.0", "7.0", "1E2", "0e5", "0.10000000000000000", "1000000000000000000000000"} { // the same number in fewer signs
		e, err := events.Decode[simple](nil, []byte(fmt.Sprintf(simpleBody, `,"metadata":{"n":`+n+`}`)))
		if _, ok := e.Metadata["n"].(float64); err != nil || !ok {
			t.Errorf("%s: %T, %v", n, e.Metadata["n"], err)
		}
	}
}

func TestFreeValuesAreReadAsUsual(t *testing.T) {
	body := fmt.Sprintf(simpleBody, `,"metadata":{"o":{},"a":[],"s":"x","t":true,"f":false,"z":null,"n":1,"d":[[{"k":["v"]}]]}`)
	got, err := events.Decode[simple](nil, []byte(body))
	want := map[string]any{
		"o": map[string]any{}, "a": []any{}, "s": "x", "t": true, "f": false, "z": nil, "n": 1.0,
		"d": []any{[]any{map[string]any{"k": []any{"v"}}}},
	}
	if err != nil || !reflect.DeepEqual(got.Metadata, want) {
		t.Errorf("%#v, %v", got.Metadata, err)
	}
	for _, bad := range []string{`{`, `{"a"`, `{"a":`, `{"a":1`, `[`, `[1`, `[1,`, `"`, `tru`, `{"a":{]}`, `{"a":1,"a":2}`, `[1 2]`, `01`, `{"a":"\ud800"}`} {
		if _, err := events.Decode[simple](nil, []byte(fmt.Sprintf(simpleBody, `,"metadata":{"m":`+bad))); events.ReasonOf(err) != events.ReasonUndecodable {
			t.Errorf("%s: %v", bad, err)
		}
	}
}

func TestZeroTimeIsNull(t *testing.T) {
	body := encode(t, generic[time.Time]{}).Body
	if !strings.HasSuffix(string(body), `"v":null}`) {
		t.Errorf("body %s", body)
	}
	got, err := events.Decode[generic[time.Time]](nil, body)
	if err != nil || !got.V.IsZero() {
		t.Errorf("%v, %v", got, err)
	}
}

var _ = events.Define[generic[time.Time]]("generic.time", events.Topic("t"))

func TestHugeBodiesAreBoundedInMemory(t *testing.T) {
	const size = 20 << 20
	filler := strings.Repeat("x", size)
	body := []byte(fmt.Sprintf(simpleBody, `,"unknown":"`+filler+`"`))
	nested := []byte(fmt.Sprintf(simpleBody, `,"unknown":[`+strings.Repeat("[],", size/3)+`[]]`))
	newest := []byte(fmt.Sprintf(simpleBody, `,"unknown":"`+filler+`","event_version":3`))
	late := []byte(`{"unknown":"` + filler + `","event_type":"simple"}`)
	allocated := func(f func()) uint64 {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		f()
		runtime.ReadMemStats(&after)
		return after.TotalAlloc - before.TotalAlloc
	}
	for name, f := range map[string]func(){
		"decode":           func() { _, _ = events.Decode[simple](nil, body) },
		"decode, brackets": func() { _, _ = events.Decode[simple](nil, nested) },
		"type":             func() { _, _ = events.TypeOf(nil, late) },
		"version":          func() { _, _ = events.Decode[grown](nil, newest) },
		"cut":              func() { _, _ = events.Decode[simple](nil, body[:len(body)-10]) },
	} {
		if n := allocated(f); n > 1<<20 {
			t.Errorf("%s: %d bytes allocated for a body of %d", name, n, len(body))
		}
	}
}

// secret stands in every value; no error may repeat it.
const secret = "S3CR3T"

func TestErrorsQuoteNoData(t *testing.T) {
	check := func(what string, err error) {
		t.Helper()
		for e := err; e != nil; e = errors.Unwrap(e) {
			if strings.Contains(e.Error(), secret) || strings.Contains(e.Error(), "777666555") {
				t.Errorf("%s: %v", what, e)
			}
		}
	}
	full := `{"event_id":"S3CR3T","event_type":"order.placed","timestamp":"2025-01-07T12:34:56Z","trace_id":"S3CR3T","user_id":"S3CR3T","metadata":{"a":"S3CR3T"},` +
		`"item":{"sku":"S3CR3T","count":777666555,"gift":true,"note":"S3CR3T","x":"S3CR3T"},"due":"2025-01-07","tags":["S3CR3T"],"attrs":{"a":"S3CR3T"},"total":777666555,"any":"S3CR3T","memo":"S3CR3T"}`
	full = strings.Replace(full, `"2025-01-07"`, `"2025-01-07T00:00:00"`, 1)
	if _, err := events.Decode[orderPlaced](nil, []byte(full)); err != nil {
		t.Fatal(err)
	}
	values := []string{`"S3CR3T"`, `777666555`, `777666555.5`, `777666555e999`, `{"a":"S3CR3T"}`, `["S3CR3T"]`, `"S3CR3T` + "\xff" + `"`, `"S3CR3T\ud800"`, `"S3CR3T\q"`, `S3CR3T`, `{"S":"S3CR3T","S":"S3CR3T"}`, `{"S":S3CR3T}`, `true S3CR3T`}
	for _, old := range []string{`"S3CR3T"`, `"order.placed"`, `"2025-01-07T12:34:56Z"`, `{"a":"S3CR3T"}`, `777666555`, `true`, `"2025-01-07T00:00:00"`, `["S3CR3T"]`} {
		for at := 0; ; {
			i := strings.Index(full[at:], old)
			if i < 0 {
				break
			}
			for _, v := range values {
				body := []byte(full[:at+i] + v + full[at+i+len(old):])
				_, err := events.Decode[orderPlaced](nil, body)
				check(string(body), err)
				_, err = events.TypeOf(nil, body)
				check(string(body), err)
			}
			at += i + len(old)
		}
	}
	for _, b := range []events.Base{
		{Type: secret},
		{ID: secret + "\n"},
		{ID: strings.Repeat(secret, 40)},
		{ID: secret + "\xff"},
		{UserID: secret + "\xff"},
		{TraceID: secret + "\xff"},
		{Metadata: map[string]any{"m": secret + "\xff"}},
		{Metadata: map[string]any{"m": errors.New(secret)}},
	} {
		e := order()
		e.Base = b
		_, err := events.Encode(e, events.Base{})
		check(fmt.Sprint(b), err)
	}
	for _, free := range []any{secret + "\xff", events.Raw(secret), events.Raw(`{"a":"` + secret), map[string]any{"x": events.Raw(secret)}, badText{}} {
		e := order()
		e.Free = free
		_, err := events.Encode(e, events.Base{})
		check(fmt.Sprint(free), err)
		if err == nil {
			t.Errorf("%v was written", free)
		}
	}
	_, err := events.Decode[simple](map[string]string{"event_version": secret}, []byte(full))
	check("header", err)
	for _, up := range []string{"std-syntax", "std-type", "exp", "plain"} {
		_, err := events.Decode[leaky](nil, []byte(`{"event_id":"`+up+`","event_type":"leaky","timestamp":"2025-01-07T12:34:56Z","n":"`+secret+`","m":777666555}`))
		wantError(t, err, events.ReasonUndecodable, map[string]string{"std-type": "m", "exp": "n"}[up])
		check(up, err)
	}
}

type badText struct{}

func (badText) MarshalText() ([]byte, error) { return nil, errors.New(secret) }
