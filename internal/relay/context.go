package relay

import (
	"context"
	"sync"
)

// deliveryContext is the context of one delivery: a child of the adapter's that
// can end before it. The child proper is made when somebody listens, which
// costs more than all the rest of forwarding, and serves Value from then on, so
// that contexts derived from this one need no goroutine.
type deliveryContext struct {
	context.Context // the adapter's

	mu     sync.Mutex
	child  context.Context
	cancel context.CancelFunc
	ended  bool
}

func (c *deliveryContext) Done() <-chan struct{} {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.child == nil {
		c.child, c.cancel = context.WithCancel(c.Context)
		if c.ended {
			c.cancel()
		}
	}
	return c.child.Done()
}

func (c *deliveryContext) Err() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ended {
		return context.Canceled
	}
	if c.child != nil {
		return c.child.Err()
	}
	return c.Context.Err()
}

func (c *deliveryContext) Value(key any) any {
	c.mu.Lock()
	from := c.child
	c.mu.Unlock()
	if from == nil {
		from = c.Context
	}
	return from.Value(key)
}

// end ends the context.
func (c *deliveryContext) end() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.ended = true
	if c.cancel != nil {
		c.cancel()
	}
}
