package events

import (
	"errors"
	"time"
)

// TimeLayout is how every time in an event is written: RFC 3339 in UTC with six
// decimals, the precision of Python's datetime.
const TimeLayout = "2006-01-02T15:04:05.000000Z"

// Layouts without a zone, which Python's datetime.isoformat writes for naive
// times. Go accepts a fraction after the seconds of any layout when parsing.
var nakedLayouts = [...]string{
	"2006-01-02T15:04:05",
	"2006-01-02 15:04:05",
	"2006-01-02T15:04",
}

// Layouts with a zone that RFC 3339 does not allow but Python and SQL write.
var zonedLayouts = [...]string{
	"2006-01-02 15:04:05Z07:00",
	"2006-01-02T15:04:05Z0700",
	"2006-01-02T15:04Z07:00",
}

// The value is left out: it is the event's data, and errors are logged.
var errTime = errors.New("want a time such as 2025-01-07T12:34:56.123456Z")

// ParseTime reads a time as events carry it: RFC 3339, or the same without a
// zone, which means UTC. The result is in UTC.
func ParseTime(s string) (time.Time, error) {
	if len(s) > 64 {
		return time.Time{}, errTime
	}
	if t, err := time.Parse(time.RFC3339Nano, s); err == nil {
		return t.UTC(), nil
	}
	for _, layout := range nakedLayouts {
		if t, err := time.Parse(layout, s); err == nil {
			return t, nil
		}
	}
	for _, layout := range zonedLayouts {
		if t, err := time.Parse(layout, s); err == nil {
			return t.UTC(), nil
		}
	}
	return time.Time{}, errTime
}

// FormatTime writes t as events carry it.
func FormatTime(t time.Time) string { return t.UTC().Format(TimeLayout) }

func appendTime(b []byte, t time.Time) []byte { return t.UTC().AppendFormat(b, TimeLayout) }
