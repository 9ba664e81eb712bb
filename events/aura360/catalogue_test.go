package aura360_test

import (
	"bytes"
	"flag"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/aura360/eventbus/events"
	"github.com/aura360/eventbus/events/aura360"
)

var update = flag.Bool("update", false, "write the golden files anew")

var at = time.Date(2025, 1, 7, 12, 34, 56, 123456000, time.UTC)

func base(user string) events.Base {
	return events.Base{ID: "0194a2c0-1111-7abc-8def-0123456789ab", Timestamp: at, UserID: user}
}

func snapshot() aura360.Context {
	return aura360.Context{
		SnapshotType: "mood", Timeframe: "24h", SourceEvent: aura360.TypeMoodCreated,
		MoodSummary:        events.Raw(`{"avg":7.0,"count":3}`),
		TextRepresentation: "mood 7 of 10, \"calm\"",
	}
}

// catalogue holds one event of each type, as a Go service publishes it.
var catalogue = []struct {
	name  string
	topic string
	key   string
	event events.Event
}{
	{"mood_created", "aura360.user.events", "user-123", aura360.MoodCreated{
		Base: events.Base{
			ID: "0194a2c0-1111-7abc-8def-0123456789ab", Timestamp: at, UserID: "user-123",
			TraceID: "4bf92f3577b34da6a3ce929d0e0e4736", Metadata: map[string]any{"b": 1, "a": []any{"x", nil, true}},
		},
		Data: aura360.Mood{
			Score: 7, Tags: []string{"happy", "☕"}, Notes: "slept <well> & long",
			Extra: map[string]events.Raw{"weather": events.Raw(`"sun"`), "energy": events.Raw(`7.50`)},
		},
	}},
	{"activity_created", "aura360.user.events", "user-123", aura360.ActivityCreated{
		Base: base("user-123"), Data: aura360.Activity{ActivityType: "running", Duration: 30, Calories: 312.5},
	}},
	{"ikigai_updated", "aura360.user.events", "user-123", aura360.IkigaiUpdated{
		Base: base("user-123"), Data: aura360.Ikigai{Passions: []string{"music"}, Professions: []string{"nurse"}},
	}},
	{"profile_updated", "aura360.user.events", "user-123", aura360.ProfileUpdated{
		Base: base("user-123"), Data: map[string]any{"name": "Ana", "age": 41, "nested": map[string]any{"z": 1.5, "a": nil}},
	}},
	{"context_aggregated", "aura360.context.aggregated", "user-123", aura360.ContextAggregated{
		Base: base("user-123"), ContextData: snapshot(),
	}},
	{"context_vectorized", "aura360.context.vectorized", "user-123", aura360.ContextVectorized{
		Base: base("user-123"), ContextData: snapshot(), Vectors: [][]float64{{0.1, -0.25, 1e-7}, {1, 0, 3}},
		EmbeddingModel: "text-embedding-3-small", EmbeddingVersion: "2024-01",
	}},
	{"guardian_request", "aura360.guardian.requests", "req-1", aura360.GuardianRequest{
		Base: base(""), GuardianType: aura360.GuardianMental, Query: "how do I sleep better?",
		Context: map[string]any{"locale": "en"}, RequestID: "req-1",
	}},
	{"guardian_response", "aura360.guardian.responses", "user-123", aura360.GuardianResponse{
		Base: base("user-123"), GuardianType: aura360.GuardianHolistic, RequestID: "req-1", Response: "breathe",
		ConfidenceScore: 0.93, RetrievalContext: []map[string]any{{"doc_id": "d1", "score": 0.5}}, ProcessingTimeMS: 812.5,
	}},
	{"guardian_response_chunk", "aura360.guardian.responses", "req-1", aura360.GuardianResponseChunk{
		Base: base(""), GuardianType: aura360.GuardianSpiritual, RequestID: "req-1", Sequence: 3, IsFinal: true,
	}},
	{"vector_ingest_requested", "aura360.vectordb.ingest", "user-123", aura360.VectorIngestRequested{
		Base: base("user-123"), CollectionName: "user_context", Vectors: [][]float64{{0.5, 0.25}},
		Payloads: []map[string]any{{"chunk": 0}}, IngestID: "ing-1",
	}},
	{"vector_ingest_completed", "aura360.vectordb.ingest", "user-123", aura360.VectorIngestCompleted{
		Base: base("user-123"), CollectionName: "user_context", IngestID: "ing-1", NumVectors: 2, ProcessingTimeMS: 15,
	}},
	{"vector_ingest_failed", "aura360.vectordb.ingest", "user-123", aura360.VectorIngestFailed{
		Base: base("user-123"), CollectionName: "user_context", IngestID: "ing-1", ErrorMessage: "refused", ErrorType: "ConnectionError",
	}},
}

