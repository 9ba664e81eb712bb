package bustest_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/aura360/eventbus/bus"
	"github.com/aura360/eventbus/bus/bustest"
	"github.com/aura360/eventbus/events"
	"github.com/aura360/eventbus/events/aura360"
	"github.com/aura360/eventbus/middleware"
	"github.com/aura360/eventbus/router"
)

func mood(user string, score int) aura360.MoodCreated {
	return aura360.MoodCreated{Base: events.Base{UserID: user}, Data: aura360.Mood{Score: float64(score)}}
}

// aggregate is the handler that most tests run.
func aggregate(ctx context.Context, e aura360.MoodCreated) error {
	return bus.Publish(ctx, aura360.ContextAggregated{
		Base: events.Base{UserID: e.UserID},
		ContextData: aura360.Context{
			SnapshotType: "mood", Timeframe: "day", SourceEvent: e.ID,
			TextRepresentation: fmt.Sprintf("mood %v", e.Data.Score),
		},
	})
}

func TestPublishReturnsWhenAllThatFollowsIsHandled(t *testing.T) {
	h := bustest.New(t)
	var vectorized []string
	router.Handle(h.Router("vectordb"), "aggregate", aggregate)
	router.Handle(h.Router("vectors"), "vectorize", func(_ context.Context, e aura360.ContextAggregated) error {
		vectorized = append(vectorized, e.ContextData.TextRepresentation)
		return nil
	})
	h.Publish(mood("u1", 7))
	h.Publish(mood("u2", 3))
	if want := []string{"mood 7", "mood 3"}; !slices.Equal(vectorized, want) {
		t.Errorf("vectorized %q, want %q", vectorized, want)
	}
	if n := len(bustest.All[aura360.ContextAggregated](h)); n != 2 {
		t.Errorf("%d contexts, want 2", n)
	}
	bustest.None[aura360.GuardianRequest](h)
}

func TestWhatAHandlerPublishesKnowsItsCause(t *testing.T) {
	h := bustest.New(t)
	var correlation, causation string
	router.Handle(h.Router("a"), "aggregate", aggregate)
	router.HandleRaw(h.Router("b"), "look", aura360.TopicContextAggregated, func(_ context.Context, m *message.Message) error {
		correlation, causation = m.Metadata[events.HeaderCorrelationID], m.Metadata[events.HeaderCausationID]
		return nil
	})
	h.Publish(mood("u1", 7))
	id := bustest.One[aura360.MoodCreated](h).ID
	if correlation != id || causation != id {
		t.Errorf("correlation %q, causation %q, want both %q", correlation, causation, id)
	}
}

func TestFailingHandlerIsRetriedThenPoisoned(t *testing.T) {
	h := bustest.New(t)
	tries := 0
	router.Handle(h.Router("g"), "fail", func(context.Context, aura360.MoodCreated) error {
		tries++
		return errors.New("the database is away")
	})
	h.Publish(mood("u1", 7))
	got := h.Poisoned()
	if tries != 20 || len(got) != 1 { // at once, and after each of three delays
		t.Fatalf("%d tries, %d poisoned, want 20 and 1", tries, len(got))
	}
	want := bustest.Poisoned{
		Group: "g", Handler: "fail", Type: "user.mood.created", ID: bustest.One[aura360.MoodCreated](h).ID,
		Reason: events.ReasonExhausted, Error: "the database is away",
	}
	body := got[0].Body
	got[0].Body = nil
	if fmt.Sprint(got[0]) != fmt.Sprint(want) {
		t.Errorf("got  %+v\nwant %+v", got[0], want)
	}
	if !strings.Contains(string(body), want.ID) {
		t.Errorf("the body is not the event: %s", body)
	}
}

// What waits for a delayed retry comes after everything else, so that it meets
// what was published after it.
func TestDelayedRetryComesAfterEverythingElse(t *testing.T) {
	for _, ordered := range []bool{false, true} {
		t.Run(fmt.Sprintf("ordered=%v", ordered), func(t *testing.T) {
			h := bustest.New(t)
			var got []string
			once := router.Config{Retry: middleware.RetryPolicy{MaxAttempts: 1}}
			known := map[string]bool{}
			router.Handle(h.Router("g", once), "moods", func(_ context.Context, e aura360.MoodCreated) error {
				got = append(got, fmt.Sprint(e.UserID, e.Data.Score))
				if e.Data.Score == 1 && !known[e.UserID] {
					return errors.New("no such user yet")
				}
				return nil
			}, router.HandlerConfig{Ordered: ordered})
			router.Handle(h.Router("g"), "profiles", func(_ context.Context, e aura360.ProfileUpdated) error {
				known[e.UserID] = true
				return nil
			})
			profile := aura360.ProfileUpdated{Base: events.Base{UserID: "b"}, Data: map[string]any{"x": 1}}
			if err := bus.PublishAll(h.Context(), mood("a", 1), mood("b", 1), mood("a", 2), profile); err != nil {
				t.Fatal(err)
			}
			h.Run()
			want := []string{"a1", "b1", "a2", "a1", "b1", "a1", "a1"}
			if ordered { // a2 waits for its turn, and the profile of b behind b1
				want = []string{"a1", "b1", "a1", "b1", "a1", "b1", "a1", "a2", "b1"}
			}
			if !slices.Equal(got, want) {
				t.Errorf("handled %q, want %q", got, want)
			}
		})
	}
}

