package aura360

import (
	"time"

	"github.com/aura360/eventbus/events"
)

var (
	_ = events.Define[MoodCreated](TypeMoodCreated, events.Topic(TopicUserEvents))
	_ = events.Define[ActivityCreated](TypeActivityCreated, events.Topic(TopicUserEvents))
	_ = events.Define[IkigaiUpdated](TypeIkigaiUpdated, events.Topic(TopicUserEvents))
	_ = events.Define[ProfileUpdated](TypeProfileUpdated, events.Topic(TopicUserEvents))
)

// MoodCreated says that a user noted a mood.
type MoodCreated struct {
	events.Base
	Data Mood `json:"data" event:"required"`
}

// Mood is how a user felt at one time.
type Mood struct {
	MoodID    string                `json:"mood_id" event:"required"` // defaults to the event's id
	Score     float64               `json:"mood_score" event:"required"`
	Tags      []string              `json:"tags"`                        // nil is written as []
	Notes     string                `json:"notes"`                       // null is read as ""
	CreatedAt time.Time             `json:"created_at" event:"required"` // defaults to the event's timestamp
	Extra     map[string]events.Raw `json:",embed"`
}

// SetDefaults names and dates a mood after its event.
func (e *MoodCreated) SetDefaults() {
	if e.Data.MoodID == "" {
		e.Data.MoodID = e.ID
	}
	if e.Data.CreatedAt.IsZero() {
		e.Data.CreatedAt = e.Timestamp
	}
}

// ActivityCreated says that a user recorded a physical activity.
type ActivityCreated struct {
	events.Base
	Data Activity `json:"data" event:"required"`
}

// Activity is one physical activity. The wire fixes no units.
type Activity struct {
	ActivityType string                `json:"activity_type" event:"required"`
	Duration     float64               `json:"duration" event:"required"`
	Calories     float64               `json:"calories" event:"required"`
	Extra        map[string]events.Raw `json:",embed"`
}

// IkigaiUpdated says that a user changed their ikigai. It carries the whole of
// it, not the change.
type IkigaiUpdated struct {
	events.Base
	Data Ikigai `json:"data" event:"required"`
}

// Ikigai is what a user loves, what the world needs of them, what they are good
// at, and what they can be paid for.
type Ikigai struct {
	Passions    []string              `json:"passions"`
	Missions    []string              `json:"missions"`
	Vocations   []string              `json:"vocations"`
	Professions []string              `json:"professions"`
	Extra       map[string]events.Raw `json:",embed"`
}

// ProfileUpdated says that a user changed their profile.
type ProfileUpdated struct {
	events.Base
	// Data is a free object; nil is written as {}.
	Data map[string]any `json:"data"`
}
