package main

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"

	"github.com/aura360/eventbus/bus"
	"github.com/aura360/eventbus/events"
	"github.com/aura360/eventbus/events/aura360"
	"github.com/aura360/eventbus/router"
)

// aggregator is the vector service's first consumer: it puts what a user did
// into the context of what they did before.
type aggregator struct {
	mu    sync.Mutex
	users map[string]*history
}

// history is what the aggregator remembers of a user: the newest entries, each
// under its event's id, so that one handled again is not counted twice.
type history struct {
	moods      []entryOf[aura360.Mood]
	activities []entryOf[aura360.Activity]
}

type entryOf[T any] struct {
	id   string
	data T
}

const remembered = 20 // entries of each kind and user

func newAggregator() *aggregator { return &aggregator{users: map[string]*history{}} }

// Mood handles user.mood.created.
func (a *aggregator) Mood(ctx context.Context, e aura360.MoodCreated) error {
	h := a.remember(e.UserID, func(h *history) { h.moods = appendNew(h.moods, e.ID, e.Data) })
	sum := 0.0
	tags := map[string]int{}
	for _, m := range h.moods {
		sum += m.data.Score
		for _, t := range m.data.Tags {
			tags[t]++
		}
	}
	average := round(sum / float64(len(h.moods)))
	change := round(e.Data.Score - average)
	summary, err := json.Marshal(map[string]any{
		"latest": e.Data.Score, "average": average, "change": change, "entries": len(h.moods), "tags": tags,
	})
	if err != nil {
		return router.Permanent(err)
	}
	text := fmt.Sprintf("mood %.1f of 10, %s", e.Data.Score, against(change, average))
	if len(e.Data.Tags) > 0 {
		text += "; feels " + strings.Join(e.Data.Tags, ", ")
	}
	if e.Data.Notes != "" {
		text += "; notes: " + e.Data.Notes
	}
	return bus.Publish(ctx, aura360.ContextAggregated{
		Base: following(e.Base, "context"),
		ContextData: aura360.Context{
			SnapshotType: "mood", Timeframe: fmt.Sprintf("last %d entries", len(h.moods)),
			SourceEvent: e.Type, MoodSummary: summary, TextRepresentation: text,
		},
	})
}

// Activity handles user.activity.created.
func (a *aggregator) Activity(ctx context.Context, e aura360.ActivityCreated) error {
	h := a.remember(e.UserID, func(h *history) { h.activities = appendNew(h.activities, e.ID, e.Data) })
	minutes, calories := 0.0, 0.0
	kinds := map[string]int{}
	for _, x := range h.activities {
		minutes, calories = minutes+x.data.Duration, calories+x.data.Calories
		kinds[x.data.ActivityType]++
	}
	summary, err := json.Marshal(map[string]any{
		"minutes": round(minutes), "calories": round(calories), "sessions": len(h.activities), "kinds": kinds,
	})
	if err != nil {
		return router.Permanent(err)
	}
	favourite := slices.MaxFunc(slices.Sorted(maps.Keys(kinds)), func(x, y string) int { return kinds[x] - kinds[y] })
	return bus.Publish(ctx, aura360.ContextAggregated{
		Base: following(e.Base, "context"),
		ContextData: aura360.Context{
			SnapshotType: "activity", Timeframe: fmt.Sprintf("last %d sessions", len(h.activities)),
			SourceEvent: e.Type, ActivitySummary: summary,
			TextRepresentation: fmt.Sprintf("%s for %.0f minutes, %.0f kcal; lately %.0f minutes, mostly %s",
				e.Data.ActivityType, e.Data.Duration, e.Data.Calories, minutes, favourite),
		},
	})
}

// remember changes a user's history and returns a copy that is safe to read.
func (a *aggregator) remember(user string, change func(*history)) history {
	a.mu.Lock()
	defer a.mu.Unlock()
	h := a.users[user]
	if h == nil {
		h = &history{}
		a.users[user] = h
	}
	change(h)
	return history{slices.Clone(h.moods), slices.Clone(h.activities)}
}

func appendNew[T any](list []entryOf[T], id string, data T) []entryOf[T] {
	if slices.ContainsFunc(list, func(x entryOf[T]) bool { return x.id == id }) {
		return list
	}
	list = append(list, entryOf[T]{id, data})
	return list[max(0, len(list)-remembered):]
}

func against(change, average float64) string {
	switch {
	case change >= 0.5:
		return fmt.Sprintf("%.1f above their %.1f", change, average)
	case change <= -0.5:
		return fmt.Sprintf("%.1f below their %.1f", -change, average)
	}
	return fmt.Sprintf("close to their %.1f", average)
}

func round(x float64) float64 { return math.Round(x*100) / 100 }

