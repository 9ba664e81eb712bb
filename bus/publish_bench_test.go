package bus_test

import (
	"context"
	"slices"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/aura360/eventbus/bus"
	"github.com/aura360/eventbus/bus/driver"
	"github.com/aura360/eventbus/events"
	"github.com/aura360/eventbus/events/aura360"
)

// nowhere confirms every message at once.
type nowhere struct{}

func (nowhere) Name() string                      { return "nowhere" }
func (nowhere) Capabilities() driver.Capabilities { return driver.Capabilities{} }
func (nowhere) Publish(context.Context, string, ...*message.Message) error {
	return nil
}

func (nowhere) Subscriber(string, driver.SubscriberOptions) (driver.Subscriber, error) {
	return nil, driver.ErrClosed
}
func (nowhere) Ping(context.Context) error  { return nil }
func (nowhere) Close(context.Context) error { return nil }

// BenchmarkPublish is what the bus itself adds to a publish. "cold" is what it
// costs between two round trips to a broker: what the kernel, the client library
// and, on one machine, the broker do meanwhile leaves nothing of it in the
// processor's caches.
func BenchmarkPublish(b *testing.B) {
	bb, err := bus.OpenWith(b.Context(), bus.Config{ServiceName: "bench"}, nowhere{})
	if err != nil {
		b.Fatal(err)
	}
	defer bb.Close()
	ctx := context.Background()
	var e events.Event = aura360.MoodCreated{
		Base: events.Base{UserID: "user-123"},
		Data: aura360.Mood{
			MoodID: "mood", Score: 7, Tags: []string{"calm", "rested"}, Notes: "slept well, walked to work",
			CreatedAt: time.Date(2025, 1, 7, 12, 34, 56, 0, time.UTC),
		},
	}
	publish := func() {
		if err := bb.Publish(ctx, e); err != nil {
			b.Fatal(err)
		}
	}
	encode := func() {
		if _, err := events.Encode(e, events.Base{}); err != nil {
			b.Fatal(err)
		}
	}
	for name, f := range map[string]func(){"encode": encode, "publish": publish} {
		b.Run(name+"/warm", func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				f()
			}
		})
		b.Run(name+"/cold", func(b *testing.B) {
			cache := make([]byte, 4<<20)
			var took []time.Duration
			for b.Loop() {
				for i := 0; i < len(cache); i += 64 {
					cache[i]++
				}
				start := time.Now()
				f()
				took = append(took, time.Since(start))
			}
			slices.Sort(took)
			b.ReportMetric(float64(took[len(took)/2]), "median-ns")
		})
	}
}
