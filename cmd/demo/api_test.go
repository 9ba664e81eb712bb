package main

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/aura360/eventbus/bus"
	"github.com/aura360/eventbus/bus/bustest"
	"github.com/aura360/eventbus/bus/driver"
	"github.com/aura360/eventbus/bus/membus"
	"github.com/aura360/eventbus/events/aura360"
	"github.com/aura360/eventbus/router"
)

// client talks to an API on a backend.
type client struct {
	t   *testing.T
	api *api
}

func newClient(t *testing.T, backend driver.Backend) client {
	t.Helper()
	b, err := bus.OpenWith(t.Context(), bus.Config{Logger: slog.New(slog.DiscardHandler)}, backend)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := b.Close(); err != nil {
			t.Error(err)
		}
	})
	return client{t, &api{bus: b, replies: newReplies()}}
}

func (c client) do(method, path, body string) (*http.Response, map[string]any) {
	c.t.Helper()
	w := httptest.NewRecorder()
	c.api.handler().ServeHTTP(w, httptest.NewRequest(method, path, strings.NewReader(body)))
	var got map[string]any
	if err := json.Unmarshal(w.Body.Bytes(), &got); err != nil {
		c.t.Fatalf("%s %s: status %d, body %q: %v", method, path, w.Code, w.Body, err)
	}
	return w.Result(), got
}

func TestEntryIsAnsweredWithTheIDOfItsEvent(t *testing.T) {
	h := bustest.New(t)
	c := client{t, &api{bus: h.Bus(), replies: newReplies()}}
	r, got := c.do("POST", "/mood-entries", `{"user_id":"u1","mood_score":7,"tags":["calm"],"notes":"dia bom"}`)
	equal(t, 202, r.StatusCode)
	mood := bustest.One[aura360.MoodCreated](h)
	equal(t, any(mood.ID), got["event_id"])
	equal(t, []any{"u1", 7.0, "dia bom"}, []any{mood.UserID, mood.Data.Score, mood.Data.Notes})

	r, got = c.do("POST", "/activities", `{"user_id":"u1","activity_type":"running","duration":30,"calories":0}`)
	equal(t, 202, r.StatusCode)
	equal(t, any(bustest.One[aura360.ActivityCreated](h).ID), got["event_id"])
}

func TestWrongRequestNamesItsField(t *testing.T) {
	c := newClient(t, membus.Open(membus.Config{}))
	for _, x := range []struct{ path, body, field string }{
		{"/mood-entries", `{"mood_score":7}`, "user_id"},
		{"/mood-entries", `{"user_id":"u1"}`, "mood_score"},
		{"/mood-entries", `{"user_id":"u1","mood_score":11}`, "mood_score"},
		{"/mood-entries", `{"user_id":"u1","mood_score":"high"}`, "mood_score"},
		{"/mood-entries", `{"user_id":"u1","mood_score":7,"tags":"calm"}`, "tags"},
		{"/mood-entries", `{"user_id":"u1","mood_score":7,"created_at":"yesterday"}`, "created_at"},
		{"/mood-entries", `{"user_id":"u1","mood_score":7,"event_id":"e1"}`, "created_at"},
		{"/mood-entries", `{"user_id":"u1","mood_score":7,"mod_id":"x"}`, "mod_id"},
		{"/mood-entries", `{"user_id":"u1","mood_score":7} {}`, "body"},
		{"/mood-entries", `{"user_id":`, "body"},
		{"/mood-entries", ``, "body"},
		{"/mood-entries", `[]`, "body"},
		{"/activities", `{"user_id":"u1","duration":1,"calories":1}`, "activity_type"},
		{"/activities", `{"user_id":"u1","activity_type":"running","calories":1}`, "duration"},
		{"/activities", `{"user_id":"u1","activity_type":"running","duration":1,"calories":-1}`, "calories"},
		{"/guardian", `{"user_id":"u1","guardian_type":"financial","query":"?"}`, "guardian_type"},
		{"/guardian", `{"user_id":"u1","guardian_type":"mental","query":" "}`, "query"},
		{"/guardian?wait=1h", `{"user_id":"u1","guardian_type":"mental","query":"?"}`, "wait"},
	} {
		r, got := c.do("POST", x.path, x.body)
		if r.StatusCode != http.StatusBadRequest || got["field"] != x.field {
			t.Errorf("POST %s %s: %d %v, want 400 for field %q", x.path, x.body, r.StatusCode, got, x.field)
		}
	}
	r, _ := c.do("POST", "/mood-entries", `{"user_id":"u1","notes":"`+strings.Repeat("x", maxBody)+`"}`)
	equal(t, 413, r.StatusCode)
}

// failing is a backend whose publishes come out as they are told to.
type failing struct {
	driver.Backend
	outcome driver.Outcome
}

func (f failing) Publish(_ context.Context, topic string, msgs ...*message.Message) error {
	return driver.Fail("memory", topic, len(msgs), f.outcome, errors.New("no answer"))
}

