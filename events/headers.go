package events

// Names of the metadata that travels beside an event's body: Kafka headers,
// the metadata field of a Redis stream entry. All of them are lower case.
//
// Headers are not free (each costs bytes, a map entry and a copy on either
// side), so an ordinary event carries at most twelve of these.
const (
	// CloudEvents 1.0, Kafka protocol binding, binary content mode: attributes
	// are prefixed "ce_", the data's media type is "content-type".
	// https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/bindings/kafka-protocol-binding.md
	HeaderCESpecVersion = "ce_specversion"
	HeaderCEID          = "ce_id"
	HeaderCEType        = "ce_type"
	HeaderCESource      = "ce_source"
	HeaderContentType   = "content-type"

	// What AURA360's Python services read. HeaderTraceID is present and empty
	// when there is no trace.
	HeaderEventID   = "event_id"
	HeaderEventType = "event_type"
	HeaderTraceID   = "trace_id"

	// HeaderEventVersion is read, for producers that cannot write it into the
	// body; the bus itself writes the version as the body's event_version.
	HeaderEventVersion = "event_version"

	// W3C Trace Context and Baggage, present when there is a trace.
	HeaderTraceParent = "traceparent"
	HeaderTraceState  = "tracestate"
	HeaderBaggage     = "baggage"

	// HeaderCorrelationID names the first event of a chain,
	// HeaderCausationID the event whose handling published this one.
	HeaderCorrelationID = "correlation_id"
	HeaderCausationID   = "causation_id"
)

// Names the bus keeps for itself, prefix "eb_".
const (
	// HeaderKey carries the event's key between the bus and a driver. On Kafka
	// it is the record's key, never a header; other backends carry it as is.
	HeaderKey = "eb_key"
	// HeaderMalformed is set by a driver, never on the wire, on a message that
	// its adapter could not read as one; it holds the reason. The payload then
	// is whatever bytes there were.
	HeaderMalformed = "eb_malformed"
	// HeaderTargetGroup limits a redriven message to one consumer group.
	HeaderTargetGroup = "eb_target_group"
	// HeaderGeneration is set on a message that an operator sends to its group
	// again (redrive, replay, reset): another value each time, so that it is not
	// taken for a duplicate of the first delivery.
	HeaderGeneration = "eb_generation"

	// Poison: why and where a message was given up. Every one of the message's
	// own headers stays beside them.
	HeaderPoisonReason   = "eb_poison_reason"        // one of the Reason constants
	HeaderPoisonError    = "eb_poison_error"         // error chain, outermost first
	HeaderPoisonHandler  = "eb_poison_handler"       // handler name
	HeaderPoisonGroup    = "eb_poison_group"         // consumer group
	HeaderPoisonTopic    = "eb_poison_topic"         // topic it was read from
	HeaderPoisonAttempts = "eb_poison_attempts"      // tries, decimal
	HeaderPoisonFirst    = "eb_poison_first_failure" // RFC 3339, UTC, microseconds
	HeaderPoisonLast     = "eb_poison_last_failure"  // the same
	HeaderPoisonBackend  = "eb_poison_backend"       // backend it was read from
	HeaderPoisonHost     = "eb_poison_host"          // host name of the process
	HeaderPoisonUUID     = "eb_poison_uuid"          // the message's Watermill UUID
	// A message too large for the poison queue is kept cut.
	HeaderPoisonSize   = "eb_poison_size"   // bytes of the whole body, decimal
	HeaderPoisonSHA256 = "eb_poison_sha256" // of the whole body, hexadecimal
	HeaderPoisonSource = "eb_poison_source" // where the whole one was read from
)

// Values of the CloudEvents headers that never change.
const (
	CESpecVersion   = "1.0"
	ContentTypeJSON = "application/json"
)
