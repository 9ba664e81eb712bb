package middleware

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/aura360/eventbus/bus/driver"
	"github.com/aura360/eventbus/events"
)

// room is the whole subscribe chain in its documented order.
type room struct {
	poison  poisonQueue
	log     logBuffer
	metrics *Metrics
	reg     *prometheus.Registry
	chain   func(h message.HandlerFunc) message.HandlerFunc
}

func newRoom(t *testing.T, p RetryPolicy) *room {
	t.Helper()
	r := &room{reg: prometheus.NewRegistry()}
	var err error
	if r.metrics, err = NewMetrics(r.reg); err != nil {
		t.Fatal(err)
	}
	log := r.log.logger()
	pieces := []message.HandlerMiddleware{
		Guard(log), Trace(Tracing{}), Measure(r.metrics, "kafka"),
		Deduplicate(NewMemoryMarks(MemoryMarksConfig{}), log),
		Poison(r.poison.sink, log), Retry(p, log),
		CircuitBreaker(BreakerConfig{Failures: 1000}), Throttle(1e6, 1000), Concurrency(100),
		Timeout(time.Minute), Recover(),
	}
	r.chain = func(h message.HandlerFunc) message.HandlerFunc { return chain(h, pieces...) }
	return r
}

func (r *room) consumed(o Outcome) float64 {
	return testutil.ToFloat64(r.metrics.consumed.WithLabelValues("kafka", "topic", "group", "bench.event", string(o)))
}

func TestPanicIsRetriedThenPoisonedWithReasonPanic(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRoom(t, RetryPolicy{MaxAttempts: 3})
		tries := 0
		msg := event(t.Context(), "1", `{"secret":"payload-text"}`)
		d, err := deliver(r.chain(handler(func(context.Context) error { tries++; panic(errBoom) })), msg)
		if err != nil || tries != 3 || d.Outcome != OutcomePoisoned || acked(msg) != "acked" {
			t.Fatalf("err %v, tries %d, outcome %s, message %s", err, tries, d.Outcome, acked(msg))
		}
		i := r.poison.info[0]
		if i.Reason != events.ReasonPanic || i.Attempts != 3 || !errors.Is(i.Err, errBoom) || i.First.After(i.Last) ||
			i.Handler != "handler" || i.Group != "group" || i.Topic != "topic" || i.Backend != "kafka" || i.Host == "" {
			t.Errorf("info %+v", i)
		}
		log := r.log.String()
		if !strings.Contains(log, "message poisoned") || !strings.Contains(log, "stack=") || strings.Contains(log, "payload-text") {
			t.Errorf("log %s", log)
		}
		if n := r.consumed(OutcomePoisoned); n != 1 {
			t.Errorf("counted %v poisoned", n)
		}
		if n := testutil.ToFloat64(r.metrics.again.WithLabelValues("kafka", "topic", "group")); n != 2 {
			t.Errorf("counted %v retries", n)
		}
	})
}

func TestReasonsOfPoison(t *testing.T) {
	rejected := driver.Fail("kafka", "t", 1, driver.Rejected, driver.ErrPermanent)
	for name, c := range map[string]struct {
		err   error
		tries int
		want  events.Reason
	}{
		"any error":         {errBoom, 2, events.ReasonExhausted},
		"permanent":         {Permanent(errBoom), 1, events.ReasonPermanent},
		"undecodable":       {&events.Error{Reason: events.ReasonUndecodable}, 1, events.ReasonUndecodable},
		"published badly":   {rejected, 1, events.ReasonRejected},
		"broker is down":    {driver.Fail("kafka", "t", 1, driver.Unknown, driver.ErrUnavailable), 2, events.ReasonExhausted},
		"handler cancelled": {context.Canceled, 2, events.ReasonExhausted},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newRoom(t, RetryPolicy{MaxAttempts: 2})
				tries := 0
				_, err := deliver(r.chain(handler(func(context.Context) error { tries++; return c.err })), event(t.Context(), "1", "{}"))
				if err != nil || tries != c.tries || len(r.poison.info) != 1 || r.poison.info[0].Reason != c.want {
					t.Errorf("err %v, tries %d, want %d; poisoned %v, want %s", err, tries, c.tries, r.poison.reasons(), c.want)
				}
			})
		})
	}
}

