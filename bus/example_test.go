package bus_test

import (
	"context"
	"errors"
	"fmt"

	"github.com/aura360/eventbus/bus"
	"github.com/aura360/eventbus/events"
	"github.com/aura360/eventbus/events/aura360"
	"github.com/aura360/eventbus/middleware"
)

func poisonInfo(group string) middleware.PoisonInfo {
	return middleware.PoisonInfo{Group: group, Reason: events.ReasonPermanent, Err: errors.New("no")}
}

func ExampleOpen() {
	ctx := context.Background()
	b, err := bus.Open(ctx, bus.Config{Backend: bus.Memory, ServiceName: "mood-api"})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer b.Close()
	err = b.Publish(ctx, aura360.MoodCreated{
		Base: events.Base{UserID: "user-123"},
		Data: aura360.Mood{Score: 7, Tags: []string{"happy"}},
	})
	fmt.Println(err, b.Health(ctx).Status)
	// Output: <nil> ok
}

func ExampleBus_Publish_refused() {
	ctx := context.Background()
	b, err := bus.Open(ctx, bus.Config{Backend: bus.Memory})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer b.Close()
	err = b.Publish(ctx, aura360.GuardianRequest{Base: events.Base{ID: "ask-1"}, Query: "why?"})
	fmt.Println(errors.Is(err, bus.ErrNotAccepted))
	fmt.Println(err)
	// Output:
	// true
	// publish guardian.request to memory: event not accepted: event guardian.request: invalid: field guardian_type: required, but missing
}
