package redisbus

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/aura360/eventbus/bus/driver"
)

// Native is a driver.Backend on Redis Streams without the stock adapter: a topic
// is several streams, one per partition, and publishing and subscribing go out
// in batches. What it writes plain Watermill services read, and the reverse.
type Native struct {
	*server

	topics  sync.Map // of string to *topic
	sender  *sender  // publishing to one server, or the master behind Sentinels
	cluster *Backend // publishing to a Cluster; one of the two is nil

	held atomic.Pointer[[]driver.HeldBack] // what trimming saw

	mu      sync.Mutex // guards all below
	closed  bool
	sending sync.WaitGroup // Publish calls; Add only under mu and before closed
	subs    map[nativeSubscriber]struct{}

	leaseTTL time.Duration // how long a member may be silent, 0 for the default; tests shorten it

	stop    context.CancelFunc // ends what runs in the background
	running sync.WaitGroup     // that
}

// nativeSubscriber is a subscriber as its backend sees it.
type nativeSubscriber interface {
	Close() error
	cut() // ends what waits for the server, from any goroutine
}

var (
	_ driver.Provisioner     = (*Native)(nil)
	_ driver.Auditor         = (*Native)(nil)
	_ driver.Inspector       = (*Native)(nil)
	_ driver.StorageReporter = (*Native)(nil)
)

// OpenNative returns a backend. It does no I/O, so it succeeds while Redis is
// down: Ping tells. An error is one of cfg, and contains no password.
func OpenNative(cfg Config) (*Native, error) {
	srv, err := newServer(cfg)
	if err != nil {
		return nil, err
	}
	ctx, stop := context.WithCancel(context.Background())
	n := &Native{server: srv, subs: map[nativeSubscriber]struct{}{}, stop: stop}
	if n.opts.Kind() == "cluster" {
		if n.cluster, err = Open(cfg); err != nil {
			return nil, errors.Join(err, n.admin.Close())
		}
	} else {
		n.sender = newSender(func(ctx context.Context) (connection, error) {
			ctx, cancel := context.WithTimeout(ctx, n.cfg.DialTimeout+n.cfg.Timeout)
			defer cancel()
			return n.opts.Dial(ctx)
		})
	}
	n.run(ctx, n.watchPartitions)
	n.run(ctx, n.watchStorage)
	return n, nil
}

// run runs f in the background until Close.
func (n *Native) run(ctx context.Context, f func(context.Context)) {
	n.running.Go(func() { f(ctx) })
}

// Capabilities implements driver.Backend.
func (n *Native) Capabilities() driver.Capabilities {
	return driver.Capabilities{
		Durable:             true,
		Groups:              true,
		OrderedPerKey:       true,
		OrderedSingleMember: true,
		ParallelKeys:        true,
		CrossProcess:        true,
		MaxMessageBytes:     n.cfg.MaxMessageBytes,
	}
}

// Close implements driver.Backend. When ctx ends first, connections are cut and
// its cause is returned.
func (n *Native) Close(ctx context.Context) error {
	n.mu.Lock()
	if n.closed {
		n.mu.Unlock()
		return nil
	}
	n.closed = true
	subs := make([]nativeSubscriber, 0, len(n.subs))
	for s := range n.subs {
		subs = append(subs, s)
	}
	n.mu.Unlock()
	n.stop()

	done := make(chan error, 1)
	go func() {
		n.sending.Wait()
		errs := make([]error, len(subs), len(subs)+1)
		var closing sync.WaitGroup
		for i, s := range subs {
			closing.Go(func() { errs[i] = s.Close() })
		}
		closing.Wait()
		err := errors.Join(n.closePublishing(ctx), closed(n.admin.Close()))
		n.running.Wait()
		done <- errors.Join(append(errs, err)...)
	}()
	select {
	case err := <-done:
		return n.fail("close", err)
	case <-ctx.Done():
		for _, s := range subs {
			s.cut()
		}
		if n.cluster != nil {
			_ = n.cluster.Close(ctx) // which cuts, since ctx ended
		} else {
			n.sender.cut()
		}
		_ = n.admin.Close()
		return n.fail("close", context.Cause(ctx))
	}
}

func (n *Native) closePublishing(ctx context.Context) error {
	if n.cluster != nil {
		return n.cluster.Close(ctx)
	}
	n.sender.close()
	return nil
}

// begin admits a call of Publish, until n.sending.Done.
func (n *Native) begin() bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.closed {
		return false
	}
	n.sending.Add(1)
	return true
}
