// Package relay turns a stock Watermill subscriber, which gives up when its
// broker does and cannot be drained, into a driver.Subscriber, which does
// neither.
//
// It stands between the adapter's channel and the consumer's and hands over the
// adapter's own messages, so an ack goes straight to the adapter. What it adds:
//
//   - Subscribe returns at once; connecting goes on in the background, for ever,
//     and again whenever the adapter's channel closes.
//   - Drain keeps the adapter alive until it has taken note of every ack.
//   - A message nacked several times is redelivered after a pause that grows.
//
// # The proof that an ack was taken
//
// Both stock adapters (Kafka and Redis Streams) handle one message per partition
// or stream at a time, in a function (messageHandler.processMessage) that gives
// the message a context and cancels it, deferred, after the offset was marked or
// XACK was answered. So once a message is acked, the end of the adapter's context
// is the proof that the adapter took note, and nothing has to watch a message
// while it is handled: no goroutine per message, only a short list. Two things
// about these contexts are easy to get wrong:
//
//   - Watermill's router replaces a message's context by its own, so the
//     adapter's is remembered when the message is forwarded.
//   - After a nack the Redis adapter redelivers a copy without any context (the
//     Kafka adapter keeps it). The copy gets back the one of the message nacked.
//
// What a consumer sees is a child of it per delivery, which ends with it, or
// when the adapter has taken note of a nack by sending the message again.
//
// # What ends what
//
// The stock subscription lives on a context of the relay's own. It carries the
// values of the context given to Subscribe, and neither its end nor its deadline:
// a message context must outlive a Subscribe context that ends in the middle of a
// Drain. Three things end a subscription, the first one wins, and Close overrides
// Drain:
//
//	Subscribe's ctx  before Drain: as Close. After Drain began: nothing
//	Drain            output closed at once, message contexts live until settled
//	Close            output closed at once, message contexts end; one that is
//	                 acked already has closeGrace for the adapter to take note
package relay

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/aura360/eventbus/bus/driver"
)

// NackResendSleep is the pause after a nack that a driver configures in its
// stock adapter. It is short because the adapter sleeps it out uninterruptibly;
// the relay adds what makes the pause grow, up to MaxNackPause.
const NackResendSleep = 100 * time.Millisecond

// MaxNackPause is the longest pause before a nacked message comes again.
const MaxNackPause = 5 * time.Second

// closeGrace is how long Close lets an adapter take note of messages that were
// acked before Close was called.
const closeGrace = 500 * time.Millisecond

// Config says what to relay.
type Config struct {
	Backend string // for logs and errors
	Group   string // for logs

	// Log tells when a subscription is lost and when it is back, not each try.
	// Defaults to discarding.
	Log *slog.Logger

	// Open returns a new stock subscriber, dialled. It may block as long as its
	// client's timeouts let it; ctx ends when Open returns or the subscription
	// stops, so nothing may be kept on it. The relay then calls the subscriber's
	// Subscribe once, and Close once, whatever happened. Two methods beyond
	// message.Subscriber are used when it has them:
	//
	//	StopFetching()    when draining starts: take nothing more from the broker
	//	Condition() error  nil while reading works; for State. Must not block
	Open func(ctx context.Context, topic string) (message.Subscriber, error)

	// Prepare, if set, is called on each message before it is forwarded, e.g. to
	// set events.HeaderKey. Called again when a message is redelivered.
	Prepare func(*message.Message)

	// CheckTopic, if set, returns an error for a topic that cannot exist.
	CheckTopic func(topic string) error

	// MinBackoff and MaxBackoff bound the pause between attempts to subscribe,
	// which doubles each time and is then shortened by up to a half at random.
	// Default to 100 ms and 10 s.
	MinBackoff, MaxBackoff time.Duration
}

// New returns a subscriber over the stock ones that cfg opens. It does no I/O.
func New(cfg Config) driver.Subscriber {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.MinBackoff <= 0 {
		cfg.MinBackoff = 100 * time.Millisecond
	}
	if cfg.MaxBackoff <= 0 {
		cfg.MaxBackoff = 10 * time.Second
	}
	return &subscriber{cfg: cfg}
}

// subscriber is the set of subscriptions, one per call of Subscribe.
type subscriber struct {
	cfg Config

	mu       sync.Mutex // guards all below
	subs     []*subscription
	draining bool
	closed   bool
}

// Subscribe implements driver.Subscriber.
func (s *subscriber) Subscribe(ctx context.Context, topic string) (<-chan *message.Message, error) {
	if topic == "" {
		return nil, fmt.Errorf("%s: subscribe: %w: no topic", s.cfg.Backend, driver.ErrPermanent)
	}
	if s.cfg.CheckTopic != nil {
		if err := s.cfg.CheckTopic(topic); err != nil {
			return nil, fmt.Errorf("%s: subscribe to %q: %w: %w", s.cfg.Backend, topic, driver.ErrPermanent, err)
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed || s.draining {
		return nil, fmt.Errorf("%s: subscribe to %s: %w", s.cfg.Backend, topic, driver.ErrClosed)
	}
	// Those that ended with their ctx are forgotten here, so that a process
	// that subscribes again and again does not collect them.
	live := s.subs[:0]
	for _, sub := range s.subs {
		if !sub.ended() {
			live = append(live, sub)
		}
	}
	sub := newSubscription(ctx, &s.cfg, topic)
	live = append(live, sub)
	s.subs = live
	go sub.run()
	return sub.out, nil
}

// Drain implements driver.Subscriber.
func (s *subscriber) Drain(ctx context.Context) error {
	s.mu.Lock()
	s.draining = true
	subs := append([]*subscription(nil), s.subs...)
	s.mu.Unlock()

	for _, sub := range subs {
		sub.startDrain()
	}
	for _, sub := range subs {
		select {
		case <-sub.done:
		case <-ctx.Done():
			// Both may be ready: what is done is done.
			if !sub.ended() {
				return fmt.Errorf("%s: drain %s: %w", s.cfg.Backend, sub.topic, context.Cause(ctx))
			}
		}
	}
	return nil
}

// Close implements driver.Subscriber. It takes as long as the stock subscribers
// need to close.
func (s *subscriber) Close() error {
	s.mu.Lock()
	first := !s.closed
	s.closed = true
	subs := append([]*subscription(nil), s.subs...)
	s.mu.Unlock()

	var errs []error
	for _, sub := range subs {
		sub.stopNow()
	}
	for _, sub := range subs {
		<-sub.done
		errs = append(errs, sub.closeErr)
	}
	if !first {
		return nil
	}
	return errors.Join(errs...)
}

// State implements driver.Subscriber. Of several subscriptions to one topic it
// shows the sum: connected when all are.
func (s *subscriber) State() map[string]driver.SubscriptionState {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := make(map[string]driver.SubscriptionState, len(s.subs))
	for _, sub := range s.subs {
		st := sub.state()
		if old, ok := out[sub.topic]; ok {
			st.Connected = st.Connected && old.Connected
			st.Resubscribed += old.Resubscribed
			if st.LastError == "" {
				st.LastError = old.LastError
			}
		}
		out[sub.topic] = st
	}
	return out
}
