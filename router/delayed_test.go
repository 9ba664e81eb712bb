package router_test

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/aura360/eventbus/bus"
	"github.com/aura360/eventbus/bus/driver"
	"github.com/aura360/eventbus/bus/membus"
	"github.com/aura360/eventbus/events"
	"github.com/aura360/eventbus/events/aura360"
	"github.com/aura360/eventbus/middleware"
	"github.com/aura360/eventbus/router"
)

// once is a router configuration with one quick try and the default delays.
var once = router.Config{Retry: middleware.RetryPolicy{MaxAttempts: 1}}

// try is one call of a handler.
type try struct {
	after time.Duration // since the test began
	what  string
}

// tries notes calls; wait for them with synctest.Wait.
type tries struct {
	began time.Time
	ch    chan try
}

func newTries() *tries { return &tries{began: time.Now(), ch: make(chan try, 1000)} }

func (l *tries) note(format string, a ...any) {
	l.ch <- try{time.Since(l.began).Round(time.Second), fmt.Sprintf(format, a...)}
}

// all returns what was noted once the virtual clock stands at t.
func (l *tries) all(at time.Duration) []try {
	time.Sleep(at - time.Since(l.began))
	synctest.Wait()
	var out []try
	for len(l.ch) > 0 {
		out = append(out, <-l.ch)
	}
	return out
}

// sorted puts in order what different keys did at once.
func sorted(all []try) []try {
	slices.SortStableFunc(all, func(a, b try) int {
		return cmp.Or(cmp.Compare(a.after, b.after), cmp.Compare(user(a.what), user(b.what)))
	})
	return all
}

func user(what string) string { name, _, _ := strings.Cut(what, " "); return name }

func check(t *testing.T, got []try, want ...try) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Errorf("got  %v\nwant %v", got, want)
	}
}

// failing handles moods: those of users named "fail..." fail.
func failing(l *tries) func(context.Context, aura360.MoodCreated) error {
	return func(_ context.Context, e aura360.MoodCreated) error {
		l.note("%s %v", e.UserID, e.Data.Score)
		if strings.HasPrefix(e.UserID, "fail") && e.Data.Score == 1 {
			return errors.New("no luck")
		}
		return nil
	}
}

func TestFailingMessageWaitsAndNothingWaitsForIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		reg := prometheus.NewRegistry()
		b := open(t, bus.Config{Registry: reg})
		l := newTries()
		r := group(t, b, "g", once)
		router.Handle(r, "moods", failing(l))
		poison := poisonOf(t, b, "g")
		start(t, r)
		publish(t, b, mood("fail", 1), mood("fail", 2), mood("other", 1))
		check(t, sorted(l.all(4*time.Second)), try{0, "fail 1"}, try{0, "fail 2"}, try{0, "other 1"})
		check(t, l.all(60*time.Second), try{5 * time.Second, "fail 1"})
		check(t, l.all(600*time.Second), try{65 * time.Second, "fail 1"})
		if len(poison) > 0 {
			t.Fatal("poisoned before the last delay")
		}
		check(t, l.all(time.Hour), try{665 * time.Second, "fail 1"})
		p := within(t, poison, "the poison queue")
		want := map[string]string{
			events.HeaderPoisonReason: "exhausted", events.HeaderPoisonError: "no luck", events.HeaderPoisonHandler: "moods",
			events.HeaderPoisonTopic: aura360.TopicUserEvents, events.HeaderPoisonAttempts: "4",
			events.HeaderPoisonFirst: events.FormatTime(l.began), events.HeaderPoisonLast: events.FormatTime(l.began.Add(665 * time.Second)),
			events.HeaderRetryDue: "", events.HeaderRetryTopic: "",
		}
		for name, value := range want {
			if p.Metadata[name] != value {
				t.Errorf("%s is %q, want %q", name, p.Metadata[name], value)
			}
		}
		var series strings.Builder
		for _, delay := range []string{"10m", "1m", "5s"} {
			fmt.Fprintf(&series, `%%s{delay=%q,handler="moods",messaging_consumer_group_name="g",`+
				`messaging_destination_name="aura360.user.events",messaging_system="gochannel"} 1`+"\n", delay)
		}
		for name, help := range map[string]string{
			"eventbus_parked_messages_total": "Messages put off for a delayed retry after their tries failed, by the delay of the ladder that they wait for.",
			"eventbus_delayed_retries_total": "Messages taken up again after such a delay.",
		} {
			text := fmt.Sprintf("# HELP %s %s\n# TYPE %s counter\n", name, help, name) + strings.ReplaceAll(series.String(), "%s", name)
			if err := testutil.GatherAndCompare(reg, strings.NewReader(text), name); err != nil {
				t.Error(err)
			}
		}
	})
}

