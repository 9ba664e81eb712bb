package kafkabus

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"sync"

	"github.com/aura360/eventbus/bus/driver"
)

// name is this backend's value of MESSAGING_BACKEND.
const name = "kafka"

// Backend is a Kafka cluster. All methods are safe for concurrent use.
type Backend struct {
	cfg    Config
	addrs  []string
	tokens *tokenProvider // nil without OAUTHBEARER

	life   context.Context //nolint:containedctx // ends with Close: background connecting
	cancel context.CancelFunc

	small  *producer
	large  func() *producer // made at the first message too large for small
	admin  *admin
	topics topicCache

	mu      sync.Mutex // guards below
	closed  bool
	bigOpen *producer // large's, once made
	subs    map[*subscriber]struct{}
	done    chan struct{} // closed when the first Close has returned
}

var (
	_ driver.Backend     = (*Backend)(nil)
	_ driver.Provisioner = (*Backend)(nil)
	_ driver.Auditor     = (*Backend)(nil)
	_ driver.Inspector   = (*Backend)(nil)
)

// Open returns a backend for cfg, and connects in the background: it succeeds
// while the cluster is down. The error is that of Validate.
func Open(cfg Config) (*Backend, error) {
	if err := cfg.Validate(); err != nil {
		return nil, fmt.Errorf("kafka: %w", err)
	}
	b := &Backend{cfg: cfg.withDefaults(), subs: make(map[*subscriber]struct{}), done: make(chan struct{})}
	b.addrs = splitList(b.cfg.BootstrapServers)
	b.life, b.cancel = context.WithCancel(context.Background())
	if b.cfg.SASLMechanism == "OAUTHBEARER" {
		b.tokens = newTokenProvider(b.life, b.cfg)
	}
	// sarama checks its own configuration too; better here than in the background.
	w := newWire(b.life, b.cfg)
	if err := errors.Join(b.producerConfig(w, smallBytes).Validate(), b.consumerConfig(w, "").Validate()); err != nil {
		b.cancel()
		return nil, fmt.Errorf("kafka: %w", err)
	}
	b.admin = newAdmin(b)
	b.small = newProducer(b, smallBytes)
	b.large = sync.OnceValue(func() *producer { return newProducer(b, b.cfg.MaxMessageBytes) })
	return b, nil
}

// Name implements driver.Backend.
func (b *Backend) Name() string { return name }

// Capabilities implements driver.Backend. Different keys are handled in parallel
// only as far as they are in different partitions: the stock subscriber has one
// message per partition in hand.
func (b *Backend) Capabilities() driver.Capabilities {
	return driver.Capabilities{
		Durable:             true,
		Groups:              true,
		OrderedPerKey:       b.cfg.Partitioner != "round_robin",
		OrderedSingleMember: b.cfg.Partitioner != "round_robin",
		CrossProcess:        true,
		MaxMessageBytes:     b.cfg.MaxMessageBytes,
	}
}

// Ping implements driver.Backend: it asks any broker who the controller is.
func (b *Backend) Ping(ctx context.Context) error {
	_, err := ask(ctx, b.admin, func(s *session) (struct{}, error) {
		_, err := s.client.RefreshController()
		return struct{}{}, err
	})
	if err != nil {
		return fmt.Errorf("kafka: ping: %w", err)
	}
	return nil
}

// Close implements driver.Backend.
func (b *Backend) Close(ctx context.Context) error {
	b.mu.Lock()
	first := !b.closed
	b.closed = true
	big := b.bigOpen
	subs := make([]*subscriber, 0, len(b.subs))
	for s := range b.subs {
		subs = append(subs, s)
	}
	b.mu.Unlock()
	if !first {
		return nil
	}
	defer close(b.done)

	// Publishes first and subscribers beside: both wait for the broker.
	errs := make([]error, len(subs)+2)
	var wg sync.WaitGroup
	for i, s := range subs {
		wg.Go(func() { errs[i] = s.Close() })
	}
	wg.Go(func() { errs[len(subs)] = b.small.close(ctx) })
	if big != nil {
		wg.Go(func() { errs[len(subs)+1] = big.close(ctx) })
	}
	wg.Wait()
	b.cancel()
	b.admin.close()
	b.tokens.close()
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("kafka: close: %w", err)
	}
	return nil
}

func (b *Backend) isClosed() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.closed
}

// topicName is what Kafka allows. https://kafka.apache.org/documentation/#topicconfigs
var topicName = regexp.MustCompile(`^[a-zA-Z0-9._-]{1,249}$`)

// checkTopic returns an error for a topic that cannot exist.
func checkTopic(topic string) error {
	if !topicName.MatchString(topic) || topic == "." || topic == ".." {
		return errors.New("want 1 to 249 letters, digits, dots, underscores and hyphens")
	}
	return nil
}
