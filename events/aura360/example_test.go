package aura360_test

import (
	"fmt"

	"github.com/aura360/eventbus/events"
	"github.com/aura360/eventbus/events/aura360"
)

func Example() {
	enc, err := events.Encode(aura360.MoodCreated{
		Base: events.Base{UserID: "user-123"},
		Data: aura360.Mood{Score: 7, Tags: []string{"happy"}},
	}, events.Base{})
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(enc.Definition.Topic, enc.Key)

	e, err := events.Decode[aura360.MoodCreated](enc.Header("/api"), enc.Body)
	fmt.Println(e.Data.Score, e.Data.Tags, e.Data.MoodID == e.ID, e.Data.CreatedAt.Equal(e.Timestamp), err)
	// Output:
	// aura360.user.events user-123
	// 7 [happy] true true <nil>
}

// What a struct does not name is kept.
func ExampleContext() {
	body := []byte(`{"event_id": "1", "event_type": "context.aggregated", "timestamp": "2025-01-07T12:34:56.123456",
		"trace_id": null, "user_id": "user-123", "metadata": {},
		"context_data": {"user_id": "user-123", "snapshot_type": "mood", "timeframe": "24h",
			"timestamp": "2025-01-07T12:34:56.123456", "source_event": "user.mood.created",
			"mood_summary": {"average": 7.0}, "text_representation": "calm", "topics": ["sleep"]}}`)
	e, err := events.Decode[aura360.ContextAggregated](nil, body)
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(e.ContextData.MoodSummary, e.ContextData.Extra)
	// Output: {"average": 7.0} map[topics:["sleep"]]
}