func TestOrderedHandlerKeepsTheKeyWaitingAndNoOther(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := open(t)
		l := newTries()
		r := group(t, b, "g", once)
		router.Handle(r, "moods", failing(l), router.HandlerConfig{
			Ordered: true, Delays: middleware.Delays{10 * time.Second, time.Minute},
		})
		poison := poisonOf(t, b, "g")
		start(t, r)
		publish(t, b, mood("fail", 1), mood("fail", 2), mood("other", 1), mood("other", 2))
		check(t, sorted(l.all(9*time.Second)), try{0, "fail 1"}, try{0, "other 1"}, try{0, "other 2"})
		check(t, l.all(60*time.Second), try{10 * time.Second, "fail 1"})
		check(t, l.all(time.Hour), try{70 * time.Second, "fail 1"}, try{70 * time.Second, "fail 2"})
		p := within(t, poison, "the poison queue")
		if n, first := p.Metadata[events.HeaderPoisonAttempts], p.Metadata[events.HeaderPoisonFirst]; n != "3" || first != events.FormatTime(l.began) {
			t.Errorf("poisoned after %s tries, the first at %s", n, first)
		}
		if len(r.RetryTopics()) > 0 {
			t.Errorf("retry topics %v, want none: nothing moves into one", r.RetryTopics())
		}
	})
}

func TestParkedMessageOutlivesItsRouter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := open(t)
		l := newTries()
		serve := func() func() error {
			r := group(t, b, "g", once)
			router.Handle(r, "moods", failing(l))
			return start(t, r)
		}
		stop := serve()
		publish(t, b, mood("fail", 1))
		check(t, l.all(2*time.Second), try{0, "fail 1"})
		if err := stop(); err != nil {
			t.Error(err)
		}
		if took := time.Since(l.began); took > 3*time.Second {
			t.Errorf("stopping waited for what is parked: %v", took)
		}
		check(t, l.all(3*time.Second))
		stop = serve()
		check(t, l.all(20*time.Second), try{5 * time.Second, "fail 1"})
		if err := stop(); err != nil {
			t.Error(err)
		}
		check(t, l.all(2*time.Minute))
		serve()
		check(t, l.all(3*time.Minute), try{2 * time.Minute, "fail 1"}) // due for long
	})
}

func TestRetryAfterChoosesTheDelayThatFits(t *testing.T) {
	for _, ordered := range []bool{false, true} {
		t.Run(fmt.Sprintf("ordered=%v", ordered), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := open(t)
				l := newTries()
				asks := []time.Duration{30 * time.Second, time.Hour, 2 * time.Second}
				r := group(t, b, "g", router.Config{Retry: middleware.RetryPolicy{MaxAttempts: 2}})
				n := 0
				router.Handle(r, "moods", func(context.Context, aura360.MoodCreated) error {
					l.note("try")
					if n++; n > len(asks) {
						return nil
					}
					return router.RetryAfter(asks[n-1], errors.New("quota exceeded"))
				}, router.HandlerConfig{Ordered: ordered})
				start(t, r)
				publish(t, b, mood("u", 1))
				first := time.Minute // the shortest delay that is enough
				if ordered {
					first = 30 * time.Second // the driver waits exactly
				}
				check(t, l.all(3*time.Hour), try{0, "try"}, try{first, "try"}, try{first + time.Hour, "try"},
					try{first + time.Hour + 2*time.Second, "try"}) // short enough to wait in place
			})
		})
	}
}

