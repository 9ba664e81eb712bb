package router_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/aura360/eventbus/bus"
	"github.com/aura360/eventbus/events"
	"github.com/aura360/eventbus/events/aura360"
	"github.com/aura360/eventbus/middleware"
	"github.com/aura360/eventbus/router"
)

// users are the users of a batch, sorted: those of one batch have no order.
func users(moods []aura360.MoodCreated) string {
	var out []string
	for _, e := range moods {
		out = append(out, fmt.Sprintf("%s%v", e.UserID, e.Data.Score))
	}
	slices.Sort(out)
	return strings.Join(out, " ")
}

// each returns moods of n users.
func each(n, score int) []events.Event {
	out := make([]events.Event, n)
	for i := range out {
		out[i] = mood(string(rune('a'+i)), score)
	}
	return out
}

func TestBatchIsCalledWhenFullOrAfterMaxWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := open(t)
		l := newTries()
		r := group(t, b, "g")
		router.HandleBatch(r, "moods", func(_ context.Context, moods []aura360.MoodCreated) []error {
			l.note("%s", users(moods))
			return nil
		}, router.BatchConfig{Max: 3, MaxWait: 2 * time.Second})
		start(t, r)
		publish(t, b, each(3, 1)...)
		check(t, l.all(time.Second), try{0, "a1 b1 c1"})
		publish(t, b, each(2, 2)...)
		check(t, l.all(10*time.Second), try{3 * time.Second, "a2 b2"})
		// Of one key there is one at a time, however many wait.
		publish(t, b, mood("a", 3), mood("a", 4), mood("b", 3))
		check(t, l.all(time.Minute), try{12 * time.Second, "a3 b3"}, try{14 * time.Second, "a4"})
	})
}

func TestEachEventOfABatchHasItsOwnResult(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := open(t)
		l := newTries()
		r := group(t, b, "g", router.Config{
			Retry: middleware.RetryPolicy{MaxAttempts: 2, Initial: time.Millisecond}, Delays: middleware.Delays{time.Minute},
		})
		router.HandleBatch(r, "moods", func(_ context.Context, moods []aura360.MoodCreated) []error {
			l.note("%s", users(moods))
			errs := make([]error, len(moods))
			for i, e := range moods {
				switch e.UserID {
				case "b":
					errs[i] = errors.New("no luck")
				case "c":
					errs[i] = router.Permanent(errors.New("never"))
				}
			}
			return errs
		}, router.BatchConfig{MaxWait: time.Second})
		poison := poisonOf(t, b, "g")
		start(t, r)
		publish(t, b, each(4, 1)...)
		check(t, l.all(time.Hour), try{time.Second, "a1 b1 c1 d1"}, try{2 * time.Second, "b1"},
			try{63 * time.Second, "b1"}, try{64 * time.Second, "b1"})
		var got []string
		for range 2 {
			p := within(t, poison, "the poison queue")
			got = append(got, p.Metadata[events.HeaderPoisonReason]+" after "+p.Metadata[events.HeaderPoisonAttempts])
		}
		if want := []string{"permanent after 1", "exhausted after 4"}; !slices.Equal(got, want) {
			t.Errorf("poisoned %q, want %q", got, want)
		}
	})
}

func TestBatchThatFailsAsAWholeFailsEveryEvent(t *testing.T) {
	for name, c := range map[string]struct {
		fn     func() []error
		reason events.Reason
		tries  int
		log    string
	}{
		"panic":        {func() []error { panic("at the disco") }, events.ReasonPanic, 2, "panic: at the disco"},
		"wrong length": {func() []error { return make([]error, 1) }, events.ReasonPermanent, 1, "results=1"},
		"exit":         {func() []error { runtime.Goexit(); return nil }, "", 3, ""},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var log lockedLog
				b, err := bus.Open(t.Context(), bus.Config{Backend: bus.Memory, Logger: slog.New(slog.NewTextHandler(&log, nil))})
				if err != nil {
					t.Fatal(err)
				}
				defer b.Close()
				attempts := 2
				if c.reason == "" {
					attempts = 10
				}
				r := group(t, b, "g", router.Config{
					Retry: middleware.RetryPolicy{MaxAttempts: attempts, Initial: time.Millisecond}, Delays: middleware.NoDelays(),
				})
				calls := 0
				router.HandleBatch(r, "moods", func(_ context.Context, moods []aura360.MoodCreated) []error {
					if calls++; c.reason == "" && calls == c.tries {
						return nil
					}
					return c.fn()
				})
				poison := poisonOf(t, b, "g")
				stop := start(t, r)
				publish(t, b, each(5, 1)...)
				time.Sleep(time.Minute)
				synctest.Wait()
				want := 5
				if c.reason == "" {
					want = 0
				} else if calls != c.tries {
					t.Errorf("%d calls, want %d", calls, c.tries)
				}
				if len(poison) != want {
					t.Errorf("%d poisoned, want %d", len(poison), want)
				}
				for range len(poison) {
					if got := (<-poison).Metadata[events.HeaderPoisonReason]; got != string(c.reason) {
						t.Errorf("poisoned for %q, want %q", got, c.reason)
					}
				}
				if !strings.Contains(log.String(), c.log) {
					t.Errorf("the log lacks %q", c.log)
				}
				if err := stop(); err != nil {
					t.Error(err)
				}
			})
		})
	}
}