func encode(t testing.TB, e events.Event) events.Encoded {
	t.Helper()
	enc, err := events.Encode(e, events.Base{})
	if err != nil {
		t.Fatal(err)
	}
	return enc
}

func golden(t *testing.T, path string, got []byte) {
	t.Helper()
	got = append(bytes.Clone(got), '\n')
	if *update {
		if err := os.WriteFile(path, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("%s:\n got %s\nwant %s", path, got, want)
	}
}

func TestCatalogueHasEveryTypeOfThePackage(t *testing.T) {
	have := map[string]bool{}
	for _, c := range catalogue {
		have[encode(t, c.event).Base.Type] = true
	}
	n := 0
	for _, d := range events.Definitions() {
		if strings.HasSuffix(d.GoType.PkgPath(), "/aura360") {
			n++
			if !have[d.Type] {
				t.Errorf("%s has no sample", d.Type)
			}
		}
	}
	if n != 12 {
		t.Errorf("%d types defined: want 12", n)
	}
}

func TestGoldenWhatGoWrites(t *testing.T) {
	for _, c := range catalogue {
		t.Run(c.name, func(t *testing.T) {
			enc := encode(t, c.event)
			golden(t, filepath.Join("testdata", c.name+".json"), enc.Body)
			if enc.Definition.Topic != c.topic || enc.Key != c.key {
				t.Errorf("topic %q key %q: want %q, %q", enc.Definition.Topic, enc.Key, c.topic, c.key)
			}
			again, err := enc.Definition.Decode(enc.Header("/x"), enc.Body)
			if err != nil {
				t.Fatal(err)
			}
			if got := encode(t, again).Body; !bytes.Equal(got, enc.Body) {
				t.Errorf("decoded and encoded again:\n got %s\nwant %s", got, enc.Body)
			}
		})
	}
}

func TestGoldenWhatPythonWrites(t *testing.T) {
	for _, c := range catalogue {
		t.Run(c.name, func(t *testing.T) {
			body, err := os.ReadFile(filepath.Join("testdata", "python", c.name+".json"))
			if err != nil {
				t.Fatal(err)
			}
			typ, err := events.TypeOf(nil, body)
			if err != nil {
				t.Fatal(err)
			}
			d, ok := events.Lookup(typ)
			if !ok || d.GoType != reflect.TypeOf(c.event) {
				t.Fatalf("type %q: want %T", typ, c.event)
			}
			e, err := d.Decode(nil, body)
			if err != nil {
				t.Fatal(err)
			}
			if b := events.BaseOf(e); !b.Timestamp.Equal(at) || b.Timestamp.Location() != time.UTC {
				t.Errorf("timestamp %v: want %v", b.Timestamp, at)
			}
			golden(t, filepath.Join("testdata", "python", c.name+".golden"), encode(t, e).Body)
		})
	}
}

func TestPythonMoodIsReadWhole(t *testing.T) {
	body, err := os.ReadFile("testdata/python/mood_created.json")
	if err != nil {
		t.Fatal(err)
	}
	got, err := events.Decode[aura360.MoodCreated](nil, body)
	if err != nil {
		t.Fatal(err)
	}
	want := aura360.MoodCreated{
		Base: events.Base{
			ID: "6f1c2a52-9c5e-4a3f-8f43-0d4c6d1f7a10", Type: "user.mood.created", Timestamp: at, UserID: "user-123", Version: 1,
			Metadata: map[string]any{"origin": "mobile", "snowflake": events.Raw("1234567890123456789"), "ratio": 0.1},
		},
		Data: aura360.Mood{
			MoodID: "mood-9", Score: 7.5, Tags: []string{"feliz", "café ☕", "🙂"}, CreatedAt: at.Truncate(time.Second),
			Extra: map[string]events.Raw{"energy_level": events.Raw("10"), "source": events.Raw(`{"app": "ios", "build": 12345678901234567890}`)},
		},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("\n got %+v\nwant %+v", got, want)
	}
}

func TestDefaultsFollowTheEvent(t *testing.T) {
	mood := aura360.MoodCreated{Base: events.Base{UserID: "user-123"}, Data: aura360.Mood{Score: 7, Tags: []string{"happy"}}}
	enc := encode(t, mood)
	got, err := events.Decode[aura360.MoodCreated](nil, enc.Body)
	if err != nil {
		t.Fatal(err)
	}
	if got.Data.MoodID != enc.Base.ID || !got.Data.CreatedAt.Equal(enc.Base.Timestamp) {
		t.Errorf("mood %q at %v: want the event's %q, %v", got.Data.MoodID, got.Data.CreatedAt, enc.Base.ID, enc.Base.Timestamp)
	}
	if mood.ID != "" || mood.Data.MoodID != "" {
		t.Error("Encode changed the publisher's value")
	}

	for _, e := range []events.Event{
		&aura360.ContextAggregated{Base: events.Base{UserID: "u"}, ContextData: snapshot()},
		aura360.ContextAggregated{ContextData: func() aura360.Context { c := snapshot(); c.UserID = "u"; return c }()},
	} {
		enc := encode(t, e)
		got, err := events.Decode[aura360.ContextAggregated](nil, enc.Body)
		if err != nil {
			t.Fatal(err)
		}
		if got.UserID != "u" || got.ContextData.UserID != "u" || enc.Key != "u" || !got.ContextData.Timestamp.Equal(got.Timestamp) {
			t.Errorf("got %+v, key %q", got, enc.Key)
		}
	}

	req, err := events.Decode[aura360.GuardianRequest](nil,
		encode(t, aura360.GuardianRequest{GuardianType: aura360.GuardianPhysical, Query: "q"}).Body)
	if err != nil || len(req.RequestID) != 36 || req.Key() != req.RequestID {
		t.Errorf("request %+v, %v", req, err)
	}
	ing, err := events.Decode[aura360.VectorIngestRequested](nil, encode(t, aura360.VectorIngestRequested{CollectionName: "c"}).Body)
	if err != nil || len(ing.IngestID) != 36 || ing.Key() != "" {
		t.Errorf("ingest %+v, %v", ing, err)
	}
}

func TestPublishingRefusesAnUnknownGuardian(t *testing.T) {
	for _, e := range []events.Event{
		aura360.GuardianRequest{GuardianType: "astral", Query: "q"},
		aura360.GuardianResponse{GuardianType: "astral", RequestID: "r", Response: "x"},
		aura360.GuardianResponseChunk{GuardianType: "astral", RequestID: "r"},
	} {
		_, err := events.Encode(e, events.Base{})
		if events.ReasonOf(err) != events.ReasonInvalid || strings.Contains(err.Error(), "astral") {
			t.Errorf("%T: %v", e, err)
		}
	}
	body := bytes.Replace(encode(t, catalogue[6].event).Body, []byte(`"mental"`), []byte(`"astral"`), 1)
	if got, err := events.Decode[aura360.GuardianRequest](nil, body); err != nil || got.GuardianType != "astral" {
		t.Errorf("reading one: %+v, %v", got, err)
	}
}

// requiredNames is the contract: what each type must carry besides the common
// fields. Lists, notes and free objects are not in it.
var requiredNames = map[string][]string{
	"mood_created":            {"data", "data.mood_id", "data.mood_score", "data.created_at"},
	"activity_created":        {"data", "data.activity_type", "data.duration", "data.calories"},
	"ikigai_updated":          {"data"},
	"profile_updated":         {},
	"context_aggregated":      {"context_data", "context_data.user_id", "context_data.snapshot_type", "context_data.timeframe", "context_data.timestamp", "context_data.source_event", "context_data.text_representation"},
	"context_vectorized":      {"context_data", "context_data.user_id", "context_data.snapshot_type", "context_data.timeframe", "context_data.timestamp", "context_data.source_event", "context_data.text_representation", "embedding_model", "embedding_version"},
	"guardian_request":        {"guardian_type", "query", "request_id"},
	"guardian_response":       {"guardian_type", "request_id", "response", "confidence_score", "processing_time_ms"},
	"guardian_response_chunk": {"guardian_type", "request_id", "chunk", "sequence", "is_final"},
	"vector_ingest_requested": {"collection_name", "ingest_id"},
	"vector_ingest_completed": {"collection_name", "ingest_id", "num_vectors", "processing_time_ms"},
	"vector_ingest_failed":    {"collection_name", "ingest_id", "error_message", "error_type"},
}

// TestReadingNeedsExactlyTheRequiredFields takes every member of every event
// away, and then makes it null.
func TestReadingNeedsExactlyTheRequiredFields(t *testing.T) {
	for _, c := range catalogue {
		d, _ := events.DefinitionOf(c.event)
		body := encode(t, c.event).Body
		want := map[string]bool{"event_id": true, "event_type": true, "timestamp": true}
		for _, n := range requiredNames[c.name] {
			want[n] = true
		}
		for _, path := range memberPaths(t, body) {
			for _, null := range []bool{false, true} {
				_, err := d.Decode(nil, without(t, body, path, null))
				switch {
				case want[path] && events.ReasonOf(err) != events.ReasonInvalid:
					t.Errorf("%s without %s (null %v): %v: want it refused", c.name, path, null, err)
				case want[path] && !strings.Contains(err.Error(), path):
					t.Errorf("%s without %s: %v: want the field named", c.name, path, err)
				case !want[path] && err != nil:
					t.Errorf("%s without %s (null %v): %v", c.name, path, null, err)
				}
			}
			delete(want, path)
		}
		if len(want) > 0 {
			t.Errorf("%s: never written: %v", c.name, want)
		}
	}
}
