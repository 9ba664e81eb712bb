package aura360_test

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"runtime"
	"testing"
	"time"

	"github.com/aura360/eventbus/events"
)

func seeds(f *testing.F) [][]byte {
	var out [][]byte
	for _, pattern := range []string{"testdata/*.json", "testdata/python/*.json"} {
		names, err := filepath.Glob(pattern)
		if err != nil || len(names) == 0 {
			f.Fatal(pattern, err)
		}
		for _, n := range names {
			b, err := os.ReadFile(n)
			if err != nil {
				f.Fatal(err)
			}
			out = append(out, b)
		}
	}
	return out
}

func fuzzDefinition(i uint8) *events.Definition {
	all := events.Definitions()
	return all[int(i)%len(all)]
}

func isEventsError(err error) bool {
	var e *events.Error
	return errors.As(err, &e)
}

// atByte is the part of an error that a space before the body changes.
var atByte = regexp.MustCompile(` at byte \d+`)

// FuzzDecode reads anything as anything: an event or an *events.Error comes out,
// and the memory it takes is in proportion to the body.
func FuzzDecode(f *testing.F) {
	for _, b := range seeds(f) {
		for i := range events.Definitions() {
			f.Add(uint8(i), "", b)
		}
	}
	f.Add(uint8(0), "2", []byte(`{"event_version":1}`))
	f.Fuzz(func(t *testing.T, i uint8, version string, body []byte) {
		d := fuzzDefinition(i)
		orig := bytes.Clone(body)
		header := map[string]string{"event_version": version}
		var before, after runtime.MemStats
		large := len(body) > 4096 // reading MemStats stops the world
		if large {
			runtime.ReadMemStats(&before)
		}
		e, err := d.Decode(header, body)
		if large {
			runtime.ReadMemStats(&after)
			if n := after.TotalAlloc - before.TotalAlloc; n > 1<<20+200*uint64(len(body)) {
				t.Errorf("%d bytes allocated for a body of %d", n, len(body))
			}
		}
		if err != nil && !isEventsError(err) {
			t.Errorf("%T: %v", err, err)
		}
		// The short cut for plain bodies does not take one that begins with a space.
		long, lerr := d.Decode(header, append([]byte(" "), body...))
		if atByte.ReplaceAllString(fmt.Sprint(err), "") != atByte.ReplaceAllString(fmt.Sprint(lerr), "") || !reflect.DeepEqual(e, long) {
			t.Errorf("read %+v, %v; the whole body by the library %+v, %v", e, err, long, lerr)
		}
		if (err == nil) != (e != nil) {
			t.Errorf("event %v with error %v", e, err)
		}
		if err != nil && len(err.Error()) > 2000 {
			t.Errorf("an error of %d bytes", len(err.Error()))
		}
		if !bytes.Equal(body, orig) {
			t.Error("the body was changed")
		}
	})
}

// FuzzRoundTrip publishes whatever was read, and reads it again.
func FuzzRoundTrip(f *testing.F) {
	for _, b := range seeds(f) {
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		typ, err := events.TypeOf(nil, body)
		if err != nil {
			return
		}
		d, ok := events.Lookup(typ)
		if !ok {
			return
		}
		e, err := d.Decode(nil, body)
		if err != nil {
			return
		}
		enc, err := events.Encode(e, events.Base{})
		if err != nil {
			// Publishing asks for more than reading: texts that are not empty,
			// guardians that exist, ids without control characters.
			if events.ReasonOf(err) != events.ReasonInvalid {
				t.Errorf("%s: %v", body, err)
			}
			return
		}
		again, err := d.Decode(enc.Header("/x"), enc.Body)
		if err != nil {
			t.Fatalf("%s: %v", enc.Body, err)
		}
		got, want := events.BaseOf(again), events.BaseOf(e)
		want.Timestamp = want.Timestamp.Truncate(time.Microsecond)
		if want.UserID == "" {
			want.UserID = got.UserID // a default
		}
		if len(want.Metadata) == 0 {
			want.Metadata = got.Metadata // null is written as {}
		}
		if !reflect.DeepEqual(got, want) {
			t.Errorf("%s:\n got %+v\nwant %+v", body, got, want)
		}
		enc2, err := events.Encode(again, events.Base{})
		if err != nil || !bytes.Equal(enc2.Body, enc.Body) || enc2.Key != enc.Key {
			t.Fatalf("%v\n got %s\nwant %s", err, enc2.Body, enc.Body)
		}
		third, err := d.Decode(nil, enc2.Body)
		if err != nil || !reflect.DeepEqual(third, again) {
			t.Errorf("%v\n got %+v\nwant %+v", err, third, again)
		}
	})
}

// FuzzTypeOf finds the type that the body's decoder finds.
func FuzzTypeOf(f *testing.F) {
	for _, b := range seeds(f) {
		f.Add("", "", b)
	}
	f.Add("a", "b", []byte(`{}`))
	f.Add("", "", []byte(`{"event_t\u0079pe":"x"}`))
	f.Fuzz(func(t *testing.T, event, ce string, body []byte) {
		typ, err := events.TypeOf(map[string]string{"event_type": event, "ce_type": ce}, body)
		switch {
		case err != nil && (!isEventsError(err) || typ != ""):
			t.Errorf("%q, %T: %v", typ, err, err)
		case err == nil && typ == "":
			t.Error("no type, no error")
		case event != "" && typ != event, event == "" && ce != "" && typ != ce:
			t.Errorf("%q: want the header's", typ)
		}
		if event != "" || ce != "" {
			return
		}
		for _, d := range events.Definitions() {
			if e, err := d.Decode(nil, body); err == nil && events.BaseOf(e).Type != typ {
				t.Errorf("%q, but it is read as %q", typ, d.Type)
			}
		}
	})
}
