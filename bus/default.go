package bus

import (
	"context"
	"sync"
	"sync/atomic"

	"github.com/aura360/eventbus/events"
)

var (
	defaultBus atomic.Pointer[Bus]
	openMu     sync.Mutex // one goroutine opens the default bus
)

// Default returns the process's default bus: the one given to SetDefault, else
// one opened from the environment at the first call. When opening fails the
// next call tries again.
func Default(ctx context.Context) (*Bus, error) {
	if b := defaultBus.Load(); b != nil {
		return b, nil
	}
	openMu.Lock()
	defer openMu.Unlock()
	if b := defaultBus.Load(); b != nil {
		return b, nil
	}
	b, err := FromEnv(ctx)
	if err != nil {
		return nil, err
	}
	defaultBus.Store(b)
	return b, nil
}

// SetDefault makes b the default bus and returns the one before, nil if there
// was none; it closes neither. nil makes the next use open one from the
// environment.
func SetDefault(b *Bus) (previous *Bus) {
	openMu.Lock()
	defer openMu.Unlock()
	return defaultBus.Swap(b)
}

// Publish announces e on the bus that rides on ctx (inside a handler), else on
// the default bus. See Bus.Publish.
func Publish(ctx context.Context, e events.Event) error {
	b, err := busFor(ctx)
	if err != nil {
		return err
	}
	return b.Publish(ctx, e)
}

// PublishAll announces several events on the bus that rides on ctx, else on
// the default bus. See Bus.PublishAll.
func PublishAll(ctx context.Context, evs ...events.Event) error {
	b, err := busFor(ctx)
	if err != nil {
		return err
	}
	return b.PublishAll(ctx, evs...)
}

func busFor(ctx context.Context) (*Bus, error) {
	if b := FromContext(ctx); b != nil {
		return b, nil
	}
	b, err := Default(ctx)
	if err != nil {
		return nil, &PublishError{Backend: "the default bus", Err: err}
	}
	return b, nil
}

type contextKey struct{}

// NewContext returns a context on which b rides: Publish with it publishes on b.
func NewContext(ctx context.Context, b *Bus) context.Context {
	return context.WithValue(ctx, contextKey{}, b)
}

// FromContext returns the bus that rides on ctx, nil when there is none.
func FromContext(ctx context.Context) *Bus {
	b, _ := ctx.Value(contextKey{}).(*Bus)
	return b
}