// lockedLog is a strings.Builder for several goroutines.
type lockedLog struct {
	mu sync.Mutex
	b  strings.Builder
}

func (l *lockedLog) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedLog) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func TestStopHandlesABatchThatIsNotFull(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := open(t)
		l := newTries()
		r := group(t, b, "g")
		router.HandleBatch(r, "moods", func(ctx context.Context, moods []aura360.MoodCreated) []error {
			time.Sleep(5 * time.Second)
			l.note("%s %v", users(moods), ctx.Err())
			return nil
		}, router.BatchConfig{MaxWait: time.Minute})
		stop := start(t, r)
		publish(t, b, each(2, 1)...)
		synctest.Wait()
		if err := stop(); err != nil {
			t.Error(err)
		}
		check(t, l.all(time.Minute), try{5 * time.Second, "a1 b1 <nil>"})
	})
}

func TestBatchThatOutlastsTheDrainIsHandledAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := open(t)
		l := newTries()
		serve := func(fn func(context.Context, []aura360.MoodCreated) []error) func() error {
			r := group(t, b, "g", router.Config{DrainTimeout: time.Second})
			router.HandleBatch(r, "moods", fn)
			return start(t, r)
		}
		stop := serve(func(ctx context.Context, moods []aura360.MoodCreated) []error {
			<-ctx.Done()
			l.note("%s %v", users(moods), context.Cause(ctx))
			errs := make([]error, len(moods))
			for i := range errs {
				errs[i] = ctx.Err()
			}
			return errs
		})
		publish(t, b, each(2, 1)...)
		l.all(10 * time.Second)
		if err := stop(); err == nil {
			t.Error("no error")
		}
		got := l.all(20 * time.Second)
		if len(got) != 1 || got[0].after != 11*time.Second || !strings.Contains(got[0].what, "drain timeout") {
			t.Errorf("got %v", got)
		}
		serve(func(_ context.Context, moods []aura360.MoodCreated) []error { l.note("%s", users(moods)); return nil })
		check(t, l.all(30*time.Second), try{20 * time.Second, "a1 b1"})
	})
}

func TestTimeoutAndConcurrencyBoundTheCalls(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := open(t)
		l := newTries()
		r := group(t, b, "g", router.Config{Timeout: 10 * time.Second})
		router.HandleBatch(r, "moods", func(ctx context.Context, moods []aura360.MoodCreated) []error {
			<-ctx.Done()
			l.note("%d %v", len(moods), context.Cause(ctx))
			return nil
		}, router.BatchConfig{Max: 2, HandlerConfig: router.HandlerConfig{Concurrency: 1}})
		start(t, r)
		publish(t, b, each(4, 1)...)
		check(t, l.all(time.Minute), try{10 * time.Second, "2 handler timed out"}, try{20 * time.Second, "2 handler timed out"})
	})
}

