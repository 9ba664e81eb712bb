package delivery

import (
	"context"
	"sync"
)

// Context is the context of one delivered message: the values and the deadline
// of its parent, and an end of its own. The zero value with a Parent is ready.
//
// A context.WithCancel per message would take the lock of the parent twice for
// each. This one makes its channel when somebody asks for it, which for most
// messages is never. It does not end with its parent: whoever owns it ends it.
type Context struct {
	context.Context // the parent

	mu    sync.Mutex
	ended bool
	done  chan struct{}
	after map[*func()]struct{} // what AfterFunc registered
}

var closedChan = func() chan struct{} {
	c := make(chan struct{})
	close(c)
	return c
}()

// End ends the context. It is called once.
func (c *Context) End() {
	c.mu.Lock()
	c.ended = true
	if c.done != nil {
		close(c.done)
	}
	after := c.after
	c.after = nil
	c.mu.Unlock()
	for f := range after {
		go (*f)()
	}
}

// Done implements context.Context.
func (c *Context) Done() <-chan struct{} {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.done == nil {
		if c.ended {
			return closedChan
		}
		c.done = make(chan struct{})
	}
	return c.done
}

// Err implements context.Context.
func (c *Context) Err() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.ended {
		return nil
	}
	if err := c.Context.Err(); err != nil {
		return err
	}
	return context.Canceled
}

// AfterFunc is found by package context, which then needs no goroutine to derive
// a context from this one.
func (c *Context) AfterFunc(f func()) (stop func() bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ended {
		go f()
		return func() bool { return false }
	}
	if c.after == nil {
		c.after = make(map[*func()]struct{})
	}
	c.after[&f] = struct{}{}
	return func() bool {
		c.mu.Lock()
		defer c.mu.Unlock()
		_, ok := c.after[&f]
		delete(c.after, &f)
		return ok
	}
}
