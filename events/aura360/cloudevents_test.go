package aura360_test

import (
	"bytes"
	"context"
	"testing"

	"github.com/cloudevents/sdk-go/v2/binding"

	"github.com/aura360/eventbus/events"
)

// The CloudEvents SDK is the oracle: what it reads from our headers and body
// must be the event we wrote.
func TestCloudEventsSDKReadsEveryType(t *testing.T) {
	source := events.SourceOf("vector db/api")
	for _, c := range catalogue {
		enc := encode(t, c.event)
		ce, err := binding.ToEvent(context.Background(), kafkaMessage{enc.Header(source), enc.Body})
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		if err := ce.Validate(); err != nil {
			t.Errorf("%s: %v", c.name, err)
		}
		type event struct{ id, typ, source, version, contentType string }
		got := event{ce.ID(), ce.Type(), ce.Source(), ce.SpecVersion(), ce.DataContentType()}
		want := event{enc.Base.ID, enc.Base.Type, "/vector%20db/api", "1.0", "application/json"}
		if got != want || !bytes.Equal(ce.Data(), enc.Body) {
			t.Errorf("%s: got %+v %s, want %+v %s", c.name, got, ce.Data(), want, enc.Body)
		}
		if len(ce.Extensions()) > 0 {
			t.Errorf("%s: extensions nobody set: %v", c.name, ce.Extensions())
		}
	}
}

func TestCloudEventsSDKAcceptsEverySource(t *testing.T) {
	enc := encode(t, catalogue[0].event)
	for _, service := range []string{
		"", "/", "//host", "api", "a:b", "8080:x", "ünï", "a b", "100%", "\xff\x00", "a?b#c",
		"https://aura360.app/api", "https://aura360.app/a b", "urn:aura360:api", "urn:", "http://[", "://",
	} {
		source := events.SourceOf(service)
		ce, err := binding.ToEvent(context.Background(), kafkaMessage{enc.Header(source), enc.Body})
		if err != nil {
			t.Errorf("SourceOf(%q) = %q: %v", service, source, err)
		} else if err := ce.Validate(); err != nil || ce.Source() != source {
			t.Errorf("SourceOf(%q) = %q: read as %q, %v", service, source, ce.Source(), err)
		}
	}
}