func TestWhatABatchPublishesKnowsItsCauseByItem(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := open(t)
		r := group(t, b, "g")
		causes := make(chan string, 10)
		router.HandleBatch(r, "moods", func(ctx context.Context, moods []aura360.MoodCreated) []error {
			if middleware.DeliveryFrom(ctx) != nil {
				t.Error("the batch's context belongs to one of its events")
			}
			for i, e := range moods {
				next := aura360.ProfileUpdated{Base: events.Base{UserID: e.UserID}, Data: map[string]any{"a": 1}}
				if err := bus.Publish(router.ItemContext(ctx, i), next); err != nil {
					t.Error(err)
				}
				if middleware.DeliveryFrom(router.ItemContext(ctx, i)).Event.(aura360.MoodCreated).ID != e.ID {
					t.Error("the item's context is another event's")
				}
			}
			all := aura360.ProfileUpdated{Base: events.Base{UserID: "all"}, Data: map[string]any{"a": 1}}
			if err := bus.Publish(ctx, all); err != nil {
				t.Error(err)
			}
			return nil
		})
		watch := group(t, b, "watch")
		router.Handle(watch, "profiles", func(ctx context.Context, e aura360.ProfileUpdated) error {
			causes <- e.UserID + " " + middleware.DeliveryFrom(ctx).Msg.Metadata[events.HeaderCausationID]
			return nil
		})
		start(t, r)
		start(t, watch)
		first, second := mood("a", 1), mood("b", 1)
		first.ID, second.ID = "id-a", "id-b"
		publish(t, b, first, second)
		time.Sleep(time.Second)
		synctest.Wait()
		var got []string
		for len(causes) > 0 {
			got = append(got, <-causes)
		}
		slices.Sort(got)
		if want := []string{"a id-a", "all ", "b id-b"}; !slices.Equal(got, want) {
			t.Errorf("causes %q, want %q", got, want)
		}
	})
}

func TestBatchConfigIsChecked(t *testing.T) {
	r := group(t, open(t), "g")
	nop := func(context.Context, []aura360.MoodCreated) []error { return nil }
	router.HandleBatch(r, "a", nop, router.BatchConfig{Max: -1})
	router.HandleBatch(r, "b", nop, router.BatchConfig{MaxWait: time.Hour})
	router.HandleBatch(r, "c", nop, router.BatchConfig{}, router.BatchConfig{})
	router.HandleBatch(r, "d", nop, router.BatchConfig{HandlerConfig: router.HandlerConfig{
		Timeout: -1, Delays: middleware.Delays{2, 1},
	}})
	router.HandleBatch(r, "e", nop)
	router.HandleBatch(r, "f", nop)
	err := r.Run(t.Context())
	for _, want := range []string{
		`handler "a": Max -1, MaxWait 50ms: want 1 to 10000, and 1ms to 1m`,
		`handler "b": Max 100, MaxWait 1h0m0s: want`,
		`handler "c": want at most one BatchConfig, got 2`,
		`handler "d": a timeout, concurrency, rate or pause is negative`,
		`handler "d": Delays 2ns,1ns: want none, or up to 10 rising durations`,
		`handler "f": type user.mood.created is handled by "e" in group g already`,
	} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("the error lacks %q:\n%v", want, err)
		}
	}
}

// A harness delivers what it has at once: always the same batches, called here.
func TestDeliverAllFormsBatchesInOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := open(t)
		r := group(t, b, "g", router.Config{
			Retry: middleware.RetryPolicy{MaxAttempts: 2}, Delays: middleware.NoDelays(), Marks: middleware.NewMemoryMarks(middleware.MemoryMarksConfig{}),
		})
		var got []string
		router.HandleBatch(r, "moods", func(_ context.Context, moods []aura360.MoodCreated) []error {
			var line []string
			errs := make([]error, len(moods))
			for i, e := range moods {
				line = append(line, e.UserID)
				if e.UserID == "b" {
					errs[i] = errors.New("no luck")
				}
			}
			got = append(got, strings.Join(line, " "))
			return errs
		}, router.BatchConfig{Max: 3})
		var msgs []*message.Message
		add := func(e aura360.MoodCreated) *message.Message {
			enc, err := events.Encode(e, events.Base{})
			if err != nil {
				t.Fatal(err)
			}
			msg := message.NewMessage(enc.Base.ID, enc.Body)
			msg.Metadata = enc.Header("/test")
			msgs = append(msgs, msg)
			return msg
		}
		for _, e := range each(5, 1) {
			add(e.(aura360.MoodCreated))
		}
		first := msgs[0]
		again := first.Copy() // waits for the first one's mark, which comes with its batch
		msgs = append(msgs, again)
		if !r.Batches(aura360.TopicUserEvents, first) || r.Batches("elsewhere", first) {
			t.Error("Batches does not know what is for a batch handler")
		}
		for i, err := range r.DeliverAll(aura360.TopicUserEvents, msgs...) {
			if err != nil {
				t.Errorf("message %d: %v", i, err)
			}
		}
		if want := []string{"a b c", "d e b"}; !slices.Equal(got, want) {
			t.Errorf("batches %q, want %q", got, want)
		}
	})
}
