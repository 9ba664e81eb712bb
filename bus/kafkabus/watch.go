package kafkabus

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"github.com/IBM/sarama"
	"github.com/ThreeDotsLabs/watermill"
	"github.com/ThreeDotsLabs/watermill-kafka/v3/pkg/kafka"

	"github.com/aura360/eventbus/internal/wlog"
)

// watch sits in the two hooks that the stock subscriber offers, its tracer and
// its logger, and through them
//
//   - knows whether the group's session is up, and why not;
//   - makes a topic again that is gone: deleted, or its broker came back empty;
//   - slows the stock's loop down, which starts again at once after a session
//     that could not be joined (a group that may not be used, say);
//   - lets acks count that come after a session ended. The stock drops them, so
//     that a rebalance of an eager strategy repeated every message in hand. They
//     are in time: sarama ends a session by waiting for the handlers, then
//     commits what they marked, and only then joins the next.
type watch struct {
	watermill.LoggerAdapter
	log     *slog.Logger
	missing func() // called when the broker says that the topic does not exist
	stopped chan struct{}
	stop    func()

	mu       sync.Mutex
	up       bool
	last     error         // why it is not up
	starts   int           // sessions tried since one was up
	reported string        // the error that was logged last
	pause    time.Duration // before the next try
}

var (
	_ kafka.SaramaTracer      = (*watch)(nil)
	_ watermill.LoggerAdapter = (*watch)(nil)
)

var errJoining = errors.New("joining the group")

func newWatch(log *slog.Logger, missing func()) *watch {
	v := &watch{LoggerAdapter: wlog.New(log), log: log, missing: missing, last: errJoining, stopped: make(chan struct{})}
	v.stop = sync.OnceFunc(func() { close(v.stopped) })
	return v
}

// condition is nil while the session is up.
func (v *watch) condition() error {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.up {
		return nil
	}
	return v.last
}

func (v *watch) set(up bool) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.up = up
	v.starts = 0
	if up {
		v.last, v.reported, v.pause = errJoining, "", 0
	}
}

// Error implements watermill.LoggerAdapter. The stock subscriber says here, and
// only here, why something failed. The same error again and again is one line.
func (v *watch) Error(msg string, err error, fields watermill.LogFields) {
	if err == nil {
		err = errors.New(msg)
	}
	v.mu.Lock()
	v.last = err
	repeated := v.reported == err.Error()
	v.reported = err.Error()
	v.mu.Unlock()
	level := slog.LevelWarn
	if repeated {
		level = slog.LevelDebug
	}
	v.log.Log(context.Background(), level, "subscription has trouble", "what", msg, "error", err.Error())
}

// Info implements watermill.LoggerAdapter. What the stock one says of every
// subscription and every reconnect is news to a developer at most.
func (v *watch) Info(msg string, fields watermill.LogFields) { v.Debug(msg, fields) }

// With implements watermill.LoggerAdapter. The stock's fields repeat ours.
func (v *watch) With(watermill.LogFields) watermill.LoggerAdapter { return v }

// WrapConsumerGroupHandler implements kafka.SaramaTracer. It is called before
// each try to join the group.
func (v *watch) WrapConsumerGroupHandler(h sarama.ConsumerGroupHandler) sarama.ConsumerGroupHandler {
	v.mu.Lock()
	v.starts++
	if v.starts > 1 {
		v.pause = min(max(2*v.pause, minConnectPause), maxConnectPause)
	}
	pause, gone := v.pause, errors.Is(v.last, sarama.ErrUnknownTopicOrPartition)
	v.mu.Unlock()
	if gone {
		v.missing()
	}
	if pause > 0 {
		t := time.NewTimer(pause)
		defer t.Stop()
		select {
		case <-t.C:
		case <-v.stopped:
		}
	}
	return groupHandler{h, v}
}

// The rest of kafka.SaramaTracer is for what is not used here.

func (v *watch) WrapConsumer(c sarama.Consumer) sarama.Consumer { return c }

func (v *watch) WrapPartitionConsumer(c sarama.PartitionConsumer) sarama.PartitionConsumer { return c }

func (v *watch) WrapSyncProducer(_ *sarama.Config, p sarama.SyncProducer) sarama.SyncProducer {
	return p
}

// groupHandler is the stock's handler, watched.
type groupHandler struct {
	sarama.ConsumerGroupHandler
	v *watch
}

func (h groupHandler) Setup(s sarama.ConsumerGroupSession) error {
	h.v.set(true)
	return h.ConsumerGroupHandler.Setup(s)
}

func (h groupHandler) Cleanup(s sarama.ConsumerGroupSession) error {
	h.v.set(false)
	return h.ConsumerGroupHandler.Cleanup(s)
}

func (h groupHandler) ConsumeClaim(s sarama.ConsumerGroupSession, c sarama.ConsumerGroupClaim) error {
	return h.ConsumerGroupHandler.ConsumeClaim(lasting{s}, c)
}

// lasting is a session whose context does not end, so that the stock handler
// marks what is acked as long as it runs. It stops by its claim's channel, which
// sarama closes when the session ends or the partition is taken away.
type lasting struct {
	sarama.ConsumerGroupSession
}

func (s lasting) Context() context.Context {
	return context.WithoutCancel(s.ConsumerGroupSession.Context())
}
