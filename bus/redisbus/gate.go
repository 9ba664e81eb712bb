package redisbus

import (
	"context"
	"errors"
	"strings"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"
)

var (
	errStopped = errors.New("stopped")
	errLost    = errors.New("the connection was lost while entries were fetched")
)

// gate is a hook on the client of one stock subscriber. It is the control over
// fetching that the adapter does not offer: it stops it, tells when the last
// fetch is over, and notes when an answer was lost.
type gate struct {
	mu       sync.Mutex
	shut     error         // fetches are refused with it
	fetching int           // fetches on their way
	idle     chan struct{} // closed when shut and fetching is 0
	lost     bool          // a fetch failed without an answer
	readErr  error         // why the last fetch failed
	lastErr  error         // why the last command failed; nil again when one succeeds
}

func newGate() *gate { return &gate{idle: make(chan struct{})} }

// close refuses fetches from now on.
func (g *gate) close(why error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.closeLocked(why)
}

func (g *gate) closeLocked(why error) {
	if g.shut != nil {
		return
	}
	g.shut = why
	if g.fetching == 0 {
		close(g.idle)
	}
}

// wait returns true when the gate is closed and no fetch is on its way, false
// after d.
func (g *gate) wait(d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-g.idle:
		return true
	case <-t.C:
		return false
	}
}

// lostReply tells that the server may still do what a fetch asked for.
func (g *gate) lostReply() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.lost
}

// refuses tells that fetches are refused.
func (g *gate) refuses() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.shut != nil
}

func (g *gate) condition() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.readErr != nil {
		return g.readErr
	}
	return g.lastErr
}

func (g *gate) enter() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.shut == nil {
		g.fetching++
	}
	return g.shut
}

func (g *gate) leave(err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.fetching--
	if err != nil && !errors.Is(err, redis.Nil) && !errors.Is(err, context.Canceled) && g.readErr == nil {
		g.readErr = err
	}
	// go-redis looks at a cancelled context before it sends, and not after.
	if err != nil && !isReply(err) && !errors.Is(err, context.Canceled) {
		// A claim that failed does not end the stock adapter: the next read will,
		// see stockClient.XPendingExt.
		g.lost = true
		g.closeLocked(errLost)
	}
	if g.shut != nil && g.fetching == 0 {
		select {
		case <-g.idle:
		default:
			close(g.idle)
		}
	}
}

// DialHook implements redis.Hook.
func (g *gate) DialHook(next redis.DialHook) redis.DialHook { return next }

// ProcessPipelineHook implements redis.Hook. A Cluster client sends a command
// in a pipeline when its slot is moving.
func (g *gate) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []redis.Cmder) error {
		last := cmds[len(cmds)-1]
		if !fetches(last) {
			return next(ctx, cmds)
		}
		if err := g.enter(); err != nil {
			last.SetErr(err)
			return err
		}
		err := next(ctx, cmds)
		g.leave(last.Err())
		return err
	}
}

// fetches tells whether cmd takes entries from the server.
func fetches(cmd redis.Cmder) bool {
	switch strings.ToLower(cmd.Name()) {
	case "xreadgroup", "xclaim":
		return true
	}
	return false
}

// ProcessHook implements redis.Hook.
func (g *gate) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		if fetches(cmd) {
			if err := g.enter(); err != nil {
				cmd.SetErr(err)
				return err
			}
			err := next(ctx, cmd)
			g.leave(err)
			return err
		}
		// XACK, which is tried again for ever, and XPENDING, once every
		// claimInterval, also while a handler runs and nothing is read.
		err := next(ctx, cmd)
		if !errors.Is(err, context.Canceled) {
			g.mu.Lock()
			g.lastErr = err
			g.mu.Unlock()
		}
		return err
	}
}
