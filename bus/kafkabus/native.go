package kafkabus

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/aura360/eventbus/bus/driver"
)

// nativeCommitInterval is the default of Config.AutoCommitInterval here: a commit
// does not hold up fetching.
const nativeCommitInterval = 200 * time.Millisecond

// Native is a Kafka cluster, through a publisher and a subscriber of our own on
// franz-go. It reads and writes what Backend does, and is configured alike. All
// methods are safe for concurrent use.
//
// Batches go out as batches, concurrent publishes of one partition share a
// request, and a subscriber has many messages of different keys in hand.
type Native struct {
	cfg    Config
	tokens *tokenProvider // nil without OAUTHBEARER

	life   context.Context //nolint:containedctx // ends with Close
	cancel context.CancelFunc

	wire   *wire
	lost   atomic.Int64 // produce requests that were written and not answered
	client *kgo.Client  // publishes and asks
	admin  *kadm.Client

	topics   topicCache
	creating keyedMutex
	opening  keyedMutex
	outlets  sync.Map // topic -> *outlet
	stale    sync.Map // topics that the client knows from before they were deleted

	mu     sync.Mutex // guards below
	closed bool
	calls  sync.WaitGroup // publishes; Add only under mu while not closed
	subs   map[*nativeSubscriber]struct{}
}

var (
	_ driver.Backend     = (*Native)(nil)
	_ driver.Provisioner = (*Native)(nil)
	_ driver.Auditor     = (*Native)(nil)
	_ driver.Inspector   = (*Native)(nil)
)

// OpenNative returns a backend for cfg, and connects when it is needed: it
// succeeds while the cluster is down. The error is that of Validate.
func OpenNative(cfg Config) (*Native, error) {
	if err := cfg.Validate(); err != nil {
		return nil, fmt.Errorf("kafka: %w", err)
	}
	if cfg.AutoCommitInterval == 0 {
		cfg.AutoCommitInterval = nativeCommitInterval
	}
	n := &Native{cfg: cfg.withDefaults(), subs: make(map[*nativeSubscriber]struct{})}
	n.life, n.cancel = context.WithCancel(context.Background())
	if n.cfg.SASLMechanism == "OAUTHBEARER" {
		n.tokens = newTokenProvider(n.life, n.cfg)
	}
	n.wire = newWire(n.life, n.cfg)
	var err error
	if n.client, err = kgo.NewClient(append(n.options(n.wire, ""), n.producing()...)...); err != nil {
		n.cancel()
		return nil, fmt.Errorf("kafka: %w", err)
	}
	n.admin = kadm.NewClient(n.client)
	return n, nil
}

// Name implements driver.Backend.
func (n *Native) Name() string { return name }

// Capabilities implements driver.Backend.
func (n *Native) Capabilities() driver.Capabilities {
	return driver.Capabilities{
		Durable:             true,
		Groups:              true,
		OrderedPerKey:       n.cfg.Partitioner != "round_robin",
		OrderedSingleMember: n.cfg.Partitioner != "round_robin",
		ParallelKeys:        true,
		CrossProcess:        true,
		MaxMessageBytes:     n.cfg.MaxMessageBytes,
	}
}

// Ping implements driver.Backend: it asks any broker who the brokers are.
func (n *Native) Ping(ctx context.Context) error {
	if err := n.ask(ctx, func(ctx context.Context) error {
		_, err := n.admin.BrokerMetadata(ctx)
		return err
	}); err != nil {
		return fmt.Errorf("kafka: ping: %w", err)
	}
	return nil
}

// ask bounds a question to the cluster by ctx and the backend's life, and marks
// an error that is not a broker's answer as driver.ErrUnavailable.
func (n *Native) ask(ctx context.Context, f func(context.Context) error) error {
	if n.isClosed() {
		return driver.ErrClosed
	}
	if ctx.Err() != nil {
		return unavailable(context.Cause(ctx))
	}
	err := f(ctx)
	switch {
	case err == nil || answered(err):
		return err
	case n.isClosed():
		return driver.ErrClosed
	case ctx.Err() != nil && !errors.Is(err, context.Cause(ctx)):
		return unavailable(fmt.Errorf("%w: %w", context.Cause(ctx), err))
	default:
		return unavailable(err)
	}
}

// Close implements driver.Backend.
func (n *Native) Close(ctx context.Context) error {
	n.mu.Lock()
	first := !n.closed
	n.closed = true
	var subs []*nativeSubscriber
	for s := range n.subs {
		subs = append(subs, s)
	}
	n.mu.Unlock()
	if !first {
		return nil
	}
	// Publishes and subscribers both may wait for a broker.
	errs := make([]error, len(subs)+1)
	var wg sync.WaitGroup
	for i, s := range subs {
		wg.Go(func() { errs[i] = s.Close() })
	}
	sent := make(chan struct{})
	go func() {
		n.calls.Wait()
		close(sent)
	}()
	select {
	case <-sent:
	case <-ctx.Done():
		errs[len(subs)] = fmt.Errorf("messages were still being sent: %w", context.Cause(ctx))
	}
	n.cancel()     // ends the publishes that are left
	n.wire.abort() // so that nothing waits for an answer
	n.client.Close()
	<-sent
	wg.Wait()
	n.tokens.close()
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("kafka: close: %w", err)
	}
	return nil
}

func (n *Native) isClosed() bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.closed
}

// begin admits a publish, which calls n.calls.Done at its end.
func (n *Native) begin() bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	if !n.closed {
		n.calls.Add(1)
	}
	return !n.closed
}
