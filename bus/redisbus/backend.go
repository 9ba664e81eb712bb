package redisbus

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/ThreeDotsLabs/watermill"
	"github.com/ThreeDotsLabs/watermill-redisstream/pkg/redisstream"
	"github.com/redis/go-redis/v9"

	"github.com/aura360/eventbus/bus/driver"
	"github.com/aura360/eventbus/internal/relay"
)

// Backend is a driver.Backend on Redis Streams.
type Backend struct {
	*server

	lanes     *lanes                // publishing to one server
	pub       redis.UniversalClient // publishing to a Cluster or behind Sentinels
	publisher *redisstream.Publisher

	mu      sync.Mutex // guards all below
	closed  bool
	sending sync.WaitGroup // Publish calls; Add only under mu and before closed
	subs    map[*subscriber]struct{}
}

var (
	_ driver.Backend     = (*Backend)(nil)
	_ driver.Provisioner = (*Backend)(nil)
	_ driver.Auditor     = (*Backend)(nil)
	_ driver.Inspector   = (*Backend)(nil)
)

// Open returns a backend. It does no I/O, so it succeeds while Redis is down:
// Ping tells. An error is one of cfg, and contains no password.
func Open(cfg Config) (*Backend, error) {
	srv, err := newServer(cfg)
	if err != nil {
		return nil, err
	}
	b := &Backend{server: srv, subs: map[*subscriber]struct{}{}}
	if b.opts.Kind() == "single" {
		b.lanes = newLanes(b)
		return b, nil
	}
	b.pub = b.opts.New()
	if b.publisher, err = b.newPublisher(b.pub); err != nil {
		return nil, errors.Join(fmt.Errorf("redis: %w", err), b.pub.Close(), b.admin.Close())
	}
	return b, nil
}

// Capabilities implements driver.Backend. A topic is one stream, whose entries
// the members of a group share one by one: with several members, two events of
// one key are handled at the same time.
func (b *Backend) Capabilities() driver.Capabilities {
	return driver.Capabilities{
		Durable:             true,
		Groups:              true,
		OrderedSingleMember: true,
		CrossProcess:        true,
		MaxMessageBytes:     b.cfg.MaxMessageBytes,
	}
}

// Subscriber implements driver.Backend. MaxInFlight and DirectSettle say nothing
// to this build: the stock adapter has one event per topic in flight.
func (b *Backend) Subscriber(group string, opts driver.SubscriberOptions) (driver.Subscriber, error) {
	if group == "" {
		return nil, fmt.Errorf("redis: subscriber: %w: no group", driver.ErrPermanent)
	}
	if opts.MaxInFlight < 0 || opts.MaxInFlight > 10_000 {
		return nil, fmt.Errorf("redis: subscriber: %w: MaxInFlight %d: want 1 to 10000", driver.ErrPermanent, opts.MaxInFlight)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return nil, fmt.Errorf("redis: subscriber: %w", driver.ErrClosed)
	}
	if opts.Instance == "" {
		opts.Instance = watermill.NewShortUUID()
	}
	s := &subscriber{b: b, group: group, instance: opts.Instance, live: map[*stream]struct{}{}, left: map[string][]string{}, owed: map[string][]string{}}
	s.Subscriber = relay.New(relay.Config{
		Backend: name, Group: group, Log: b.cfg.Log, Open: s.open, MaxBackoff: maxBackoff,
	})
	b.subs[s] = struct{}{}
	return s, nil
}

// Close implements driver.Backend. When ctx ends first, connections are cut and
// its cause is returned.
func (b *Backend) Close(ctx context.Context) error {
	b.mu.Lock()
	if b.closed {
		b.mu.Unlock()
		return nil
	}
	b.closed = true
	var subs []*subscriber
	for s := range b.subs {
		subs = append(subs, s)
	}
	b.mu.Unlock()

	done := make(chan error, 1)
	go func() {
		b.sending.Wait()
		errs := make([]error, len(subs))
		var closing sync.WaitGroup
		for i, s := range subs {
			closing.Go(func() { errs[i] = s.Close() })
		}
		closing.Wait()
		// The stock publisher's Close is not called: it would race with Publish,
		// and does no more than close the client.
		errs = slices.Concat(errs, b.closePublishing(), []error{closed(b.admin.Close())})
		done <- errors.Join(errs...)
	}()
	select {
	case err := <-done:
		return b.fail("close", err)
	case <-ctx.Done():
		for _, s := range subs {
			s.cut()
		}
		_ = b.closePublishing()
		_ = b.admin.Close()
		return b.fail("close", context.Cause(ctx))
	}
}

func (b *Backend) closePublishing() []error {
	if b.lanes != nil {
		return b.lanes.close()
	}
	return []error{closed(b.pub.Close())}
}

// begin admits a call of Publish, until end.
func (b *Backend) begin() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return false
	}
	b.sending.Add(1)
	return true
}

func (b *Backend) end() { b.sending.Done() }
