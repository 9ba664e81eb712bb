package aura360

import (
	"time"

	"github.com/aura360/eventbus/events"
)

var (
	_ = events.Define[ContextAggregated](TypeContextAggregated, events.Topic(TopicContextAggregated))
	_ = events.Define[ContextVectorized](TypeContextVectorized, events.Topic(TopicContextVectorized))
)

// ContextAggregated says that a snapshot of a user's context was put together
// from what they did.
type ContextAggregated struct {
	events.Base
	ContextData Context `json:"context_data" event:"required"`
}

// SetDefaults fills the snapshot's user and time from the event, and the
// event's user, which is its key, from the snapshot.
func (e *ContextAggregated) SetDefaults() { e.ContextData.setDefaults(&e.Base) }

// ContextVectorized says that a snapshot was turned into vectors.
type ContextVectorized struct {
	events.Base
	ContextData      Context     `json:"context_data" event:"required"`
	Vectors          [][]float64 `json:"vectors"` // one per piece of the snapshot's text
	EmbeddingModel   string      `json:"embedding_model" event:"required"`
	EmbeddingVersion string      `json:"embedding_version" event:"required"`
}

// SetDefaults is ContextAggregated's.
func (e *ContextVectorized) SetDefaults() { e.ContextData.setDefaults(&e.Base) }

// Context is a snapshot of a user's state over a time frame.
type Context struct {
	UserID       string    `json:"user_id" event:"required"` // defaults to the event's
	SnapshotType string    `json:"snapshot_type" event:"required"`
	Timeframe    string    `json:"timeframe" event:"required"`
	Timestamp    time.Time `json:"timestamp" event:"required"` // defaults to the event's
	// SourceEvent names the event that the snapshot was made for.
	SourceEvent string `json:"source_event" event:"required"`
	// MoodSummary and ActivitySummary are free objects, of which a snapshot has
	// the one its source event calls for. They are kept as they came, and left
	// out when nil.
	MoodSummary     events.Raw `json:"mood_summary,omitzero"`
	ActivitySummary events.Raw `json:"activity_summary,omitzero"`
	// TextRepresentation is what will be embedded.
	TextRepresentation string                `json:"text_representation" event:"required"`
	Extra              map[string]events.Raw `json:",embed"`
}

func (c *Context) setDefaults(b *events.Base) {
	if c.UserID == "" {
		c.UserID = b.UserID
	}
	if b.UserID == "" {
		b.UserID = c.UserID
	}
	if c.Timestamp.IsZero() {
		c.Timestamp = b.Timestamp
	}
}