func TestPermanentErrorIsNotDelayed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := open(t)
		r := group(t, b, "g")
		router.Handle(r, "moods", func(context.Context, aura360.MoodCreated) error {
			return router.Permanent(errors.New("never"))
		})
		poison := poisonOf(t, b, "g")
		start(t, r)
		publish(t, b, mood("u", 1))
		synctest.Wait()
		if len(poison) != 1 {
			t.Errorf("%d poisoned at once, want 1", len(poison))
		}
	})
}

// A copy of a message that waits is handled in its place; what waited is then a
// duplicate.
func TestCopyOfAParkedMessageIsHandledOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := open(t)
		l := newTries()
		r := group(t, b, "g", once)
		n := 0
		router.Handle(r, "moods", func(context.Context, aura360.MoodCreated) error {
			l.note("try")
			if n++; n == 1 {
				return errors.New("not yet")
			}
			return nil
		})
		start(t, r)
		e := mood("u", 1)
		e.ID, e.Timestamp, e.Data.MoodID, e.Data.CreatedAt = events.NewID(), l.began, "m", l.began
		publish(t, b, e)
		check(t, l.all(time.Second), try{0, "try"})
		publish(t, b, e)
		check(t, l.all(time.Hour), try{time.Second, "try"})
	})
}

func TestTombstoneIsRetriedAndPoisonedAsOne(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := open(t)
		l := newTries()
		r := group(t, b, "g", once)
		router.HandleRaw(r, "graves", "graveyard", func(_ context.Context, m *message.Message) error {
			l.note("%v %s %d headers", m.Payload == nil, m.Metadata[events.HeaderKey], len(m.Metadata))
			return errors.New("no luck")
		}, router.HandlerConfig{Delays: middleware.Delays{time.Minute}})
		poison := poisonOf(t, b, "g")
		start(t, r)
		grave := message.NewMessage("1", nil)
		grave.Metadata[events.HeaderKey] = "u1"
		if err := b.Parts().Backend.Publish(t.Context(), "graveyard", grave); err != nil {
			t.Fatal(err)
		}
		check(t, l.all(time.Hour), try{0, "true u1 1 headers"}, try{time.Minute, "true u1 1 headers"})
		p := within(t, poison, "the poison queue")
		if p.Payload != nil || p.Metadata[events.HeaderPoisonTopic] != "graveyard" || p.Metadata[events.HeaderPoisonAttempts] != "2" {
			t.Errorf("poisoned %q with %v", p.Payload, p.Metadata)
		}
	})
}

func TestWhatNobodyCanRetryIsPoisonedWithItsReason(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := open(t)
		l := newTries()
		r := group(t, b, "g", once)
		router.Handle(r, "moods", failing(l))
		poison := poisonOf(t, b, "g")
		start(t, r)
		now := time.Now()
		p := middleware.Parked{
			Due: now, NotBefore: now, First: now, Step: 1, Attempts: 5, Group: "g", Handler: "moods", Topic: aura360.TopicUserEvents,
		}
		for _, c := range []struct {
			name   string
			reason events.Reason
			text   string
			change func(*middleware.Parked, message.Metadata)
		}{
			{
				"handler", events.ReasonNoHandler, `handler "gone" for topic "aura360.user.events": group g has no such handler`,
				func(p *middleware.Parked, _ message.Metadata) { p.Handler = "gone" },
			},
			{"no handler", events.ReasonNoHandler, `no such handler`, func(p *middleware.Parked, _ message.Metadata) { p.Handler = "" }},
			{"topic", events.ReasonNoHandler, `no such handler`, func(p *middleware.Parked, _ message.Metadata) { p.Topic = "gone" }},
			{"group", events.ReasonNoHandler, `no such handler`, func(p *middleware.Parked, _ message.Metadata) { p.Group = "h" }},
			{
				"headers", events.ReasonMalformed, `header eb_retry_step is missing or makes no sense`,
				func(_ *middleware.Parked, m message.Metadata) { delete(m, events.HeaderRetryStep) },
			},
		} {
			msg := message.NewMessage(c.name, []byte(`{}`))
			parked := p
			c.change(&parked, msg.Metadata)
			msg = middleware.ParkedMessage(msg, parked)
			c.change(&parked, msg.Metadata)
			if err := b.Parts().Backend.Publish(t.Context(), b.RetryTopic("g", time.Minute), msg); err != nil {
				t.Fatal(err)
			}
			got := within(t, poison, "the poison queue")
			reason, text := events.Reason(got.Metadata[events.HeaderPoisonReason]), got.Metadata[events.HeaderPoisonError]
			if reason != c.reason || !strings.Contains(text, c.text) || got.UUID != c.name {
				t.Errorf("%s: reason %q, error %q", c.name, reason, text)
			}
		}
		check(t, l.all(time.Hour))
	})
}