func TestBatchHandlerGetsWhatIsThereTogether(t *testing.T) {
	h := bustest.New(t, bustest.Options{Duplicate: true})
	var got []string
	failed := false
	router.HandleBatch(h.Router("vectors"), "vectorize", func(ctx context.Context, contexts []aura360.ContextAggregated) []error {
		errs := make([]error, len(contexts))
		var line []string
		for i, e := range contexts {
			line = append(line, e.UserID)
			if e.UserID == "u2" && !failed {
				failed, errs[i] = true, errors.New("try again")
				continue
			}
			errs[i] = bus.Publish(router.ItemContext(ctx, i), aura360.ProfileUpdated{
				Base: events.Base{UserID: e.UserID}, Data: map[string]any{"vectorized": true},
			})
		}
		got = append(got, strings.Join(line, " "))
		return errs
	}, router.BatchConfig{Max: 3})
	router.Handle(h.Router("vectordb"), "aggregate", aggregate)
	if err := bus.PublishAll(h.Context(), mood("u1", 1), mood("u2", 1), mood("u3", 1), mood("u4", 1), mood("u1", 2)); err != nil {
		t.Fatal(err)
	}
	h.Run()
	// Of u1 there is one at a time; u2 fails once and comes with the next ones.
	want := []string{"u1 u2 u3", "u4 u2", "u1"}
	if !slices.Equal(got, want) {
		t.Errorf("batches %q, want %q", got, want)
	}
	if n := len(bustest.All[aura360.ProfileUpdated](h)); n != 5 {
		t.Errorf("%d profiles, want 5", n)
	}
}

func TestEachFaultShowsTheHandlerWhatItPromises(t *testing.T) {
	for name, c := range map[string]struct {
		opts bustest.Options
		want string
	}{
		"none":      {bustest.Options{}, "a1 b1 a2 b2"},
		"duplicate": {bustest.Options{Duplicate: true}, "a1 b1 a2 b2"},
		"redeliver": {bustest.Options{Redeliver: true}, "a1 b1 a2 b2 a1 b1 a2 b2"},
		"crash":     {bustest.Options{Crash: true}, strings.Join([]string{"a1", "a1", "b1", "b1", "a2", "a2", "b2", "b2"}, " ")},
		"all":       {bustest.Options{Crash: true, Duplicate: true, Redeliver: true}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			h := bustest.New(t, c.opts)
			var got []string
			router.Handle(h.Router("g"), "collect", func(_ context.Context, e aura360.MoodCreated) error {
				got = append(got, fmt.Sprint(e.UserID, e.Data.Score))
				return nil
			})
			if err := bus.PublishAll(h.Context(), mood("a", 1), mood("b", 1), mood("a", 2), mood("b", 2)); err != nil {
				t.Fatal(err)
			}
			h.Run()
			if c.want != "" && strings.Join(got, " ") != c.want {
				t.Errorf("handled %q, want %q", strings.Join(got, " "), c.want)
			}
			for _, e := range []string{"a1", "b1", "a2", "b2"} {
				if !slices.Contains(got, e) {
					t.Errorf("%s was never handled: %q", e, got)
				}
			}
		})
	}
}

func TestReorderKeepsTheOrderOfEachKey(t *testing.T) {
	changed := false
	for seed := range uint64(20) {
		h := bustest.New(t, bustest.Options{Reorder: true, Seed: seed + 1})
		last := map[string]float64{}
		var order []string
		router.Handle(h.Router("g"), "collect", func(_ context.Context, e aura360.MoodCreated) error {
			if e.Data.Score != last[e.UserID]+1 {
				t.Errorf("seed %d: user %s: %v after %v", seed, e.UserID, e.Data.Score, last[e.UserID])
			}
			last[e.UserID] = e.Data.Score
			order = append(order, e.UserID)
			return nil
		})
		var evs []events.Event
		for score := 1; score <= 5; score++ {
			evs = append(evs, mood("a", score), mood("b", score), mood("c", score))
		}
		if err := bus.PublishAll(h.Context(), evs...); err != nil {
			t.Fatal(err)
		}
		h.Run()
		changed = changed || strings.Join(order, "") != strings.Repeat("abc", 5)
	}
	if !changed {
		t.Error("no seed changed the order across keys")
	}
}

func TestTranscriptTellsWhatHappened(t *testing.T) {
	h := bustest.New(t)
	router.Handle(h.Router("g"), "fail", func(context.Context, aura360.MoodCreated) error {
		return router.Permanent(errors.New("never"))
	})
	h.Publish(mood("u1", 7))
	got := h.Transcript()
	for _, want := range []string{
		"published user.mood.created {", "g/fail: poisoned user.mood.created", "reason permanent",
		"to eventbus.poison.g",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("the transcript lacks %q:\n%s", want, got)
		}
	}
}

func Example() {
	// In a test: h := bustest.New(t).
	example := func(t testing.TB) {
		h := bustest.New(t)
		router.Handle(h.Router("vectordb"), "aggregate-context", aggregate)
		h.Publish(mood("user-123", 7))
		got := bustest.One[aura360.ContextAggregated](h)
		fmt.Println(got.UserID, got.ContextData.TextRepresentation)
	}
	example(exampleT{})
	// Output: user-123 mood 7
}

// exampleT stands in for the *testing.T that an Example does not have.
type exampleT struct{ testing.TB }

func (exampleT) Helper()        {}
func (exampleT) Cleanup(func()) {}
func (exampleT) Failed() bool   { return false }
