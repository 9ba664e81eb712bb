// Package router hears events: typed handlers of one consumer group, on
// Watermill's router.
//
//	b, err := bus.FromEnv(ctx)
//	defer b.Close()
//	r, err := router.New(b, "vectordb")
//	router.Handle(r, "aggregate-context", func(ctx context.Context, e aura360.MoodCreated) error {
//		return bus.Publish(ctx, aura360.ContextAggregated{ /* ... */ })
//	})
//	err = r.Run(ctx) // until ctx ends; drains, then returns
//
// A handler that returns nil has handled the event. One that returns an error
// is tried again, in place, with growing pauses; after the last try, or at once
// with Permanent, the event goes to the group's poison queue and the next one
// is handled. Every message of a topic reaches exactly one of: a handler, the
// poison queue, or the count of ignored ones (types nobody here handles).
//
// Events of one key are handled one at a time and in order; how much runs
// beside that is the backend's matter (see docs/backends.md). Handlers must be
// safe for concurrent use.
package router
