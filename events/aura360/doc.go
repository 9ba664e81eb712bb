// Package aura360 is the catalogue of the AURA360 platform's events: twelve
// types, their topics and keys. Importing it defines them all.
//
//	err := bus.Publish(ctx, aura360.MoodCreated{
//		Base: events.Base{UserID: "user-123"},
//		Data: aura360.Mood{Score: 7, Tags: []string{"happy"}},
//	})
//
// The platform's Python services write and read the same JSON, so names, types
// and topics here are a contract that outlives any one service.
//
// # What is required
//
// Every field that a type declares is required, except lists, notes and free
// objects. Publishing refuses an event that leaves a required string or time
// empty, reading refuses one in which a required field is missing or null.
// Numbers and booleans are never empty: 0 and false are values. What a
// publisher would only repeat has a default, named at the field.
//
// # What is kept
//
// Objects inside an event are open. Members that a struct here does not name are
// kept in its Extra and written again behind the named ones, sorted by name.
// Members of the event itself that its type does not name are ignored.
//
// # Numbers
//
// Python writes 30 or 30.5 as the value happens to be, so quantities are
// float64; counts and sequence numbers are int. Scores, durations and
// confidences carry no range here: no two services agree on one.
package aura360

// Topics. One topic may carry several event types.
const (
	TopicUserEvents        = "aura360.user.events"
	TopicContextAggregated = "aura360.context.aggregated"
	TopicContextVectorized = "aura360.context.vectorized"
	TopicGuardianRequests  = "aura360.guardian.requests"
	TopicGuardianResponses = "aura360.guardian.responses"
	TopicVectorIngest      = "aura360.vectordb.ingest"
)

// Event types, as the wire names them.
const (
	TypeMoodCreated           = "user.mood.created"
	TypeActivityCreated       = "user.activity.created"
	TypeIkigaiUpdated         = "user.ikigai.updated"
	TypeProfileUpdated        = "user.profile.updated"
	TypeContextAggregated     = "context.aggregated"
	TypeContextVectorized     = "context.vectorized"
	TypeGuardianRequest       = "guardian.request"
	TypeGuardianResponse      = "guardian.response"
	TypeGuardianResponseChunk = "guardian.response.chunk"
	TypeVectorIngestRequested = "vectordb.ingest.requested"
	TypeVectorIngestCompleted = "vectordb.ingest.completed"
	TypeVectorIngestFailed    = "vectordb.ingest.failed"
)
