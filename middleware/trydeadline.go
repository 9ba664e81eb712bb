package middleware

import (
	"context"
	"sync"
	"time"
)

// tryContext is a context with a deadline that costs a timer only when somebody
// waits on it: most tries end long before, and context.WithDeadline would be half
// of what the whole publish path costs.
//
// It becomes a real context on the first Done. From then on it is that one, also
// for Value, through which package context finds its own kind of parent.
type tryContext struct {
	parent context.Context
	end    time.Time

	mu     sync.Mutex
	made   context.Context // nil until somebody waits
	cancel context.CancelFunc
	over   bool
}

func withTryDeadline(parent context.Context, end time.Time) *tryContext {
	return &tryContext{parent: parent, end: end}
}

// stop ends the context, as the function that context.WithDeadline returns does.
func (c *tryContext) stop() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.over = true
	if c.cancel != nil {
		c.cancel()
	}
}

func (c *tryContext) now() context.Context {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.made
}

func (c *tryContext) Deadline() (time.Time, bool) {
	if dl, ok := c.parent.Deadline(); ok && dl.Before(c.end) {
		return dl, true
	}
	return c.end, true
}

func (c *tryContext) Done() <-chan struct{} { return c.make().Done() }

func (c *tryContext) make() context.Context {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.made == nil {
		c.made, c.cancel = context.WithDeadlineCause(c.parent, c.end, errAttemptTimeout)
		if c.over {
			c.cancel()
		}
	}
	return c.made
}

func (c *tryContext) Err() error {
	c.mu.Lock()
	made, over := c.made, c.over
	c.mu.Unlock()
	// Past the deadline or stopped, Err and Done must agree: both ask the real one.
	if made == nil && (over || !time.Now().Before(c.end)) {
		made = c.make()
	}
	if made != nil {
		return made.Err()
	}
	return c.parent.Err()
}

func (c *tryContext) Value(key any) any {
	if made := c.now(); made != nil {
		return made.Value(key)
	}
	return c.parent.Value(key)
}

// WithoutDeadline is what driver.Cancellation asks.
func (c *tryContext) WithoutDeadline() context.Context { return c.parent }