// A host whose clock is wrong parks a message for a year, or in the past.
func TestWrongClockParksForNoLongerThanTheDelay(t *testing.T) {
	for ahead, want := range map[time.Duration][]try{
		365 * 24 * time.Hour:  {{time.Minute, "fail 2"}, {time.Minute + time.Hour, "u 1"}},
		-365 * 24 * time.Hour: {{0, "fail 2"}, {0, "u 1"}},
		500 * time.Millisecond: {
			{time.Minute, "fail 2"}, {time.Minute + time.Hour, "u 1"},
		},
	} {
		t.Run(ahead.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := open(t)
				l := newTries()
				r := group(t, b, "g", once)
				router.Handle(r, "moods", failing(l))
				start(t, r)
				due := time.Now().Add(time.Minute + ahead)
				for user, rest := range map[string]time.Duration{"fail": 0, "u": time.Hour} {
					e := mood(user, map[string]int{"fail": 2, "u": 1}[user])
					enc, err := events.Encode(e, events.Base{})
					if err != nil {
						t.Fatal(err)
					}
					msg := message.NewMessage(enc.Base.ID, enc.Body)
					msg.Metadata = enc.Header("/test")
					msg = middleware.ParkedMessage(msg, middleware.Parked{
						Due: due, NotBefore: due.Add(rest), First: due, Step: 1, Attempts: 1, Group: "g", Handler: "moods", Topic: aura360.TopicUserEvents,
					})
					if err := b.Parts().Backend.Publish(t.Context(), b.RetryTopic("g", time.Minute), msg); err != nil {
						t.Fatal(err)
					}
				}
				got := sorted(l.all(3 * time.Hour))
				for i := range got { // the last hop may be longer than what is left
					if i < len(want) && got[i].after > want[i].after && got[i].after <= want[i].after+10*time.Minute {
						got[i].after = want[i].after
					}
				}
				check(t, got, want...)
			})
		})
	}
}

// plain is a backend that cannot wait with a message, as the stock adapters
// cannot.
type plain struct{ driver.Backend }

func (p plain) Subscriber(group string, opts driver.SubscriberOptions) (driver.Subscriber, error) {
	opts.DirectSettle = false
	return p.Backend.Subscriber(group, opts)
}

func TestBackendThatCannotWaitIsWaitedFor(t *testing.T) {
	for _, ordered := range []bool{false, true} {
		t.Run(fmt.Sprintf("ordered=%v", ordered), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b, err := bus.OpenWith(t.Context(), bus.Config{Logger: slog.New(slog.DiscardHandler)}, plain{membus.Open(membus.Config{})})
				if err != nil {
					t.Fatal(err)
				}
				defer b.Close()
				l := newTries()
				serve := func() func() error {
					r := group(t, b, "g", once)
					router.Handle(r, "moods", failing(l), router.HandlerConfig{Ordered: ordered})
					return start(t, r)
				}
				stop := serve()
				publish(t, b, mood("fail", 1), mood("other", 1))
				check(t, sorted(l.all(60*time.Second)), try{0, "fail 1"}, try{0, "other 1"}, try{5 * time.Second, "fail 1"})
				// It waits for a minute now; the stop ends that.
				if err := stop(); err != nil {
					t.Error(err)
				}
				if took := time.Since(l.began); took > 61*time.Second {
					t.Errorf("stopping took until %v", took)
				}
				check(t, l.all(61*time.Second))
				stop = serve()
				due := 65 * time.Second
				if ordered {
					due = 61 * time.Second // the new process knows nothing: the ladder begins anew
				}
				check(t, l.all(65*time.Second), try{due, "fail 1"})
				if err := stop(); err != nil {
					t.Error(err)
				}
			})
		})
	}
}

