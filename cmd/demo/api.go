package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/aura360/eventbus/bus"
	"github.com/aura360/eventbus/events"
	"github.com/aura360/eventbus/events/aura360"
)

// api is the platform's front: it takes what users do, and answers 202 once the
// bus has it.
type api struct {
	bus     *bus.Bus
	replies *replies
}

func (a *api) handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("POST /mood-entries", post[moodEntry](a))
	mux.HandleFunc("POST /activities", post[activityEntry](a))
	mux.HandleFunc("POST /guardian", a.postGuardian)
	mux.HandleFunc("GET /guardian/{request_id}", a.getGuardian)
	mux.Handle("/", a.bus.Handler())
	return mux
}

// entry is what every entry of a user has.
type entry struct {
	UserID    string    `json:"user_id"`
	CreatedAt time.Time `json:"created_at"` // defaults to now
	// EventID is optional. An entry that is sent again with the event_id and
	// created_at of a 503 is the same event, and counts once.
	EventID string `json:"event_id"`
}

func (e entry) base() (events.Base, error) {
	switch {
	case e.UserID == "" || len(e.UserID) > 200:
		return events.Base{}, fieldError{"user_id", "required, at most 200 bytes"}
	case len(e.EventID) > 200:
		return events.Base{}, fieldError{"event_id", "want at most 200 bytes"}
	case e.EventID != "" && e.CreatedAt.IsZero():
		return events.Base{}, fieldError{"created_at", "required with event_id"}
	}
	b := events.Base{ID: e.EventID, UserID: e.UserID, Timestamp: e.CreatedAt}
	if b.ID == "" { // named here rather than by Publish, to be told to the client
		b.ID = events.NewID()
	}
	if b.Timestamp.IsZero() {
		b.Timestamp = time.Now().UTC().Truncate(time.Microsecond)
	}
	return b, nil
}

// moodEntry is the body of POST /mood-entries, and a line of an input file.
type moodEntry struct {
	entry
	Score *float64 `json:"mood_score"`
	Tags  []string `json:"tags"`
	Notes string   `json:"notes"`
}

func (m moodEntry) event() (events.Event, error) {
	base, err := m.base()
	if err == nil && (m.Score == nil || *m.Score < 0 || *m.Score > 10) {
		err = fieldError{"mood_score", "required, a number from 0 to 10"}
	}
	if err != nil {
		return nil, err
	}
	return aura360.MoodCreated{Base: base, Data: aura360.Mood{Score: *m.Score, Tags: m.Tags, Notes: m.Notes}}, nil
}

type activityEntry struct {
	entry
	Type     string   `json:"activity_type"`
	Duration *float64 `json:"duration"` // minutes
	Calories *float64 `json:"calories"`
}

func (x activityEntry) event() (events.Event, error) {
	base, err := x.base()
	switch {
	case err != nil:
	case x.Type == "":
		err = fieldError{"activity_type", "required"}
	case x.Duration == nil || *x.Duration < 0:
		err = fieldError{"duration", "required, a number of minutes from 0"}
	case x.Calories == nil || *x.Calories < 0:
		err = fieldError{"calories", "required, a number from 0"}
	}
	if err != nil {
		return nil, err
	}
	return aura360.ActivityCreated{
		Base: base, Data: aura360.Activity{ActivityType: x.Type, Duration: *x.Duration, Calories: *x.Calories},
	}, nil
}

type question struct {
	UserID       string               `json:"user_id"`
	GuardianType aura360.GuardianType `json:"guardian_type"`
	Query        string               `json:"query"`
	Context      map[string]any       `json:"context"`
}

func (q question) event() (aura360.GuardianRequest, error) {
	e := aura360.GuardianRequest{
		Base:         events.Base{UserID: q.UserID},
		GuardianType: q.GuardianType, Query: q.Query, Context: q.Context, RequestID: events.NewID(),
	}
	var err error
	switch {
	case q.UserID == "" || len(q.UserID) > 200:
		err = fieldError{"user_id", "required, at most 200 bytes"}
	case e.Validate() != nil:
		err = fieldError{"guardian_type", "want mental, physical, spiritual or holistic"}
	case strings.TrimSpace(q.Query) == "":
		err = fieldError{"query", "required"}
	}
	return e, err
}

// fieldError says which field of a request is wrong.
type fieldError struct{ field, want string }

func (e fieldError) Error() string { return e.field + ": " + e.want }

// post takes a body of type T, publishes the event it stands for, and answers
// 202 with the event's id.
func post[T interface{ event() (events.Event, error) }](a *api) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		body, err := decodeJSON[T](http.MaxBytesReader(w, r.Body, maxBody))
		if err != nil {
			badRequest(w, err)
			return
		}
		e, err := body.event()
		if err != nil {
			badRequest(w, err)
			return
		}
		base := events.BaseOf(e)
		if err := a.bus.Publish(r.Context(), e); err != nil {
			notAccepted(w, err, "send it again with this event_id and created_at, and it counts once",
				map[string]any{"event_id": base.ID, "created_at": base.Timestamp})
			return
		}
		writeJSON(w, http.StatusAccepted, map[string]any{"event_id": base.ID})
	}
}

