package middleware

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"pgregory.net/rapid"

	"github.com/aura360/eventbus/bus/driver"
	"github.com/aura360/eventbus/events"
)

func keyed(id, key string) *message.Message {
	msg := message.NewMessage(id, []byte("{}"))
	msg.Metadata["event_id"] = id
	if key != "" {
		msg.Metadata[events.HeaderKey] = key
	}
	return msg
}

func uuids(msgs []*message.Message) string {
	var out []string
	for _, m := range msgs {
		out = append(out, m.UUID)
	}
	return strings.Join(out, "")
}

// script answers one call after the other, and remembers what was sent.
type script struct {
	answers [][]driver.Result // nil: all confirmed
	sent    []string
	at      []time.Time
}

func (s *script) publish(_ context.Context, topic string, msgs ...*message.Message) error {
	s.sent, s.at = append(s.sent, uuids(msgs)), append(s.at, time.Now())
	if len(s.sent) > len(s.answers) || s.answers[len(s.sent)-1] == nil {
		return nil
	}
	return &driver.PublishError{Backend: "fake", Topic: topic, Results: s.answers[len(s.sent)-1]}
}

func outcomes(err error, n int) string {
	var b strings.Builder
	for _, r := range driver.Results(err, n) {
		b.WriteString(r.Outcome.String()[:1])
	}
	return b.String()
}

func TestRetryPublishSendsAgainWhatWasNotConfirmed(t *testing.T) {
	ok := result(driver.Confirmed, nil)
	down := result(driver.Rejected, driver.ErrUnavailable)
	unknown := result(driver.Unknown, errAttemptTimeout)
	notSent := result(driver.Rejected, driver.ErrNotSent)
	never := result(driver.Rejected, fmt.Errorf("too large: %w", driver.ErrPermanent))
	closed := result(driver.Rejected, driver.ErrClosed)
	type results = []driver.Result
	for name, c := range map[string]struct {
		keys    string // of messages a, b, c; - for none
		answers []results
		sent    []string
		want    string // outcomes, first letters
		hot     bool   // no wait between tries
	}{
		"all well":                    {"xxx", nil, []string{"abc"}, "ccc", true},
		"rest in its order":           {"xxx", []results{{ok, down, notSent}}, []string{"abc", "bc"}, "ccc", false},
		"unknown, then confirmed":     {"xxx", []results{{unknown, notSent, notSent}}, []string{"abc", "abc"}, "ccc", false},
		"unknown stays so":            {"xxx", []results{{unknown, notSent, notSent}, {down, notSent, notSent}, {down, notSent, notSent}}, []string{"abc", "abc", "abc"}, "urr", false},
		"refused for ever":            {"xxx", []results{{never, notSent, notSent}}, []string{"abc", "bc"}, "rcc", true},
		"each one refused":            {"xxx", []results{{never, notSent, notSent}, {never, notSent}, {never}}, []string{"abc", "bc", "c"}, "rrr", true},
		"unknown, then refused":       {"xxx", []results{{unknown, ok, ok}, {never}}, []string{"abc"}, "ucc", true},
		"unknown, refused, other key": {"xyz", []results{{unknown, ok, ok}, {never}}, []string{"abc", "a"}, "ucc", false},
		"never behind its own key":    {"xyx", []results{{down, ok, ok}}, []string{"abc"}, "rcc", true},
		"no key, no order":            {"---", []results{{down, ok, ok}}, []string{"abc", "a"}, "ccc", false},
		"closed":                      {"xxx", []results{{ok, closed, closed}}, []string{"abc"}, "crr", true},
		"tries run out":               {"xxx", []results{{ok, down, notSent}, {down, notSent}, {ok, down}}, []string{"abc", "bc", "bc"}, "ccr", false},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var msgs []*message.Message
				for i, k := range c.keys {
					msgs = append(msgs, keyed(string(rune('a'+i)), strings.Trim(string(k), "-")))
				}
				s := &script{answers: c.answers}
				start := time.Now()
				err := RetryPublish(RetryPolicy{MaxAttempts: 3})(s.publish)(t.Context(), "topic", msgs...)
				if got := outcomes(err, 3); got != c.want || !reflect.DeepEqual(s.sent, c.sent) {
					t.Errorf("outcomes %s, want %s; sent %v, want %v; %v", got, c.want, s.sent, c.sent, err)
				}
				if hot := time.Since(start) == 0; hot != c.hot {
					t.Errorf("took %v", time.Since(start))
				}
				var pe *driver.PublishError
				if err != nil && (!errors.As(err, &pe) || pe.Backend != "fake" || pe.Topic != "topic") {
					t.Errorf("error %#v", err)
				}
			})
		})
	}
}

