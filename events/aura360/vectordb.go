package aura360

import "github.com/aura360/eventbus/events"

var (
	_ = events.Define[VectorIngestRequested](TypeVectorIngestRequested, events.Topic(TopicVectorIngest))
	_ = events.Define[VectorIngestCompleted](TypeVectorIngestCompleted, events.Topic(TopicVectorIngest))
	_ = events.Define[VectorIngestFailed](TypeVectorIngestFailed, events.Topic(TopicVectorIngest))
)

// VectorIngestRequested asks for vectors to be stored in a collection of the
// vector database. The answer is a VectorIngestCompleted or VectorIngestFailed
// with the same IngestID.
type VectorIngestRequested struct {
	events.Base
	CollectionName string           `json:"collection_name" event:"required"`
	Vectors        [][]float64      `json:"vectors"`                    // nil is written as []
	Payloads       []map[string]any `json:"payloads"`                   // one free object per vector; nil is written as []
	IngestID       string           `json:"ingest_id" event:"required"` // defaults to a new UUIDv7
}

// SetDefaults gives the request an id.
func (e *VectorIngestRequested) SetDefaults() {
	if e.IngestID == "" {
		e.IngestID = events.NewID()
	}
}

// VectorIngestCompleted says that vectors were stored.
type VectorIngestCompleted struct {
	events.Base
	CollectionName   string  `json:"collection_name" event:"required"`
	IngestID         string  `json:"ingest_id" event:"required"` // the request's
	NumVectors       int     `json:"num_vectors" event:"required"`
	ProcessingTimeMS float64 `json:"processing_time_ms" event:"required"` // milliseconds
}

// VectorIngestFailed says that vectors could not be stored.
type VectorIngestFailed struct {
	events.Base
	CollectionName string `json:"collection_name" event:"required"`
	IngestID       string `json:"ingest_id" event:"required"` // the request's
	ErrorMessage   string `json:"error_message" event:"required"`
	ErrorType      string `json:"error_type" event:"required"` // Python writes the exception's class
}
