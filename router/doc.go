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
// is tried again, in place, with growing pauses. When these quick tries are used
// up the event waits in a retry topic of its group and is tried again after 5 s,
// 1 min and 10 min (Config.Delays), while the next ones are handled. After the
// last try, or at once with Permanent, it goes to the group's poison queue. Every
// message of a topic reaches exactly one of: a handler, the poison queue, or the
// count of ignored ones (types nobody here handles).
//
// Events of one key are handled one at a time and in order, but for those that
// wait for a delayed retry; a handler that is Ordered keeps the order through
// these too. How much runs beside that is the backend's matter (see
// docs/backends.md). Handlers must be safe for concurrent use. HandleBatch is for
// handlers that are better called with many events at once.
package router