func TestRetryPublishIsBounded(t *testing.T) {
	hang := func(ctx context.Context, topic string, msgs ...*message.Message) error {
		<-ctx.Done()
		return driver.Fail("fake", topic, len(msgs), driver.Unknown, context.Cause(ctx))
	}
	for name, c := range map[string]struct {
		p    RetryPolicy
		ctx  time.Duration
		want time.Duration
	}{
		"by its own elapsed time": {RetryPolicy{}, 0, 15 * time.Second},
		"by the caller's context": {RetryPolicy{}, 7 * time.Second, 7 * time.Second},
		"by one try":              {RetryPolicy{MaxAttempts: 1, AttemptTimeout: time.Second}, 0, time.Second},
		"by nothing of its own":   {RetryPolicy{MaxElapsed: -1, AttemptTimeout: -1}, time.Hour, time.Hour},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx := t.Context()
				if c.ctx > 0 {
					var cancel context.CancelFunc
					ctx, cancel = context.WithTimeout(ctx, c.ctx)
					defer cancel()
				}
				start := time.Now()
				err := RetryPublish(c.p)(hang)(ctx, "topic", keyed("a", ""))
				took := time.Since(start)
				if outcomes(err, 1) != "u" || took > c.want || took < c.want-2*time.Second {
					t.Errorf("err %v after %v, want up to %v", err, took, c.want)
				}
			})
		})
	}
}

// TestRetryPublishTellsTheTruth plays a broker that loses answers and messages,
// and compares what callers are told, and the order, with what it holds.
func TestRetryPublishTellsTheTruth(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		n := rapid.IntRange(1, 6).Draw(rt, "messages")
		msgs := make([]*message.Message, n)
		for i := range msgs {
			msgs[i] = keyed(string(rune('a'+i)), rapid.SampledFrom([]string{"", "x", "y"}).Draw(rt, "key"))
		}
		plan := rapid.SliceOfN(rapid.SampledFrom([]string{"ok", "ok", "lost answer", "lost", "down", "never"}), 0, 20).Draw(rt, "plan")
		var problem string
		synctest.Test(t, func(t *testing.T) {
			var log []*message.Message
			step := 0
			broker := func(_ context.Context, topic string, batch ...*message.Message) error {
				res := make([]driver.Result, len(batch))
				failed := false
				for i, m := range batch {
					if failed {
						res[i] = result(driver.Rejected, driver.ErrNotSent)
						continue
					}
					what := "ok"
					if step < len(plan) {
						what = plan[step]
					}
					step++
					switch what {
					case "ok":
						log = append(log, m)
					case "lost answer":
						log = append(log, m)
						res[i], failed = result(driver.Unknown, errBoom), true
					case "lost":
						res[i], failed = result(driver.Unknown, errBoom), true
					case "down":
						res[i], failed = result(driver.Rejected, driver.ErrUnavailable), true
					case "never":
						res[i], failed = result(driver.Rejected, driver.ErrPermanent), true
					}
				}
				return publishError("fake", topic, res)
			}
			err := RetryPublish(RetryPolicy{MaxAttempts: 4})(broker)(t.Context(), "topic", msgs...)
			has := map[string]bool{}
			var first []*message.Message
			for _, m := range log {
				if !has[m.UUID] {
					first = append(first, m)
				}
				has[m.UUID] = true
			}
			confirmed := map[string]bool{}
			for i, r := range driver.Results(err, n) {
				if r.Outcome == driver.Confirmed && !has[msgs[i].UUID] || r.Outcome == driver.Rejected && has[msgs[i].UUID] {
					problem = fmt.Sprintf("%s is %v, in the broker: %v", msgs[i].UUID, r.Outcome, has[msgs[i].UUID])
				}
				confirmed[msgs[i].UUID] = r.Outcome == driver.Confirmed
				if (r.Err == nil) != confirmed[msgs[i].UUID] {
					problem = fmt.Sprintf("%s is %v with error %v", msgs[i].UUID, r.Outcome, r.Err)
				}
			}
			last := map[string]string{} // by key; the first copy counts, others are duplicates
			for _, m := range first {
				k := driver.Key(m)
				if k != "" && m.UUID < last[k] {
					problem = fmt.Sprintf("%s stands behind %s", m.UUID, last[k])
				}
				last[k] = m.UUID
			}
		})
		if problem != "" {
			rt.Fatal(problem)
		}
	})
}

func TestTryContextIsAContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		type key struct{}
		parent := context.WithValue(t.Context(), key{}, 1)
		c := withTryDeadline(parent, time.Now().Add(time.Second))
		if dl, ok := c.Deadline(); !ok || time.Until(dl) != time.Second || c.Value(key{}) != 1 || c.Err() != nil {
			t.Error("before anybody waits")
		}
		child, cancel := context.WithCancel(c)
		defer cancel()
		<-child.Done()
		if !errors.Is(c.Err(), context.DeadlineExceeded) || !errors.Is(child.Err(), context.DeadlineExceeded) || !errors.Is(context.Cause(child), errAttemptTimeout) || c.Value(key{}) != 1 {
			t.Errorf("after its end: %v, %v, cause %v", c.Err(), child.Err(), context.Cause(child))
		}
		c.stop()

		c = withTryDeadline(parent, time.Now().Add(time.Second))
		c.stop()
		if !errors.Is(c.Err(), context.Canceled) {
			t.Errorf("stopped: %v", c.Err())
		}
		<-c.Done()

		c = withTryDeadline(parent, time.Now().Add(time.Second))
		time.Sleep(time.Second) // virtual
		if !errors.Is(c.Err(), context.DeadlineExceeded) {
			t.Errorf("past its end, never waited on: %v", c.Err())
		}
		early, cancel := context.WithTimeout(parent, time.Millisecond)
		defer cancel()
		if dl, _ := withTryDeadline(early, time.Now().Add(time.Hour)).Deadline(); time.Until(dl) != time.Millisecond {
			t.Errorf("deadline %v", dl)
		}
	})
}

func TestValidatePublishHoldsBackOnlyWhatIsWrong(t *testing.T) {
	bad := map[string]struct {
		change func(m *message.Message)
		reason events.Reason
		field  string
	}{
		"payload":      {func(m *message.Message) { m.Payload = make([]byte, 11) }, events.ReasonTooLarge, ""},
		"header UTF-8": {func(m *message.Message) { m.Metadata["h"] = "\xff" }, events.ReasonInvalid, "h"},
		"name UTF-8":   {func(m *message.Message) { m.Metadata["\xff"] = "" }, events.ReasonInvalid, "headers"},
		"headers' size": {
			func(m *message.Message) { m.Metadata["h"] = strings.Repeat("x", MaxHeaderBytes) },
			events.ReasonTooLarge, "headers",
		},
		"headers' number": {func(m *message.Message) {
			for i := range MaxHeaders {
				m.Metadata[fmt.Sprint(i)] = ""
			}
		}, events.ReasonTooLarge, "headers"},
		"ids differ": {func(m *message.Message) { m.Metadata["ce_id"] = "other" }, events.ReasonInvalid, "ce_id"},
		"id too long": {
			func(m *message.Message) { m.Metadata["event_id"] = strings.Repeat("x", 201) },
			events.ReasonInvalid, "event_id",
		},
	}
	for name, c := range bad {
		t.Run(name, func(t *testing.T) {
			msgs := []*message.Message{keyed("a", ""), keyed("b", ""), keyed("c", ""), keyed("d", "")}
			c.change(msgs[1])
			c.change(msgs[3])
			s := &script{answers: [][]driver.Result{{result(driver.Confirmed, nil), result(driver.Unknown, errBoom)}}}
			err := ValidatePublish(10)(s.publish)(t.Context(), "topic", msgs...)
			if got := outcomes(err, 4); got != "crur" || !reflect.DeepEqual(s.sent, []string{"ac"}) {
				t.Fatalf("outcomes %s, sent %v", got, s.sent)
			}
			r := driver.Results(err, 4)[1]
			var e *events.Error
			if !errors.Is(r.Err, driver.ErrPermanent) || !errors.As(r.Err, &e) || e.Reason != c.reason || e.Field != c.field {
				t.Errorf("error %v", r.Err)
			}
		})
	}
	s := &script{}
	for _, topic := range []string{"", ".", "..", "a b", "a/b", "ä", strings.Repeat("x", 250)} {
		err := ValidatePublish(0)(s.publish)(t.Context(), topic, keyed("a", ""))
		if outcomes(err, 1) != "r" || events.ReasonOf(err) != events.ReasonInvalid || len(s.sent) != 0 {
			t.Errorf("topic %q: %v", topic, err)
		}
	}
	raw := message.NewMessage("", nil)
	raw.Metadata = nil
	if err := ValidatePublish(-1)(s.publish)(t.Context(), "eventbus.poison.my_group-1", raw); err != nil {
		t.Errorf("a bare Watermill message: %v", err)
	}
	msgs := []*message.Message{keyed("a", "")}
	msgs[0].Metadata["h"] = "\xff"
	if err := ValidatePublish(0)(s.publish)(t.Context(), "t", msgs...); outcomes(err, 1) != "r" || len(s.sent) != 1 {
		t.Errorf("nothing valid: %v, sent %v", err, s.sent)
	}
}

