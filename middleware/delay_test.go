package middleware

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"pgregory.net/rapid"

	"github.com/aura360/eventbus/bus/driver"
	"github.com/aura360/eventbus/events"
)

func TestDelaysReadWhatTheyWrite(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		d, at := NoDelays(), time.Duration(0)
		for _, ms := range rapid.SliceOfN(rapid.Int64Range(1, int64(time.Hour/time.Millisecond)), 0, maxDelays).Draw(t, "steps") {
			at += time.Duration(ms) * time.Millisecond
			d = append(d, at)
		}
		var again Delays
		if err := again.UnmarshalText([]byte(d.String())); err != nil || fmt.Sprint(again) != fmt.Sprint(d) || again == nil {
			t.Fatalf("%v read as %v, %v", d, again, err)
		}
	})
}

func TestDelaysThatMakeNoSenseAreRefused(t *testing.T) {
	for _, text := range []string{
		"", "5", "5s,", "0s", "-5s", "5s,5s", "1m,5s", "1ns", "1500us", "25h", "none,5s", "five seconds", "1ms,2ms,3ms,4ms,5ms,6ms,7ms,8ms,9ms,10ms,11ms",
	} {
		d := Delays{time.Second}
		if err := d.UnmarshalText([]byte(text)); err == nil || !strings.Contains(err.Error(), DelaysWanted) {
			t.Errorf("%q: %v", text, err)
		}
		if d.String() != "1s" {
			t.Errorf("%q changed what was there to %v", text, d)
		}
	}
	if Delays(nil).Check() != nil || NoDelays().Check() != nil || DefaultDelays().Check() != nil {
		t.Error("a good ladder is refused")
	}
}

func TestDelaysAreNamedShortly(t *testing.T) {
	for d, want := range map[time.Duration]string{
		time.Millisecond: "1ms", 1500 * time.Millisecond: "1.5s", 5 * time.Second: "5s", time.Minute: "1m", 10 * time.Minute: "10m",
		90 * time.Second: "1m30s", time.Hour: "1h", 90 * time.Minute: "1h30m", time.Hour + time.Second: "1h0m1s", 24 * time.Hour: "24h",
	} {
		if got := DelayName(d); got != want {
			t.Errorf("%v is named %q, want %q", d, got, want)
		}
	}
}

func TestParkedMessageTellsWhatItWasTold(t *testing.T) {
	at := time.Date(2025, 1, 7, 12, 34, 56, 123456000, time.UTC)
	for name, p := range map[string]Parked{
		"due":    {Due: at, Step: 1, Attempts: 5, First: at, Group: "g", Handler: "h", Topic: "t", Error: "boom"},
		"longer": {Due: at, NotBefore: at.Add(time.Hour), Step: 2, Attempts: 10, First: at, Group: "g", Handler: "h", Topic: "t", Error: "boom"},
	} {
		msg := event(t.Context(), "1", "{}")
		before := maps.Clone(msg.Metadata)
		msg.Metadata[events.HeaderRetryNotBefore] = "left over"
		out := ParkedMessage(msg, p)
		got, err := ReadParked(out)
		if err != nil || got != p {
			t.Errorf("%s: got %+v, %v, want %+v", name, got, err, p)
		}
		StripParked(out)
		if !maps.Equal(out.Metadata, before) || out.UUID != msg.UUID {
			t.Errorf("%s: headers %v, want %v", name, out.Metadata, before)
		}
	}
}

// delaySink is a retry topic that remembers.
type delaySink struct {
	fail  error
	delay []time.Duration
	msgs  []*message.Message
}

func (s *delaySink) sink(_ context.Context, _ string, delay time.Duration, msg *message.Message) error {
	if s.fail != nil {
		return s.fail
	}
	s.delay, s.msgs = append(s.delay, delay), append(s.msgs, msg)
	return nil
}