func TestFailedPublishSaysWhetherTheEventMayHaveBeenAccepted(t *testing.T) {
	body := `{"user_id":"u1","mood_score":7,"event_id":"e1","created_at":"2025-06-02T07:30:00Z"}`
	for outcome, says := range map[driver.Outcome]string{
		driver.Rejected: "was not accepted", driver.Unknown: "may have been accepted",
	} {
		synctest.Test(t, func(t *testing.T) {
			c := newClient(t, failing{membus.Open(membus.Config{}), outcome})
			r, got := c.do("POST", "/mood-entries", body)
			equal(t, 503, r.StatusCode)
			equal(t, "2", r.Header.Get("Retry-After"))
			equal(t, any("e1"), got["event_id"])
			equal(t, any("2025-06-02T07:30:00Z"), got["created_at"])
			if !strings.Contains(got["error"].(string), says) {
				t.Errorf("%v: %v, want %q in it", outcome, got["error"], says)
			}
			r, got = c.do("POST", "/guardian", `{"user_id":"u1","guardian_type":"mental","query":"?"}`)
			equal(t, 503, r.StatusCode)
			if id, _ := got["request_id"].(string); id == "" {
				t.Errorf("%v: no request_id in %v", outcome, got)
			}
		})
	}
}

// A client that did not hear whether its entry was accepted sends it again.
func TestEntrySentAgainCountsOnce(t *testing.T) {
	h := bustest.New(t)
	counted := 0
	router.Handle(h.Router("counter"), "count", func(context.Context, aura360.MoodCreated) error {
		counted++
		return nil
	})
	c := client{t, &api{bus: h.Bus(), replies: newReplies()}}
	for range 2 {
		c.do("POST", "/mood-entries", `{"user_id":"u1","mood_score":7,"event_id":"e1","created_at":"2025-06-02T07:30:00Z"}`)
	}
	h.Run()
	equal(t, 1, counted)
}

func TestGuardianAnswersFromWhatIsStored(t *testing.T) {
	h := bustest.New(t)
	c := client{t, &api{bus: h.Bus(), replies: newReplies()}}
	store := newVectorStore()
	router.Handle(h.Router("vectordb-context-aggregator"), "aggregate", newAggregator().Mood)
	router.Handle(h.Router("vectordb-vectorization"), "vectorize", vectorizer{store}.Vectorize)
	router.Handle(h.Router("vectordb-vectorization"), "store", vectorizer{store}.Store)
	router.Handle(h.Router("agents-guardian"), "answer", guardian{store}.Answer)
	router.Handle(h.Router("agents-guardian-responses"), "reply", c.api.replies.Whole)
	router.Handle(h.Router("agents-guardian-responses"), "reply-chunk", c.api.replies.Chunk)

	ask := func(user string) map[string]any {
		t.Helper()
		r, got := c.do("POST", "/guardian", `{"user_id":"`+user+`","guardian_type":"mental","query":"why slept badly?"}`)
		equal(t, 202, r.StatusCode)
		equal(t, any("pending"), got["status"])
		h.Run()
		r, answer := c.do("GET", "/guardian/"+got["request_id"].(string)+"?wait=1s", "")
		equal(t, 200, r.StatusCode)
		equal(t, got["request_id"], answer["request_id"])
		return answer
	}
	c.do("POST", "/mood-entries", `{"user_id":"u1","mood_score":3,"notes":"slept badly"}`)
	h.Run()
	if text := ask("u1")["response"].(string); !strings.Contains(text, "slept badly") {
		t.Errorf("the answer does not rest on the note: %s", text)
	}
	if text := ask("u2")["response"].(string); strings.Contains(text, "slept") {
		t.Errorf("the answer tells another user's note: %s", text)
	}
	for _, notes := range []string{"slept badly, a heavy day at work, and rain", "slept badly, too much coffee, and noise"} {
		c.do("POST", "/mood-entries", `{"user_id":"u1","mood_score":3,"notes":"`+notes+`"}`)
	}
	h.Run()
	answer := ask("u1")
	if n, _ := answer["chunks"].(float64); n < 2 {
		t.Errorf("a long answer did not come in chunks: %v", answer)
	}
	equal(t, 3, strings.Count(answer["response"].(string), "slept badly"))

	r, _ := c.do("GET", "/guardian/unheard-of", "")
	equal(t, 404, r.StatusCode)
}

func TestChunksMakeTheAnswerInAnyOrder(t *testing.T) {
	r := newReplies()
	chunk := func(seq int, text string, final bool) {
		e := aura360.GuardianResponseChunk{RequestID: "r1", Chunk: text, Sequence: seq, IsFinal: final}
		if err := r.Chunk(t.Context(), e); err != nil {
			t.Fatal(err)
		}
	}
	chunk(2, "c", true)
	chunk(0, "a", false)
	chunk(0, "a", false)
	select {
	case <-r.of("r1").done:
		t.Fatal("done without its second chunk")
	default:
	}
	chunk(1, "b", false)
	<-r.of("r1").done
	equal(t, "abc", r.of("r1").answer.Response)
	chunk(1, "changed", false)
	equal(t, "abc", r.of("r1").answer.Response)
}

func TestOperatorsPagesAreServed(t *testing.T) {
	c := newClient(t, membus.Open(membus.Config{}))
	for _, path := range []string{"/healthz", "/readyz", "/metrics", "/status", "/health"} {
		w := httptest.NewRecorder()
		c.api.handler().ServeHTTP(w, httptest.NewRequest(http.MethodGet, path, nil))
		if w.Code != 200 || w.Body.Len() == 0 {
			t.Errorf("GET %s: %d with %d bytes", path, w.Code, w.Body.Len())
		}
	}
}
