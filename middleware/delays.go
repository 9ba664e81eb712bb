package middleware

import (
	"errors"
	"slices"
	"strings"
	"time"
)

// Delays is the ladder of delayed retries: how long a message waits before its
// second, third, ... round of tries, rising. Empty and not nil (NoDelays) is no
// delayed retries; nil is the default of where it stands.
type Delays []time.Duration

// Bounds of a ladder.
const (
	maxDelays = 10
	minDelay  = time.Millisecond
	maxDelay  = 24 * time.Hour // well below the retention of a retry topic
)

// DelaysWanted says what Delays.Check and UnmarshalText take.
const DelaysWanted = "none, or up to 10 rising durations of whole milliseconds from 1ms to 24h, such as 5s,1m,10m"

var errDelays = errors.New("want " + DelaysWanted)

// DefaultDelays returns 5 s, 1 min and 10 min.
func DefaultDelays() Delays { return Delays{5 * time.Second, time.Minute, 10 * time.Minute} }

// NoDelays returns the ladder without a rung: no delayed retries.
func NoDelays() Delays { return Delays{} }

// Check returns an error that says what is wanted, unless the ladder is good.
func (d Delays) Check() error {
	for i, step := range d {
		if i == maxDelays || step < minDelay || step > maxDelay || step%time.Millisecond != 0 || i > 0 && step <= d[i-1] {
			return errDelays
		}
	}
	return nil
}

// UnmarshalText reads "none" or durations separated by commas.
func (d *Delays) UnmarshalText(text []byte) error {
	out := NoDelays()
	if s := strings.TrimSpace(string(text)); s != "none" {
		for part := range strings.SplitSeq(s, ",") {
			step, err := time.ParseDuration(strings.TrimSpace(part))
			if err != nil {
				return errDelays
			}
			out = append(out, step)
		}
	}
	if err := out.Check(); err != nil {
		return err
	}
	*d = out
	return nil
}

// String returns what UnmarshalText reads.
func (d Delays) String() string {
	if len(d) == 0 {
		return "none"
	}
	all := make([]string, len(d))
	for i, step := range d {
		all[i] = DelayName(step)
	}
	return strings.Join(all, ",")
}

// AtLeast returns the shortest delay of the ladder that is no shorter than wait,
// the longest when all are shorter. The ladder must have one.
func (d Delays) AtLeast(wait time.Duration) time.Duration {
	i, _ := slices.BinarySearch(d, wait)
	return d[min(i, len(d)-1)]
}

// DelayName returns d as topics and metrics name it: "5s", "1m", "1h30m".
func DelayName(d time.Duration) string {
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}
