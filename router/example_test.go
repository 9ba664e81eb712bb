package router_test

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/aura360/eventbus/bus"
	"github.com/aura360/eventbus/events"
	"github.com/aura360/eventbus/events/aura360"
	"github.com/aura360/eventbus/middleware"
	"github.com/aura360/eventbus/router"
)

// A service that handles one type of event until its context ends.
func Example() {
	ctx, stop := context.WithTimeout(context.Background(), 10*time.Second)
	defer stop()
	b, err := bus.Open(ctx, bus.Config{Backend: bus.Memory})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer b.Close()

	r, err := router.New(b, "vectordb")
	if err != nil {
		fmt.Println(err)
		return
	}
	router.Handle(r, "aggregate-context", func(_ context.Context, e aura360.MoodCreated) error {
		fmt.Println(e.UserID, "feels", e.Data.Score)
		stop() // one is enough for an example
		return nil
	})
	if err := b.Publish(ctx, aura360.MoodCreated{Base: events.Base{UserID: "user-123"}, Data: aura360.Mood{Score: 7}}); err != nil {
		fmt.Println(err)
	}
	fmt.Println(r.Run(ctx))
	// Output:
	// user-123 feels 7
	// <nil>
}

// A handler says with its error what is to happen: try again, try again later,
// or give up at once.
func ExampleHandle_errors() {
	handler := func(_ context.Context, e aura360.MoodCreated) error {
		switch e.Data.Score {
		case 0:
			return router.Permanent(errors.New("no score")) // to the poison queue at once
		case 1:
			return router.RetryAfter(time.Minute, errors.New("quota exceeded"))
		case 2:
			return errors.New("timeout") // tried again with growing pauses
		}
		return nil
	}
	err := handler(context.Background(), aura360.MoodCreated{})
	fmt.Println(middleware.IsPermanent(err), err)
	// Output: true no score
}

// A handler that writes many events at once, and says of each what became of it.
func ExampleHandleBatch() {
	ctx, stop := context.WithTimeout(context.Background(), 10*time.Second)
	defer stop()
	b, err := bus.Open(ctx, bus.Config{Backend: bus.Memory})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer b.Close()
	r, err := router.New(b, "warehouse")
	if err != nil {
		fmt.Println(err)
		return
	}
	router.HandleBatch(r, "store-moods", func(_ context.Context, moods []aura360.MoodCreated) []error {
		errs := make([]error, len(moods))
		for i, e := range moods {
			if e.Data.Score > 10 {
				errs[i] = router.Permanent(errors.New("no such score")) // the others are stored
			}
		}
		fmt.Println("stored", len(moods), "moods in one call")
		stop() // one is enough for an example
		return errs
	}, router.BatchConfig{Max: 3, MaxWait: time.Second})
	for _, user := range []string{"u1", "u2", "u3"} {
		if err := b.Publish(ctx, aura360.MoodCreated{Base: events.Base{UserID: user}, Data: aura360.Mood{Score: 7}}); err != nil {
			fmt.Println(err)
		}
	}
	fmt.Println(r.Run(ctx))
	// Output:
	// stored 3 moods in one call
	// <nil>
}
