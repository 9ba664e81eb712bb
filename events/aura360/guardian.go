package aura360

import (
	"errors"

	"github.com/aura360/eventbus/events"
)

var (
	_ = events.Define[GuardianRequest](TypeGuardianRequest, events.Topic(TopicGuardianRequests))
	_ = events.Define[GuardianResponse](TypeGuardianResponse, events.Topic(TopicGuardianResponses))
	_ = events.Define[GuardianResponseChunk](TypeGuardianResponseChunk, events.Topic(TopicGuardianResponses))
)

// GuardianType is the kind of agent that answers.
type GuardianType string

// The guardians there are. A type not among them is refused when publishing and
// handed on when reading, so that a new guardian needs no new build of those
// who only pass its events along.
const (
	GuardianMental    GuardianType = "mental"
	GuardianPhysical  GuardianType = "physical"
	GuardianSpiritual GuardianType = "spiritual"
	GuardianHolistic  GuardianType = "holistic"
)

var errGuardianType = errors.New("guardian_type: want mental, physical, spiritual or holistic")

func (g GuardianType) validate() error {
	switch g {
	case GuardianMental, GuardianPhysical, GuardianSpiritual, GuardianHolistic:
		return nil
	}
	return errGuardianType
}

// guardianKey orders a conversation: by its user, or, when that is not known,
// by its request.
func guardianKey(userID, requestID string) string {
	if userID != "" {
		return userID
	}
	return requestID
}

// GuardianRequest asks a guardian. The answer is a GuardianResponse, or
// GuardianResponseChunks, with the same RequestID.
type GuardianRequest struct {
	events.Base
	GuardianType GuardianType `json:"guardian_type" event:"required"`
	Query        string       `json:"query" event:"required"`
	// Context is a free object; nil is written as {}.
	Context   map[string]any `json:"context"`
	RequestID string         `json:"request_id" event:"required"` // defaults to a new UUIDv7
}

// Key is the user id if there is one, else the request id.
func (e GuardianRequest) Key() string { return guardianKey(e.UserID, e.RequestID) }

// SetDefaults gives the request an id.
func (e *GuardianRequest) SetDefaults() {
	if e.RequestID == "" {
		e.RequestID = events.NewID()
	}
}

// Validate refuses a guardian that does not exist.
func (e GuardianRequest) Validate() error { return e.GuardianType.validate() }

// GuardianResponse is a guardian's whole answer.
type GuardianResponse struct {
	events.Base
	GuardianType    GuardianType `json:"guardian_type" event:"required"`
	RequestID       string       `json:"request_id" event:"required"` // the request's
	Response        string       `json:"response" event:"required"`
	ConfidenceScore float64      `json:"confidence_score" event:"required"`
	// RetrievalContext is what the answer rests on; nil is written as [].
	RetrievalContext []map[string]any `json:"retrieval_context"`
	ProcessingTimeMS float64          `json:"processing_time_ms" event:"required"` // milliseconds
}

// Key is the user id if there is one, else the request id.
func (e GuardianResponse) Key() string { return guardianKey(e.UserID, e.RequestID) }

// Validate refuses a guardian that does not exist.
func (e GuardianResponse) Validate() error { return e.GuardianType.validate() }

// GuardianResponseChunk is a piece of an answer that is sent as it is made.
type GuardianResponseChunk struct {
	events.Base
	GuardianType GuardianType `json:"guardian_type" event:"required"`
	RequestID    string       `json:"request_id" event:"required"` // the request's
	// Chunk may be empty: the last one often only says that it is the last.
	Chunk    string `json:"chunk" event:"present"`
	Sequence int    `json:"sequence" event:"required"` // from 0, without gaps
	IsFinal  bool   `json:"is_final" event:"required"`
}

// Key is the user id if there is one, else the request id.
func (e GuardianResponseChunk) Key() string { return guardianKey(e.UserID, e.RequestID) }

// Validate refuses a guardian that does not exist.
func (e GuardianResponseChunk) Validate() error { return e.GuardianType.validate() }
