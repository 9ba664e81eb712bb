package kafkabus

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/IBM/sarama"
	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/aura360/eventbus/bus/driver"
)

// batchOverhead is more than what a batch of one adds to its record.
const batchOverhead = 128

var errDeliveryTimeout = errors.New("delivery timeout")

// Publish implements driver.Backend. The messages go out one after the other,
// each waiting for its confirmation, and the first that fails stops the rest:
// so a message is never in the topic behind one that may be missing.
func (b *Backend) Publish(ctx context.Context, topic string, msgs ...*message.Message) error {
	n := len(msgs)
	if n == 0 {
		return nil
	}
	reject := func(err error) error { return driver.Fail(name, topic, n, driver.Rejected, err) }
	if b.isClosed() {
		return reject(driver.ErrClosed)
	}
	if err := checkTopic(topic); err != nil {
		return reject(fmt.Errorf("%w: topic %q: %w", driver.ErrPermanent, topic, err))
	}
	ctx, cancel := context.WithTimeoutCause(ctx, b.cfg.DeliveryTimeout, errDeliveryTimeout)
	defer cancel()

	route, records := make([]*producer, n), make([]*sarama.ProducerMessage, n)
	for i, msg := range msgs {
		// Marshaled here, and the payload copied: a send may outlive this call.
		records[i], _ = marshaler{}.Marshal(topic, msg)
		records[i].Value = sarama.ByteEncoder(bytes.Clone(msg.Payload))
		route[i] = b.small
		if records[i].ByteSize(2)+batchOverhead > smallBytes {
			route[i] = b.large()
		}
		if i > 0 && route[i] == route[i-1] {
			continue
		}
		if err := route[i].await(ctx); err != nil {
			return reject(err)
		}
	}
	if b.cfg.Provision.Create {
		if err := b.ensure(ctx, b.topics.spec(topic)); err != nil {
			return reject(err)
		}
	}
	// One slot is enough: a call sends one message at a time. A call that uses
	// both producers counts for both, so that neither is closed under it.
	owners := []*producer{b.small}
	if big := b.openLarge(route); big != nil {
		owners = append(owners, big)
	}
	for i, p := range owners {
		if err := p.begin(ctx); err != nil {
			for _, q := range owners[:i] {
				q.end()
			}
			return reject(err)
		}
	}
	s := &sending{results: make([]driver.Result, n), done: make(chan struct{})}
	go func() {
		defer func() {
			for _, p := range owners {
				p.end()
			}
		}()
		s.run(records, route)
	}()
	select {
	case <-s.done:
	case <-ctx.Done():
		s.stop(context.Cause(ctx))
	}
	return s.outcome(b, topic)
}

// openLarge returns the large producer if route uses it.
func (b *Backend) openLarge(route []*producer) *producer {
	for _, p := range route {
		if p != b.small {
			return p
		}
	}
	return nil
}

// sending is the state of one Publish. Its goroutine goes on after the caller
// left, and then only finishes the message in hand.
type sending struct {
	done chan struct{} // closed when all outcomes are known

	mu      sync.Mutex // guards below
	started int        // messages handed to sarama
	known   int        // of them, those with a result
	stopped error      // why no more are to be handed over
	results []driver.Result
}

func (s *sending) run(records []*sarama.ProducerMessage, route []*producer) {
	defer close(s.done)
	for i, rec := range records {
		if !s.next() {
			return
		}
		if !s.settle(i, route[i].send(rec)) {
			return
		}
	}
}

// next counts the next message as started, unless the caller is gone.
func (s *sending) next() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stopped != nil {
		return false
	}
	s.started++
	return true
}

// settle notes the result of message i, and tells whether to go on.
func (s *sending) settle(i int, r driver.Result) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stopped != nil {
		return false // the caller has its results already
	}
	s.results[i] = r
	s.known = i + 1
	return r.Err == nil
}

// stop ends the wait: what was started and is not known stays Unknown.
func (s *sending) stop(cause error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.stopped = cause
}

// outcome returns the error of the Publish.
func (s *sending) outcome(b *Backend, topic string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	failed := false
	for i := range s.results {
		r := &s.results[i]
		switch {
		case i < s.known:
		case i < s.started:
			*r = driver.Result{Outcome: driver.Unknown, Err: fmt.Errorf("not confirmed yet: %w", s.stopped)}
		case s.stopped != nil:
			*r = driver.Result{Outcome: driver.Rejected, Err: fmt.Errorf("%w: %w", driver.ErrNotSent, s.stopped)}
		default:
			*r = driver.Result{Outcome: driver.Rejected, Err: driver.ErrNotSent}
		}
		if r.Err == nil {
			continue
		}
		failed = true
		if errors.Is(r.Err, sarama.ErrUnknownTopicOrPartition) {
			b.topics.forget(topic)
			if !b.cfg.Provision.Create {
				r.Err = missingTopic(topic, r.Err)
			}
		}
	}
	if !failed {
		return nil
	}
	return &driver.PublishError{Backend: name, Topic: topic, Results: s.results}
}

// missingTopic says what to do about a topic that is not there.
func missingTopic(topic string, err error) error {
	return fmt.Errorf("topic %s does not exist, and creating topics is turned off: %w", topic, err)
}
