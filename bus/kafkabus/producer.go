package kafkabus

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/IBM/sarama"

	"github.com/aura360/eventbus/bus/driver"
)

const (
	// smallBytes is sarama's limit for ordinary messages. It limits a batch, too:
	// with a greater one sarama would put concurrent messages together into
	// batches that the broker refuses, whose default limit is this one.
	// Greater messages go through a producer of their own, one per request.
	smallBytes = 1 << 20

	// maxSending bounds the Publish calls that are being sent, and so the
	// goroutines, also of those whose contexts ended.
	maxSending = 1024

	minConnectPause = 100 * time.Millisecond
	maxConnectPause = 5 * time.Second
)

// producer does what the stock publisher does, marshal and SendMessage, on a
// sarama.SyncProducer that is connected in the background.
//
// The stock one could not be used as it is: it dials when it is made, and leaks
// a client for each time that fails; it cannot be cancelled; and its closed flag
// is not safe to use beside Publish. Here Publish goes on in a goroutine that
// may outlive the caller's context, and close waits until none is left.
type producer struct {
	b    *Backend
	wire *wire

	ready  chan struct{} // closed when client and sync are set
	client sarama.Client
	sync   sarama.SyncProducer

	slots chan struct{}
	wg    sync.WaitGroup // Publish goroutines, and connecting

	mu      sync.Mutex
	closed  bool
	lastErr error // of connecting
}

// newProducer starts connecting a producer for messages up to maxBytes.
func newProducer(b *Backend, maxBytes int) *producer {
	p := &producer{
		b:     b,
		wire:  newWire(context.Background(), b.cfg),
		ready: make(chan struct{}),
		slots: make(chan struct{}, maxSending),
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if maxBytes > smallBytes {
		b.bigOpen = p
	}
	if b.closed {
		p.closed = true
		p.wire.abort()
		return p
	}
	p.wg.Go(func() { p.connect(maxBytes) })
	return p
}

// connect dials, trying until it succeeds or close is called.
func (p *producer) connect(maxBytes int) {
	cfg := p.b.producerConfig(p.wire, maxBytes)
	if maxBytes > smallBytes {
		cfg.Producer.Flush.MaxMessages = 1
	}
	pause := minConnectPause
	for failures := 0; ; failures++ {
		err := p.dial(cfg)
		if err == nil {
			if failures > 0 {
				p.b.cfg.Log.Info("producer connected", "backend", name, "attempts", failures+1)
			}
			close(p.ready)
			return
		}
		if p.wire.aborted() {
			return
		}
		p.mu.Lock()
		p.lastErr = err
		p.mu.Unlock()
		if failures == 0 {
			p.b.cfg.Log.Warn("producer cannot connect, trying again", "backend", name, "error", err.Error())
		}
		if !sleep(p.wire.life, pause/2+rand.N(pause/2)) {
			return
		}
		pause = min(2*pause, maxConnectPause)
	}
}

// dial makes a producer. Its client is made first, because sarama leaks that of
// a producer for which it gets no producer id.
func (p *producer) dial(cfg *sarama.Config) error {
	client, err := sarama.NewClient(p.b.addrs, cfg)
	if err != nil {
		return err
	}
	sync, err := sarama.NewSyncProducerFromClient(client)
	if err != nil {
		_ = client.Close()
		return err
	}
	p.client, p.sync = client, sync
	return nil
}

// await waits until the producer is connected. Its error means that nothing was
// sent.
func (p *producer) await(ctx context.Context) error {
	select {
	case <-p.ready:
		return nil
	default:
	}
	t := time.NewTimer(p.b.cfg.ConnectTimeout)
	defer t.Stop()
	var why error
	select {
	case <-p.ready:
		return nil
	case <-p.wire.life.Done():
		return driver.ErrClosed
	case <-ctx.Done():
		why = context.Cause(ctx)
	case <-t.C:
		why = errConnectTimeout
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.lastErr != nil {
		return unavailable(fmt.Errorf("%w: %w", why, p.lastErr))
	}
	return unavailable(why)
}

var errConnectTimeout = errors.New("not connected in time")

// begin admits one Publish, which must call end. Its error means that nothing
// was sent.
func (p *producer) begin(ctx context.Context) error {
	select {
	case p.slots <- struct{}{}:
	case <-ctx.Done():
		return unavailable(fmt.Errorf("%d publishes are being sent: %w", maxSending, context.Cause(ctx)))
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		<-p.slots
		return driver.ErrClosed
	}
	p.wg.Add(1)
	return nil
}

func (p *producer) end() {
	<-p.slots
	p.wg.Done()
}

// send sends one message and returns what became of it. It is not bounded by a
// context but by sarama's retries, or by close.
func (p *producer) send(msg *sarama.ProducerMessage) driver.Result {
	before := p.wire.mark()
	_, _, err := p.sync.SendMessage(msg)
	if err == nil {
		return driver.Result{}
	}
	return classify(err, p.wire.since(before))
}

// close waits for the publishes being sent until ctx ends, and then cuts them
// off. It returns when everything is released, or shortly after ctx ended: what
// sarama then still waits for are its pauses between tries.
func (p *producer) close(ctx context.Context) error {
	p.mu.Lock()
	p.closed = true
	p.mu.Unlock()
	select {
	case <-p.ready:
	default:
		p.wire.abort() // nothing was sent: stop connecting
	}
	released := make(chan error, 1)
	go func() {
		p.wg.Wait()
		var err error
		select {
		case <-p.ready:
			err = errors.Join(p.sync.Close(), p.client.Close())
		default:
		}
		p.wire.abort()
		released <- err
	}()
	select {
	case err := <-released:
		return err
	case <-ctx.Done():
	}
	p.wire.abort()
	select {
	case err := <-released:
		return fmt.Errorf("messages were still being sent: %w", errors.Join(context.Cause(ctx), err))
	case <-time.After(abortGrace):
	}
	return fmt.Errorf("messages were still being sent: %w", context.Cause(ctx))
}

// abortGrace is how long close waits for sarama after it cut the connections.
const abortGrace = 2 * time.Second
