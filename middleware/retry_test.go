package middleware

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"pgregory.net/rapid"
)

func TestBackoffStaysWithinItsGrowingBound(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p := RetryPolicy{
			Initial: time.Duration(rapid.Int64Range(1, int64(time.Hour)).Draw(t, "initial")),
			Max:     time.Duration(rapid.Int64Range(1, int64(24*time.Hour)).Draw(t, "max")),
		}
		n := rapid.IntRange(1, 1000).Draw(t, "tries")
		most := p.Max
		if f := float64(p.Initial) * float64(uint64(1)<<min(n-1, 62)); f < float64(p.Max) {
			most = time.Duration(f)
		}
		if w := p.backoff(n); w < 0 || w > most {
			t.Fatalf("wait %v after %d tries, want 0 to %v", w, n, most)
		}
	})
}

func TestRetryStopsWhenThePolicyIsExhausted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for name, c := range map[string]struct {
			p     RetryPolicy
			err   error
			tries int
			took  time.Duration
		}{
			"defaults":           {RetryPolicy{}, RetryAfter(time.Minute, errBoom), 5, 4 * time.Minute},
			"elapsed":            {RetryPolicy{MaxAttempts: -1, MaxElapsed: time.Hour}, RetryAfter(7*time.Minute, errBoom), 9, 56 * time.Minute},
			"negative wait":      {RetryPolicy{MaxAttempts: 3}, RetryAfter(-time.Minute, errBoom), 3, 0},
			"wrapped RetryAfter": {RetryPolicy{MaxAttempts: 2}, fmt.Errorf("while: %w", RetryAfter(time.Second, errBoom)), 2, time.Second},
			"unacked":            {RetryPolicy{}, Unacked(errBoom), 1, 0},
			"permanent":          {RetryPolicy{}, fmt.Errorf("while: %w", Permanent(errBoom)), 1, 0},
		} {
			tries, start := 0, time.Now()
			d, err := deliver(chain(handler(func(context.Context) error { tries++; return c.err }), Retry(c.p, nil)), event(t.Context(), "1", "{}"))
			if !errors.Is(err, errBoom) || tries != c.tries || d.Attempt != c.tries || time.Since(start) != c.took {
				t.Errorf("%s: err %v, %d tries (delivery says %d), want %d; took %v, want %v", name, err, tries, d.Attempt, c.tries, time.Since(start), c.took)
			}
			if d.LastFailure.Sub(d.FirstFailure) != c.took {
				t.Errorf("%s: failures from %v to %v, want %v apart", name, d.FirstFailure, d.LastFailure, c.took)
			}
		}
	})
}

func TestRetryReturnsWhatTheLastTryReturned(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tries := 0
		out := []*message.Message{message.NewMessage("out", nil)}
		h := Retry(RetryPolicy{}, nil)(func(*message.Message) ([]*message.Message, error) {
			if tries++; tries < 3 {
				return nil, errBoom
			}
			return out, nil
		})
		msg := event(t.Context(), "1", "{}")
		got, err := h(msg) // without Begin, as in a plain Watermill router
		if err != nil || len(got) != 1 || DeliveryFrom(msg.Context()).Attempt != 3 {
			t.Errorf("got %v, %v", got, err)
		}
	})
}

func TestErrorMarksOfNil(t *testing.T) {
	if Permanent(nil) != nil || RetryAfter(time.Second, nil) != nil || Unacked(nil) != nil {
		t.Error("nil became an error")
	}
	if IsPermanent(errBoom) || !IsPermanent(Permanent(errBoom)) || Permanent(errBoom).Error() != "boom" || Unacked(errBoom).Error() != "boom" {
		t.Error("IsPermanent")
	}
	if _, ok := RetryAfterOf(errBoom); ok {
		t.Error("RetryAfterOf a plain error")
	}
}

type badError struct{}

func (badError) Error() string { panic("again") }

func TestPanicErrorShowsNoPayload(t *testing.T) {
	long := make([]byte, 1000)
	for i := range long {
		long[i] = 'x'
	}
	for _, c := range []struct {
		value any
		want  string
	}{
		{struct{ Secret string }{"s"}, "panic: value of type struct { Secret string }"},
		{"text", "panic: text"},
		{errBoom, "panic: *errors.errorString: boom"},
		{badError{}, "panic: middleware.badError: (its Error method panics)"},
		{string(long), "panic: " + string(long[:197]) + "..."},
	} {
		if got := (&PanicError{Value: c.value}).Error(); got != c.want {
			t.Errorf("got %q, want %q", got, c.want)
		}
	}
}

func TestClipKeepsUTF8(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := rapid.String().Draw(t, "s")
		n := rapid.IntRange(8, 64).Draw(t, "n")
		got := clip(s, n)
		if len(got) > n || len(s) <= n && got != s {
			t.Fatalf("clip(%q, %d) = %q", s, n, got)
		}
	})
	if got := clip("\xff\xfe", 10); got != "?" {
		t.Errorf("got %q", got)
	}
}