func TestPoisonPublishTakesWhatTheBrokerRefuses(t *testing.T) {
	var q poisonQueue
	never := result(driver.Rejected, fmt.Errorf("too large: %w", driver.ErrPermanent))
	s := &script{answers: [][]driver.Result{{never, result(driver.Rejected, driver.ErrUnavailable), result(driver.Confirmed, nil)}}}
	msgs := []*message.Message{keyed("a", ""), keyed("b", ""), keyed("c", "")}
	err := PoisonPublish(q.sink)(s.publish)(t.Context(), "topic", msgs...)
	if outcomes(err, 3) != "rrc" || !errors.Is(err, driver.ErrPermanent) || len(q.info) != 1 {
		t.Fatalf("err %v, poisoned %v", err, q.info)
	}
	if i := q.info[0]; i.Reason != events.ReasonRejected || i.Topic != "topic" || i.Backend != "fake" || q.msgs[0].UUID != "a" || i.Attempts != 1 {
		t.Errorf("info %+v", i)
	}
	// What validation holds back is the caller's alone, wherever it stands.
	f := ChainPublish(confirm, PoisonPublish(q.sink), ValidatePublish(1))
	if err := f(t.Context(), "topic", keyed("a", "")); outcomes(err, 1) != "r" || len(q.info) != 1 {
		t.Errorf("err %v, poisoned %d", err, len(q.info))
	}
	// The sink has time although the caller's is up; its failure is told.
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	s = &script{answers: [][]driver.Result{{never}}}
	err = PoisonPublish(func(ctx context.Context, _ *message.Message, _ PoisonInfo) error {
		if ctx.Err() != nil {
			t.Error("no time for the sink")
		}
		return errBoom
	})(s.publish)(ctx, "topic", keyed("a", ""))
	if !errors.Is(err, driver.ErrPermanent) || !strings.Contains(err.Error(), "poison queue: boom") {
		t.Errorf("err %v", err)
	}
	if err := PoisonPublish(q.sink)(confirm)(t.Context(), "topic", keyed("a", "")); err != nil {
		t.Error(err)
	}
}

func TestPublishChainTogether(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, err := NewMetrics(nil)
		if err != nil {
			t.Fatal(err)
		}
		var q poisonQueue
		never := result(driver.Rejected, driver.ErrPermanent)
		s := &script{answers: [][]driver.Result{
			{result(driver.Unknown, errBoom), result(driver.Rejected, driver.ErrNotSent)},
			{never, result(driver.Rejected, driver.ErrNotSent)},
		}}
		f := ChainPublish(s.publish, ValidatePublish(0), TracePublish(Tracing{}), MetricsPublish(m, "kafka"), RetryPublish(RetryPolicy{}), PoisonPublish(q.sink))
		err = f(t.Context(), "topic", keyed("a", "x"), keyed("b", "x"))
		if got := outcomes(err, 2); got != "uc" || !reflect.DeepEqual(s.sent, []string{"ab", "ab", "b"}) || len(q.info) != 1 {
			t.Errorf("outcomes %s, sent %v, poisoned %v", got, s.sent, q.reasons())
		}
	})
}
