package events_test

import (
	"strings"
	"testing"
	"time"

	"github.com/aura360/eventbus/events"
)

func TestParseTime(t *testing.T) {
	for s, want := range map[string]string{
		"2025-01-07T12:34:56.123456":       "2025-01-07T12:34:56.123456Z", // as isoformat of a datetime writes it
		"2025-01-07T12:34:56":              "2025-01-07T12:34:56.000000Z",
		"2025-01-07 12:34:56.123456":       "2025-01-07T12:34:56.123456Z", // str(datetime)
		"2025-01-07 12:34:56":              "2025-01-07T12:34:56.000000Z",
		"2025-01-07T12:34":                 "2025-01-07T12:34:00.000000Z",
		"2025-01-07T12:34:56.123456+00:00": "2025-01-07T12:34:56.123456Z",
		"2025-01-07 12:34:56.123456+00:00": "2025-01-07T12:34:56.123456Z",
		"2025-01-07T12:34:56.123456-05:00": "2025-01-07T17:34:56.123456Z",
		"2025-01-07T12:34:56+0530":         "2025-01-07T07:04:56.000000Z", // strftime %z
		"2025-01-07T12:34Z":                "2025-01-07T12:34:00.000000Z",
		"2025-01-07T12:34:56Z":             "2025-01-07T12:34:56.000000Z",
		"2025-01-07T12:34:56.123456789Z":   "2025-01-07T12:34:56.123456Z",
		"2025-01-07T12:34:56,5":            "2025-01-07T12:34:56.500000Z", // ISO 8601 allows a comma
		"2024-02-29T00:00:00":              "2024-02-29T00:00:00.000000Z",
		"9999-12-31T23:59:59.999999":       "9999-12-31T23:59:59.999999Z",
		"0001-01-01T00:00:00.000001":       "0001-01-01T00:00:00.000001Z",
	} {
		got, err := events.ParseTime(s)
		if err != nil || events.FormatTime(got) != want || got.Location() != time.UTC {
			t.Errorf("%s: %v, %v; want %s", s, got, err, want)
		}
		if std := got.Format(events.TimeLayout); events.FormatTime(got) != std {
			t.Errorf("%s: written %s, package time writes %s", s, events.FormatTime(got), std)
		}
	}
	for _, s := range []string{
		"", "now", "2025-01-07", "12:34:56", "2025-13-07T12:34:56", "2025-02-29T12:34:56", "2025-01-07T25:00:00", "2025-01-07T12:34:60",
		"2025-01-07T12:34:56.", "2025-01-07T12:34:56ZZ", " 2025-01-07T12:34:56", "1736253296", "0000-01-01T00:00:00", "9999-12-31T23:59:59-01:00",
		"0001-01-01T00:00:00+01:00", "20250107T123456", "2025-01-07T12:34:56." + strings.Repeat("1", 60),
	} {
		if got, err := events.ParseTime(s); err == nil {
			t.Errorf("%q: %v: want an error", s, got)
		} else if len(s) > 20 && strings.Contains(err.Error(), s) {
			t.Errorf("%q: the error quotes it: %v", s, err)
		}
	}
}

func FuzzParseTime(f *testing.F) {
	for _, s := range []string{"2025-01-07T12:34:56.123456", "2025-01-07 12:34:56+00:00", "2025-01-07T12:34Z", "0001-01-01T00:00:00Z", "9999-12-31T23:59:59.9999999-23:59"} {
		f.Add(s)
	}
	for _, s := range []string{"2025-02-29T12:34:56Z", "2024-02-29T12:34:56.1", "2025-01-07T12:34:60", "2025-00-07T24:34:56.123456789Z", "2025-01-00T12:34:56."} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if plain, ok := events.ParsePlainTime(s); ok {
			if want, err := events.ParseTimeByLib(s); err != nil || plain != want {
				t.Errorf("%q: the short cut reads %v, package time %v, %v", s, plain, want, err)
			}
		}
		got, err := events.ParseTime(s)
		if err != nil {
			if !got.IsZero() {
				t.Errorf("%q: %v with %v", s, got, err)
			}
			return
		}
		text := events.FormatTime(got)
		if text != got.Format(events.TimeLayout) || len(text) != len(events.TimeLayout) {
			t.Errorf("%q: written %q, package time writes %q", s, text, got.Format(events.TimeLayout))
		}
		again, err := events.ParseTime(text)
		if err != nil || !again.Equal(got.Truncate(time.Microsecond)) {
			t.Errorf("%q: written %q, read as %v, %v", s, text, again, err)
		}
	})
}