func TestShutdownPoisonsNothing(t *testing.T) {
	for name, fail := range map[string]func(ctx context.Context) error{
		"handler returns the context's error": func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() },
		"handler fails by itself":             func(ctx context.Context) error { <-ctx.Done(); return Permanent(errBoom) },
		"handler panics":                      func(ctx context.Context) error { <-ctx.Done(); panic("gone") },
		"handler waits for its next try":      func(context.Context) error { return RetryAfter(time.Hour, errBoom) },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newRoom(t, RetryPolicy{})
				ctx, cancel := context.WithCancel(t.Context())
				time.AfterFunc(time.Second, cancel)
				msg := event(ctx, "1", "{}")
				start := time.Now()
				_, err := deliver(r.chain(handler(fail)), msg)
				if err == nil || acked(msg) != "nacked" || len(r.poison.info) != 0 || time.Since(start) != time.Second {
					t.Fatalf("err %v, message %s, poisoned %v, after %v", err, acked(msg), r.poison.reasons(), time.Since(start))
				}
				if n := r.consumed(OutcomeUnacked); n != 1 {
					t.Errorf("counted %v unacked", n)
				}
				// The claim was given back: the next delivery handles it.
				handled := false
				if _, err := deliver(r.chain(handler(func(context.Context) error { handled = true; return nil })), event(t.Context(), "1", "{}")); err != nil || !handled {
					t.Errorf("redelivered: err %v, handled %v", err, handled)
				}
			})
		})
	}
}

func TestClosingBusPoisonsNothing(t *testing.T) {
	r := newRoom(t, RetryPolicy{})
	closed := driver.Fail("kafka", "t", 1, driver.Rejected, driver.ErrClosed)
	msg := event(t.Context(), "1", "{}")
	if _, err := deliver(r.chain(handler(func(context.Context) error { return closed })), msg); err == nil || acked(msg) != "nacked" || len(r.poison.info) != 0 {
		t.Errorf("err %v, message %s, poisoned %v", err, acked(msg), r.poison.reasons())
	}
}

func TestPoisonSinkFailingLeavesUnacked(t *testing.T) {
	r := newRoom(t, RetryPolicy{MaxAttempts: 1})
	r.poison.fail = driver.ErrUnavailable
	failing := r.chain(handler(func(context.Context) error { return errBoom }))
	msg := event(t.Context(), "1", "{}")
	_, err := deliver(failing, msg)
	if !errors.Is(err, driver.ErrUnavailable) || !errors.Is(err, errBoom) || acked(msg) != "nacked" {
		t.Fatalf("err %v, message %s", err, acked(msg))
	}
	r.poison.fail = nil
	if d, err := deliver(failing, event(t.Context(), "1", "{}")); err != nil || d.Outcome != OutcomePoisoned {
		t.Fatalf("redelivered: err %v, outcome %s", err, d.Outcome)
	}
	// Poisoned is terminal.
	if d, err := deliver(failing, event(t.Context(), "1", "{}")); err != nil || d.Outcome != OutcomeDuplicate {
		t.Errorf("a copy of a poisoned message: err %v, outcome %s", err, d.Outcome)
	}
	// Until an operator sends it again.
	redriven := event(t.Context(), "1", "{}")
	redriven.Metadata[events.HeaderGeneration] = "2"
	if d, err := deliver(r.chain(handler(func(context.Context) error { return nil })), redriven); err != nil || d.Outcome != OutcomeHandled {
		t.Errorf("redriven: err %v, outcome %s", err, d.Outcome)
	}
}

