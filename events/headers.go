package events

import (
	"net/url"
	"strings"
)

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

	// Delayed retries: what a message in a retry topic of its group tells about
	// the tries it had. Every one of the message's own headers stays beside them;
	// they are taken off before the next try.
	HeaderRetryDue       = "eb_retry_due"           // when its topic lets go of it; RFC 3339, UTC, microseconds
	HeaderRetryNotBefore = "eb_retry_not_before"    // when it may be tried, if that is later; the same
	HeaderRetryStep      = "eb_retry_step"          // delays used, this one included, decimal
	HeaderRetryAttempts  = "eb_retry_attempts"      // tries so far, decimal
	HeaderRetryFirst     = "eb_retry_first_failure" // RFC 3339, UTC, microseconds
	HeaderRetryGroup     = "eb_retry_group"         // consumer group whose handler failed
	HeaderRetryHandler   = "eb_retry_handler"       // handler name
	HeaderRetryTopic     = "eb_retry_topic"         // topic it was read from first
	HeaderRetryError     = "eb_retry_error"         // error chain, outermost first

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

// Header returns the ordinary metadata of the event: the three names that
// AURA360's services read, the CloudEvents attributes and, when there is one,
// the key. source is who publishes, as SourceOf writes it. The map is the
// caller's, with room for what middleware adds.
func (e Encoded) Header(source string) map[string]string {
	if source == "" {
		source = SourceOf("")
	}
	h := make(map[string]string, 12)
	h[HeaderEventID] = e.Base.ID
	h[HeaderEventType] = e.Base.Type
	h[HeaderTraceID] = e.Base.TraceID
	h[HeaderCESpecVersion] = CESpecVersion
	h[HeaderCEID] = e.Base.ID
	h[HeaderCEType] = e.Base.Type
	h[HeaderCESource] = source
	h[HeaderContentType] = ContentTypeJSON
	if e.Key != "" {
		h[HeaderKey] = e.Key
	}
	return h
}

// SourceOf makes a service's name a CloudEvents source, which must be a
// URI-reference that is not empty: "vector db" becomes "/vector%20db". A name
// that is a URL or a URN already stays as it is, and "" becomes "/unknown".
func SourceOf(service string) string {
	if isURI(service) {
		return service
	}
	service = strings.TrimLeft(service, "/") // "//x" would name a host
	if service == "" {
		service = "unknown"
	}
	const hex = "0123456789ABCDEF"
	b := make([]byte, 0, len(service)+16)
	b = append(b, '/')
	for i := range len(service) {
		if c := service[i]; unreserved(c) || c == '/' {
			b = append(b, c)
		} else {
			b = append(b, '%', hex[c>>4], hex[c&15])
		}
	}
	return string(b)
}

// unreserved is RFC 3986, section 2.3.
func unreserved(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' ||
		c == '-' || c == '.' || c == '_' || c == '~'
}

func isURI(s string) bool {
	scheme, rest, ok := strings.Cut(s, ":")
	if !ok || rest == "" || rest == "//" || scheme != "urn" && !strings.HasPrefix(rest, "//") {
		return false
	}
	u, err := url.Parse(s)
	return err == nil && u.Scheme != "" && u.String() == s
}