// following returns the Base of an event that a handler publishes because of
// another. Its id and time are derived, so that a handler that runs again, after
// a crash between its publish and its ack, publishes the very same event, and
// whoever consumes it drops the copy.
func following(cause events.Base, what string) events.Base {
	return events.Base{
		ID:        uuid.NewSHA1(uuid.NameSpaceOID, []byte(cause.ID+"/"+what)).String(),
		Timestamp: cause.Timestamp,
		UserID:    cause.UserID,
	}
}

// vectorizer is the vector service's second consumer: it turns contexts into
// vectors, and keeps them.
type vectorizer struct{ store *vectorStore }

// Vectorize handles context.aggregated.
func (v vectorizer) Vectorize(ctx context.Context, e aura360.ContextAggregated) error {
	return bus.Publish(ctx, aura360.ContextVectorized{
		Base:             following(e.Base, "vectors"),
		ContextData:      e.ContextData,
		Vectors:          [][]float64{embed(e.ContextData.TextRepresentation)},
		EmbeddingModel:   embeddingModel,
		EmbeddingVersion: embeddingVersion,
	})
}

// Store handles context.vectorized. Storing one again changes nothing.
func (v vectorizer) Store(_ context.Context, e aura360.ContextVectorized) error {
	if e.EmbeddingModel != embeddingModel || e.EmbeddingVersion != embeddingVersion {
		return nil // another service's vectors: not comparable with ours
	}
	for i, vector := range e.Vectors {
		if len(vector) != dimensions {
			return router.Permanent(fmt.Errorf("vector %d has %d dimensions, want %d", i, len(vector), dimensions))
		}
		v.store.put(e.ContextData.UserID, fmt.Sprintf("%s/%d", e.ID, i), e.ContextData.TextRepresentation, vector)
	}
	return nil
}

// guardian is the agents service: it answers questions from what is stored
// about the user who asks, and about nobody else.
type guardian struct{ store *vectorStore }

// longAnswer is from where on an answer is sent in chunks, in bytes.
const longAnswer = 240

// Answer handles guardian.request.
func (g guardian) Answer(ctx context.Context, e aura360.GuardianRequest) error {
	start := time.Now()
	found := g.store.nearest(e.UserID, embed(e.Query), 3)
	text := compose(e.GuardianType, found)
	if len(text) > longAnswer {
		return g.stream(ctx, e, text)
	}
	confidence := 0.0
	sources := []map[string]any{}
	for _, m := range found {
		confidence = max(confidence, m.similarity)
		sources = append(sources, map[string]any{"text": m.text, "similarity": round(m.similarity)})
	}
	return bus.Publish(ctx, aura360.GuardianResponse{
		Base:         events.Base{UserID: e.UserID},
		GuardianType: e.GuardianType, RequestID: e.RequestID, Response: text,
		ConfidenceScore: round(confidence), RetrievalContext: sources,
		ProcessingTimeMS: float64(time.Since(start).Microseconds()) / 1000,
	})
}

// stream publishes a long answer in pieces of about 100 bytes, as one batch:
// they have one key, so they arrive in order.
func (g guardian) stream(ctx context.Context, e aura360.GuardianRequest, text string) error {
	var chunks []events.Event
	for text != "" {
		var piece string
		piece, text = cut(text, 100)
		chunks = append(chunks, aura360.GuardianResponseChunk{
			Base:         following(e.Base, fmt.Sprintf("chunk %d", len(chunks))),
			GuardianType: e.GuardianType, RequestID: e.RequestID,
			Chunk: piece, Sequence: len(chunks), IsFinal: text == "",
		})
	}
	return bus.PublishAll(ctx, chunks...)
}

// cut splits text behind the last space within the first n bytes or, without
// one, at the next.
func cut(text string, n int) (head, tail string) {
	if len(text) <= n {
		return text, ""
	}
	i := strings.LastIndexByte(text[:n], ' ')
	if i < 0 {
		if i = strings.IndexByte(text, ' '); i < 0 {
			return text, ""
		}
	}
	return text[:i+1], text[i+1:]
}

func compose(kind aura360.GuardianType, found []match) string {
	advice := map[aura360.GuardianType]string{
		aura360.GuardianMental:    "Name what you feel, and rest before you decide.",
		aura360.GuardianPhysical:  "Keep moving, a little every day, and sleep well.",
		aura360.GuardianSpiritual: "Take a quiet minute for what matters to you.",
		aura360.GuardianHolistic:  "Body and mind move together: start where it is easiest.",
	}[kind]
	if len(found) == 0 {
		return "There is nothing from you on this yet. " + advice
	}
	texts := make([]string, len(found))
	for i, m := range found {
		texts[i] = "“" + m.text + "”"
	}
	return "You told: " + strings.Join(texts, "; ") + ". " + advice
}