func TestOuterPoisonLeavesWhatTheInnerCouldNotDecide(t *testing.T) {
	var inner, outer poisonQueue
	inner.fail = driver.ErrUnavailable
	h := chain(handler(func(context.Context) error { return errBoom }), Poison(outer.sink, nil), Poison(inner.sink, nil))
	if d, err := deliver(h, event(t.Context(), "1", "{}")); err == nil || len(outer.info) != 0 || d.Outcome != OutcomeUnacked {
		t.Errorf("err %v, outer poisoned %v, outcome %s", err, outer.reasons(), d.Outcome)
	}
	undecodable := func(message.HandlerFunc) message.HandlerFunc {
		return func(*message.Message) ([]*message.Message, error) {
			return nil, &events.Error{Reason: events.ReasonUndecodable, Err: errBoom}
		}
	}
	h = chain(handler(nil), Poison(outer.sink, nil), undecodable, Poison(inner.sink, nil))
	if d, err := deliver(h, event(t.Context(), "1", "{}")); err != nil || d.Outcome != OutcomePoisoned || d.Reason != events.ReasonUndecodable {
		t.Errorf("err %v, outcome %s, reason %s", err, d.Outcome, d.Reason)
	}
}

func TestMalformedMessageIsPoisonedUnhandled(t *testing.T) {
	r := newRoom(t, RetryPolicy{})
	msg := message.NewMessageWithContext(t.Context(), "", []byte{0xff, 0xfe})
	msg.Metadata[events.HeaderMalformed] = "no UUID field"
	d, err := deliver(r.chain(handler(func(context.Context) error { t.Error("handled"); return nil })), msg)
	if err != nil || d.Outcome != OutcomePoisoned || d.Reason != events.ReasonMalformed || acked(msg) != "acked" {
		t.Fatalf("err %v, outcome %s, reason %s", err, d.Outcome, d.Reason)
	}
	p := r.poison.msgs[0]
	if _, there := p.Metadata[events.HeaderMalformed]; there || !strings.Contains(p.Metadata[events.HeaderPoisonError], "no UUID field") ||
		string(p.Payload) != "\xff\xfe" || p.UUID == "" {
		t.Errorf("poison message %v %q %q", p.Metadata, p.Payload, p.UUID)
	}
}

func TestDuplicatesAreDroppedOnlyAfterSuccess(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRoom(t, RetryPolicy{MaxAttempts: 1})
		r.poison.fail = errBoom // so that failures stay failures
		fail := errBoom
		handled := 0
		h := r.chain(handler(func(context.Context) error {
			if fail == nil {
				handled++
			}
			return fail
		}))
		for range 3 {
			if d, err := deliver(h, event(t.Context(), "1", "{}")); err == nil || d.Outcome != OutcomeUnacked {
				t.Fatalf("failing: err %v, outcome %s", err, d.Outcome)
			}
		}
		fail = nil
		want := []Outcome{OutcomeHandled, OutcomeDuplicate, OutcomeDuplicate}
		for _, w := range want {
			msg := event(t.Context(), "1", "{}")
			if d, err := deliver(h, msg); err != nil || d.Outcome != w || acked(msg) != "acked" {
				t.Fatalf("err %v, outcome %s, want %s", err, d.Outcome, w)
			}
		}
		if handled != 1 || r.consumed(OutcomeDuplicate) != 2 {
			t.Errorf("handled %d times, %v duplicates", handled, r.consumed(OutcomeDuplicate))
		}
	})
}

func TestEachTryHasAFreshDeadlineAndTheContextIsRestored(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var q poisonQueue
		msg := event(t.Context(), "1", "{}")
		tries := 0
		h := chain(handler(func(ctx context.Context) error {
			tries++
			<-ctx.Done()
			if !errors.Is(context.Cause(ctx), ErrTimeout) || DeliveryFrom(ctx).Attempt != tries {
				t.Errorf("cause %v, attempt %d of %d", context.Cause(ctx), DeliveryFrom(ctx).Attempt, tries)
			}
			return ctx.Err()
		}), Poison(q.sink, nil), Retry(RetryPolicy{MaxAttempts: 3, Initial: time.Nanosecond, Max: time.Nanosecond}, nil), Timeout(time.Second))
		start := time.Now()
		d, err := deliver(h, msg)
		if took := time.Since(start); err != nil || tries != 3 || took.Round(time.Millisecond) != 3*time.Second || msg.Context() != d {
			t.Errorf("err %v, %d tries in %v, context %T", err, tries, took, msg.Context())
		}
		if d.Reason != events.ReasonExhausted {
			t.Errorf("reason %s", d.Reason)
		}
	})
}
