package membus

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/aura360/eventbus/bus/driver"
)

// Name is the backend's name, the value of MESSAGING_BACKEND.
const Name = "memory"

// Config configures a backend. The zero value is usable.
type Config struct {
	// Partitions of a topic that is created by use, 1 to 1000. Defaults to 3.
	// They number the messages for Topics; order and sharing do not depend on
	// them.
	Partitions int
	// Retain is how many messages a topic keeps while no group has read it yet.
	// Beyond it the oldest are dropped, counted, and logged once. Defaults to
	// 100000.
	Retain int
	// Keep is how many of a topic's newest messages stay after all groups have
	// settled them, for groups that come later. Negative for none. Defaults to
	// 1000.
	Keep int
	// MaxBacklog is how many unsettled messages a group may have on a topic;
	// publishing to it then blocks. Defaults to 1000000.
	MaxBacklog int
	// MaxMessageBytes bounds a message: payload, metadata and UUID. 0 for no
	// bound.
	MaxMessageBytes int
	// Logger defaults to slog.Default().
	Logger *slog.Logger
}

// Backend is a client of a broker in memory; see Open and Connect.
type Backend struct {
	broker  *broker
	closing chan struct{} // closed first: publishers that wait give up

	// gate is held for reading while a Publish runs.
	gate   sync.RWMutex
	closed bool // guarded by gate

	mu   sync.Mutex
	subs map[*subscriber]struct{} // open ones; guarded by mu, nil once closed
}

var (
	_ driver.Backend     = (*Backend)(nil)
	_ driver.Provisioner = (*Backend)(nil)
	_ driver.Inspector   = (*Backend)(nil)
	_ driver.Auditor     = (*Backend)(nil)
)

// Open returns the first client of a new broker in memory. Numbers that are out
// of range are taken as their default.
func Open(cfg Config) *Backend {
	if cfg.Partitions < 1 || cfg.Partitions > maxPartitions {
		cfg.Partitions = 3
	}
	cfg.Retain = cmp.Or(max(cfg.Retain, 0), 100_000)
	cfg.Keep = max(cmp.Or(cfg.Keep, 1000), 0)
	cfg.MaxBacklog = cmp.Or(max(cfg.MaxBacklog, 0), 1_000_000)
	cfg.MaxMessageBytes = max(cfg.MaxMessageBytes, 0)
	if cfg.Logger == nil {
		cfg.Logger = slog.Default()
	}
	return open(&broker{cfg: cfg, topics: make(map[string]*topic)})
}

// Connect returns another client of the same broker: it sees the same messages
// and groups, and is closed by itself. Messages live as long as any client is
// referenced, open or not, so a closed backend's Connect is a restart with the
// data.
func (b *Backend) Connect() *Backend { return open(b.broker) }

func open(br *broker) *Backend {
	return &Backend{broker: br, closing: make(chan struct{}), subs: make(map[*subscriber]struct{})}
}

// Name implements driver.Backend.
func (b *Backend) Name() string { return Name }

// Capabilities implements driver.Backend.
func (b *Backend) Capabilities() driver.Capabilities {
	return driver.Capabilities{
		Groups:              true,
		OrderedPerKey:       true,
		OrderedSingleMember: true,
		ParallelKeys:        true,
		MaxMessageBytes:     b.broker.cfg.MaxMessageBytes,
	}
}

// Publish implements driver.Backend. It blocks only while a group of the topic
// has MaxBacklog messages to settle; what was not taken when ctx ends is
// Rejected, never Unknown. A message that is too large is Rejected alone, those
// after it are taken.
//
// Metadata is copied. The payload's bytes are shared between the publisher, the
// broker and every consumer: nobody may change them.
func (b *Backend) Publish(ctx context.Context, topic string, msgs ...*message.Message) error {
	// After the gate, so that Close waits for what follows.
	b.gate.RLock()
	defer b.gate.RUnlock()
	if b.closed {
		return driver.Fail(Name, topic, len(msgs), driver.Rejected, driver.ErrClosed)
	}
	if ctx.Err() != nil {
		return driver.Fail(Name, topic, len(msgs), driver.Rejected, context.Cause(ctx))
	}
	t, err := b.broker.topic(topic)
	if err != nil {
		return driver.Fail(Name, topic, len(msgs), driver.Rejected, err)
	}
	// One message at a time is the common case and needs no list.
	if len(msgs) == 1 {
		r, err := t.record(msgs[0])
		if err == nil {
			var one [1]*record
			one[0] = r
			_, err = t.publish(ctx, b.closing, one[:])
		}
		if err != nil {
			return driver.Fail(Name, topic, 1, driver.Rejected, err)
		}
		return nil
	}
	records := make([]*record, 0, len(msgs))
	var failed *driver.PublishError
	fail := func(i int, err error) {
		if failed == nil {
			failed = &driver.PublishError{Backend: Name, Topic: topic, Results: make([]driver.Result, len(msgs))}
		}
		failed.Results[i] = driver.Result{Outcome: driver.Rejected, Err: err}
	}
	index := make([]int, 0, len(msgs)) // of each record in msgs
	for i, msg := range msgs {
		r, err := t.record(msg)
		if err != nil {
			fail(i, err)
			continue
		}
		records = append(records, r)
		index = append(index, i)
	}
	taken, err := t.publish(ctx, b.closing, records)
	for _, i := range index[taken:] {
		fail(i, err)
	}
	if failed != nil {
		return failed
	}
	return nil
}

// Subscriber implements driver.Backend. The group is created by its first
// Subscribe.
func (b *Backend) Subscriber(group string, opts driver.SubscriberOptions) (driver.Subscriber, error) {
	switch {
	case group == "":
		return nil, errors.New("memory: a subscriber needs the name of its group")
	case opts.MaxInFlight == 0:
		opts.MaxInFlight = 256
	case opts.MaxInFlight < 1 || opts.MaxInFlight > 10_000:
		return nil, fmt.Errorf("memory: MaxInFlight %d: want 1 to 10000", opts.MaxInFlight)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.subs == nil {
		return nil, fmt.Errorf("memory: subscriber of group %s: %w", group, driver.ErrClosed)
	}
	s := &subscriber{backend: b, group: group, opts: opts}
	b.subs[s] = struct{}{}
	return s, nil
}

// Ping implements driver.Backend.
func (b *Backend) Ping(ctx context.Context) error {
	select {
	case <-b.closing:
		return fmt.Errorf("memory: ping: %w", driver.ErrClosed)
	default:
		return ctx.Err()
	}
}

// Close implements driver.Backend. A Publish that waits for a group is ended:
// what it has not placed is Rejected. The messages stay with the broker; see
// Connect.
func (b *Backend) Close(context.Context) error {
	b.mu.Lock()
	subs := b.subs
	b.subs = nil
	if subs == nil {
		b.mu.Unlock()
		return nil
	}
	close(b.closing)
	b.mu.Unlock()

	// Nobody waits behind the gate once closing is closed, so this takes as long
	// as copying a batch does and needs no bound.
	b.gate.Lock()
	b.closed = true
	b.gate.Unlock()

	for s := range subs {
		s.close()
	}
	return nil
}

// forget takes a closed subscriber off the list.
func (b *Backend) forget(s *subscriber) {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.subs, s)
}