func TestDelayDecidesByTheError(t *testing.T) {
	asked := func(d time.Duration) error { return fmt.Errorf("while: %w", RetryAfter(d, errBoom)) }
	for name, c := range map[string]struct {
		err     error
		sink    error
		step    int
		outcome Outcome
		delay   time.Duration
	}{
		"first":            {err: errBoom, outcome: OutcomeParked, delay: time.Second},
		"second":           {err: errBoom, step: 1, outcome: OutcomeParked, delay: time.Minute},
		"after the last":   {err: errBoom, step: 2, outcome: OutcomePoisoned},
		"a shorter ladder": {err: errBoom, step: 7, outcome: OutcomePoisoned},
		"permanent":        {err: Permanent(errBoom), outcome: OutcomePoisoned},
		"the event's":      {err: &events.Error{Reason: events.ReasonInvalid}, outcome: OutcomePoisoned},
		"unacked":          {err: Unacked(errBoom), outcome: OutcomeUnacked},
		"bus closing":      {err: driver.ErrClosed, outcome: OutcomeUnacked},
		"a short wait":     {err: asked(time.Millisecond), outcome: OutcomeParked, delay: time.Second},
		"a longer wait":    {err: asked(2 * time.Second), outcome: OutcomeParked, delay: time.Minute},
		"too long a wait":  {err: asked(time.Hour), outcome: OutcomeParked, delay: time.Minute},
		"no sink for now":  {err: errBoom, sink: errors.New("away"), outcome: OutcomeUnacked},
		"no sink for ever": {err: errBoom, sink: fmt.Errorf("too large: %w", driver.ErrPermanent), outcome: OutcomePoisoned},
	} {
		s, q := &delaySink{fail: c.sink}, &poisonQueue{}
		h := chain(handler(func(context.Context) error { return c.err }), Poison(q.sink, nil),
			Delay(DelayConfig{Delays: Delays{time.Second, time.Minute}, Sink: s.sink}))
		msg := event(t.Context(), "1", "{}")
		d := Begin(msg, "kafka", "group", "topic")
		if c.step > 0 {
			d.Resume(Parked{Step: c.step, Attempts: 5, First: time.Now(), Handler: "handler"})
		}
		_, err := h(msg)
		if d.Outcome != c.outcome || (err != nil) != (c.outcome == OutcomeUnacked) {
			t.Errorf("%s: outcome %q, error %v, want %q", name, d.Outcome, err, c.outcome)
		}
		if c.delay == 0 != (len(s.delay) == 0) || c.delay > 0 && s.delay[0] != c.delay {
			t.Errorf("%s: parked for %v, want %v", name, s.delay, c.delay)
		}
		if c.outcome == OutcomePoisoned && q.info[0].Attempts != d.Attempt {
			t.Errorf("%s: poisoned after %d tries, want %d", name, q.info[0].Attempts, d.Attempt)
		}
	}
}

// deferrer is a driver's context that notes how long a message is put off.
type deferrer struct {
	context.Context
	later time.Duration
}

func (d *deferrer) Value(key any) any {
	if driver.IsSettleKey(key) {
		return d
	}
	return d.Context.Value(key)
}

func (*deferrer) Settled(bool)                       {}
func (d *deferrer) SettledLater(later time.Duration) { d.later = later }

func TestOrderedDelayLeavesTheMessageWithItsDriver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := &poisonQueue{}
		m := NewMemoryMarks(MemoryMarksConfig{})
		h := chain(handler(func(context.Context) error { return errBoom }), Guard(nil), Deduplicate(m, nil), Poison(q.sink, nil),
			Delay(DelayConfig{Delays: Delays{time.Second, time.Minute}, Ordered: true}), Retry(RetryPolicy{MaxAttempts: 2, Initial: 1, Max: 1}, nil))
		for try, want := range []time.Duration{time.Second, time.Minute, 0} {
			ctx := &deferrer{Context: t.Context()}
			start := time.Now()
			msg := event(ctx, "1", "{}")
			d, err := deliver(h, msg)
			if ctx.later != want || d.Attempt != 2*(try+1) || (err == nil) != (want == 0) {
				t.Errorf("try %d: put off for %v after %d tries, error %v, want %v", try, ctx.later, d.Attempt, err, want)
			}
			if waited := time.Since(start).Round(time.Second); try > 0 && waited != []time.Duration{0, time.Second, time.Minute}[try] {
				t.Errorf("try %d: one that came early waited %v", try, waited)
			}
		}
		if len(q.info) != 1 || q.info[0].Attempts != 6 || q.info[0].Reason != events.ReasonExhausted {
			t.Errorf("poisoned %+v", q.info)
		}
		if n := m.Stats().Claims; n > 0 {
			t.Errorf("%d claims are left", n)
		}
	})
}

func TestOrderedDelayRemembersNoMoreThanItsBound(t *testing.T) {
	p := &delayer{rungs: map[MarkKey]rung{}}
	for i := range maxRungs + 100 {
		p.remember(MarkKey{byte(i), byte(i >> 8), byte(i >> 16)}, rung{})
	}
	if len(p.rungs) != maxRungs {
		t.Errorf("%d remembered, want %d", len(p.rungs), maxRungs)
	}
}

func TestWaitInPlaceEndsWhenTheConsumerStops(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		stopping := make(chan struct{})
		calls := 0
		h := chain(handler(func(context.Context) error { calls++; return errBoom }), Guard(nil), Poison((&poisonQueue{}).sink, nil),
			Delay(DelayConfig{Delays: Delays{time.Hour}, Ordered: true, Stopping: stopping}))
		if _, err := deliver(h, event(t.Context(), "1", "{}")); err == nil {
			t.Error("no error")
		}
		time.AfterFunc(time.Minute, func() { close(stopping) })
		start := time.Now()
		msg := event(t.Context(), "1", "{}")
		d, err := deliver(h, msg)
		if err == nil || d.Outcome != OutcomeUnacked || acked(msg) != "nacked" || time.Since(start) != time.Minute || calls != 1 {
			t.Errorf("error %v, outcome %q, %s after %v, %d calls", err, d.Outcome, acked(msg), time.Since(start), calls)
		}
	})
}
