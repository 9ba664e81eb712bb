// Package bus announces typed events over Kafka, Redis Streams or memory, as
// the environment says.
//
//	b, err := bus.FromEnv(ctx) // MESSAGING_BACKEND=kafka | redis | memory | disabled
//	if err != nil {
//		return err
//	}
//	defer b.Close()
//	bus.SetDefault(b) // optional: bus.Publish then uses it
//
//	err = b.Publish(ctx, aura360.MoodCreated{
//		Base: events.Base{UserID: "user-123"},
//		Data: aura360.Mood{Score: 7, Tags: []string{"happy"}},
//	})
//	switch {
//	case err == nil: // the broker has confirmed it
//	case errors.Is(err, bus.ErrNotAccepted): // it can not appear
//	case errors.Is(err, bus.ErrUnknown): // it may; publish again with the same id
//	}
//
// # Guarantees
//
// Publish returns nil only when the broker has confirmed the event. An event has
// one id, given before any I/O, through every retry. Events with the same key
// (by default the user id) that one goroutine publishes in turn are handled in
// that order. On the disabled backend events are logged, counted and dropped.
//
// Opening a bus succeeds while the broker is down: it connects in the
// background, a publish meanwhile waits within its bounds, and Health and the
// HTTP handler (/readyz, /status) tell.
//
// Events are handled by package router. Tests without a broker are written with
// package bustest. Publisher and Subscriber give plain Watermill interfaces.
package bus