const maxBody = 64 << 10

// maxWait is how long a guardian's answer is waited for.
const maxWait = 30 * time.Second

// postGuardian passes a question on. With ?wait= it waits for the answer.
func (a *api) postGuardian(w http.ResponseWriter, r *http.Request) {
	wait, err := waitOf(r)
	if err != nil {
		badRequest(w, err)
		return
	}
	q, err := decodeJSON[question](http.MaxBytesReader(w, r.Body, maxBody))
	if err != nil {
		badRequest(w, err)
		return
	}
	e, err := q.event()
	if err != nil {
		badRequest(w, err)
		return
	}
	reply, err := a.ask(r.Context(), e)
	if err != nil {
		notAccepted(w, err, "see GET /guardian/"+e.RequestID, map[string]any{"request_id": e.RequestID})
		return
	}
	w.Header().Set("Location", "/guardian/"+e.RequestID)
	a.answer(w, r, reply, wait)
}

// ask publishes a question and returns where its reply will be.
func (a *api) ask(ctx context.Context, e aura360.GuardianRequest) (*reply, error) {
	reply := a.replies.of(e.RequestID) // before the question: its answer may be quick
	return reply, a.bus.Publish(ctx, e)
}

func (a *api) getGuardian(w http.ResponseWriter, r *http.Request) {
	wait, err := waitOf(r)
	if err != nil {
		badRequest(w, err)
		return
	}
	reply := a.replies.find(r.PathValue("request_id"))
	if reply == nil {
		writeJSON(w, http.StatusNotFound, map[string]any{"error": "no such request"})
		return
	}
	a.answer(w, r, reply, wait)
}

// answer writes the reply, or 202 when it is not there within the time.
func (a *api) answer(w http.ResponseWriter, r *http.Request, reply *reply, wait time.Duration) {
	ctx, cancel := context.WithTimeout(r.Context(), wait)
	defer cancel()
	select {
	case <-reply.done:
		writeJSON(w, http.StatusOK, reply.answer)
		return
	default:
	}
	select {
	case <-reply.done:
		writeJSON(w, http.StatusOK, reply.answer)
	case <-ctx.Done():
		writeJSON(w, http.StatusAccepted, map[string]any{"request_id": reply.id, "status": "pending"})
	}
}

func waitOf(r *http.Request) (time.Duration, error) {
	s := r.URL.Query().Get("wait")
	if s == "" {
		return 0, nil
	}
	d, err := time.ParseDuration(s)
	if err != nil || d < 0 || d > maxWait {
		return 0, fieldError{"wait", "want a duration from 0s to 30s, such as 5s"}
	}
	return d, nil
}

// decodeJSON reads one JSON object, and nothing else, of fields that T has.
func decodeJSON[T any](r io.Reader) (T, error) {
	var v T
	dec := json.NewDecoder(r)
	dec.DisallowUnknownFields()
	err := dec.Decode(&v)
	if err == nil {
		if _, trailing := dec.Token(); !errors.Is(trailing, io.EOF) {
			err = fieldError{"body", "want one JSON object"}
		}
	}
	var (
		wrong  *json.UnmarshalTypeError
		syntax *json.SyntaxError
		date   *time.ParseError
	)
	switch {
	case err == nil:
	case errors.As(err, &wrong):
		err = fieldError{cmp.Or(wrong.Field[strings.LastIndexByte(wrong.Field, '.')+1:], "body"), "JSON " + wrong.Value + " does not fit"}
	case errors.As(err, &date): // the library does not say where; there is one time in our bodies
		err = fieldError{"created_at", "want a time as RFC 3339 has it, such as 2025-06-02T07:30:00Z"}
	case errors.As(err, &syntax), errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		err = fieldError{"body", "not valid JSON"}
	case strings.HasPrefix(err.Error(), "json: unknown field "):
		err = fieldError{strings.Trim(strings.TrimPrefix(err.Error(), "json: unknown field "), `"`), "no such field"}
	}
	return v, err
}

func badRequest(w http.ResponseWriter, err error) {
	body := map[string]any{"error": err.Error()}
	status := http.StatusBadRequest
	var field fieldError
	if errors.As(err, &field) {
		body["field"] = field.field
	}
	var size *http.MaxBytesError
	if errors.As(err, &size) {
		status = http.StatusRequestEntityTooLarge
	}
	writeJSON(w, status, body)
}

// notAccepted tells a client what a failed publish means for what it tried to
// say, which body names; unknown is what to do when that cannot be told.
func notAccepted(w http.ResponseWriter, err error, unknown string, body map[string]any) {
	var refused *events.Error
	if errors.As(err, &refused) { // the event itself is wrong: waiting will not help
		badRequest(w, fieldError{cmp.Or(refused.Field, "body"), fmt.Sprint(refused.Err)})
		return
	}
	if errors.Is(err, bus.ErrUnknown) {
		body["error"] = "it may have been accepted: " + unknown
	} else {
		body["error"] = "it was not accepted: send it again later"
	}
	w.Header().Set("Retry-After", "2")
	writeJSON(w, http.StatusServiceUnavailable, body)
}

func writeJSON(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(v) // the client went away: nothing to tell it
}
