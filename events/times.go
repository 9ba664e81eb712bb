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
// zone, which means UTC. The result is in UTC, in the years 1 to 9999.
func ParseTime(s string) (time.Time, error) {
	if t, ok := parsePlainTime(s); ok {
		return t, nil
	}
	t, err := parseTime(s)
	if err != nil {
		return time.Time{}, err
	}
	if y := t.Year(); y < 1 || y > 9999 { // a zone can carry it over the edge
		return time.Time{}, errTime
	}
	return t, nil
}

// parsePlainTime reads what nearly every time looks like, with or without its Z,
// at a fraction of package time's price: 2025-01-07T12:34:56.123456Z. What it does
// not know, or what is no time, it leaves to parseTime.
func parsePlainTime[T ~string | ~[]byte](s T) (t time.Time, ok bool) {
	if n := len(s); n > 0 && s[n-1] == 'Z' {
		s = s[:n-1]
	}
	if len(s) < 19 || len(s) > 29 || s[4] != '-' || s[7] != '-' || s[10] != 'T' || s[13] != ':' || s[16] != ':' {
		return t, false
	}
	bad := false
	number := func(from, to int) (n int) {
		for _, c := range []byte(s[from:to]) {
			bad = bad || c < '0' || c > '9'
			n = 10*n + int(c-'0')
		}
		return n
	}
	year, month, day := number(0, 4), number(5, 7), number(8, 10)
	hour, minute, second := number(11, 13), number(14, 16), number(17, 19)
	nano := 0
	if len(s) > 19 {
		if len(s) == 20 || s[19] != '.' {
			return t, false
		}
		nano = number(20, len(s))
		for range 29 - len(s) {
			nano *= 10
		}
	}
	if bad || year < 1 || hour > 23 || minute > 59 || second > 59 {
		return t, false
	}
	t = time.Date(year, time.Month(month), day, hour, minute, second, nano, time.UTC)
	// A day that the month does not have comes out as another month's.
	_, m, d := t.Date()
	return t, int(m) == month && d == day
}

// maxTimeBytes is longer than any time that parses, and keeps nonsense cheap.
const maxTimeBytes = 64

func parseTime(s string) (time.Time, error) {
	if len(s) > maxTimeBytes {
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

// FormatTime writes t as events carry it. Digits behind microseconds are cut.
func FormatTime(t time.Time) string { return t.UTC().Format(TimeLayout) }

// appendTime is AppendFormat with TimeLayout at a quarter of its time; t's year
// must have four digits.
func appendTime(b []byte, t time.Time) []byte {
	t = t.UTC()
	year, month, day := t.Date()
	hour, minute, second := t.Clock()
	b = appendDigits(b, year, 4)
	b = appendDigits(append(b, '-'), int(month), 2)
	b = appendDigits(append(b, '-'), day, 2)
	b = appendDigits(append(b, 'T'), hour, 2)
	b = appendDigits(append(b, ':'), minute, 2)
	b = appendDigits(append(b, ':'), second, 2)
	b = appendDigits(append(b, '.'), t.Nanosecond()/1000, 6)
	return append(b, 'Z')
}

func appendDigits(b []byte, n, width int) []byte {
	b = append(b, "000000"[:width]...)
	for i := len(b) - 1; n > 0; i-- {
		b[i] = byte('0' + n%10)
		n /= 10
	}
	return b
}