// deaf is a backend whose retry topics take nothing.
type deaf struct {
	driver.Backend
	err error
}

func (d *deaf) Publish(ctx context.Context, topic string, msgs ...*message.Message) error {
	if strings.Contains(topic, ".retry.") && d.err != nil {
		return driver.Fail(d.Name(), topic, len(msgs), driver.Rejected, d.err)
	}
	return d.Backend.Publish(ctx, topic, msgs...)
}

func TestMessageThatCannotBeParkedIsNotLost(t *testing.T) {
	for name, c := range map[string]struct {
		err      error
		poisoned int
	}{
		"for now":  {errors.New("the broker is away"), 0},
		"for ever": {driver.ErrPermanent, 1},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				d := &deaf{membus.Open(membus.Config{}), c.err}
				b, err := bus.OpenWith(t.Context(), bus.Config{Logger: slog.New(slog.DiscardHandler)}, d)
				if err != nil {
					t.Fatal(err)
				}
				defer b.Close()
				l := newTries()
				r := group(t, b, "g", once)
				router.Handle(r, "moods", failing(l))
				poison := poisonOf(t, b, "g")
				start(t, r)
				publish(t, b, mood("fail", 1))
				all := l.all(10 * time.Minute)
				if len(poison) != c.poisoned {
					t.Errorf("%d poisoned, want %d", len(poison), c.poisoned)
				}
				if c.poisoned == 0 && len(all) < 5 {
					t.Errorf("%d tries in 10 minutes, want one for each delivery of the unacked message", len(all))
				}
			})
		})
	}
}

// stingy is a backend that does not make retry topics for the first minute.
type stingy struct {
	driver.Backend
	until time.Time
}

func (s stingy) EnsureTopic(ctx context.Context, spec driver.TopicSpec) error {
	if strings.Contains(spec.Name, ".retry.") && time.Now().Before(s.until) {
		return errors.New("no leader")
	}
	p, ok := s.Backend.(driver.Provisioner)
	if !ok {
		return errors.New("not a provisioner")
	}
	return p.EnsureTopic(ctx, spec)
}

func TestRetryTopicThatCannotBeMadeYetIsTriedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newTries()
		d := stingy{membus.Open(membus.Config{}), l.began.Add(time.Minute)}
		b, err := bus.OpenWith(t.Context(), bus.Config{Logger: slog.New(slog.DiscardHandler)}, d)
		if err != nil {
			t.Fatal(err)
		}
		defer b.Close()
		serve := func() func() error {
			r := group(t, b, "g", router.Config{
				Retry: middleware.RetryPolicy{MaxAttempts: 1}, Delays: middleware.Delays{10 * time.Second},
			})
			router.Handle(r, "moods", failing(l))
			return start(t, r)
		}
		stop := serve()
		publish(t, b, mood("other", 1))
		check(t, l.all(30*time.Second), try{0, "other 1"}) // all else goes on
		if err := stop(); err != nil || time.Since(l.began) > 31*time.Second {
			t.Errorf("stopped with %v after %v", err, time.Since(l.began))
		}
		serve()
		l.all(2 * time.Minute)
		publish(t, b, mood("fail", 1))
		check(t, l.all(3*time.Minute), try{2 * time.Minute, "fail 1"}, try{2*time.Minute + 10*time.Second, "fail 1"})
	})
}
