package middleware

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"sync"
	"testing"

	"github.com/ThreeDotsLabs/watermill/message"
	"go.uber.org/goleak"

	"github.com/aura360/eventbus/bus/driver"
	"github.com/aura360/eventbus/events"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var errBoom = errors.New("boom")

// event returns a message as the bus would have delivered it.
func event(ctx context.Context, id, body string) *message.Message {
	msg := message.NewMessageWithContext(ctx, "uuid-"+id, []byte(body))
	msg.Metadata["event_id"], msg.Metadata["ce_id"] = id, id
	msg.Metadata["ce_source"] = "svc"
	msg.Metadata["event_type"] = "bench.event"
	return msg
}

func deliver(h message.HandlerFunc, msg *message.Message) (*Delivery, error) {
	d := Begin(msg, "kafka", "group", "topic")
	d.Handler, d.EventType = "handler", "bench.event"
	_, err := h(msg)
	return d, err
}

func handler(f func(ctx context.Context) error) message.HandlerFunc {
	return func(msg *message.Message) ([]*message.Message, error) { return nil, f(msg.Context()) }
}

// poisonQueue is a sink that remembers.
type poisonQueue struct {
	mu   sync.Mutex
	fail error
	msgs []*message.Message
	info []PoisonInfo
}

func (q *poisonQueue) sink(_ context.Context, msg *message.Message, info PoisonInfo) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.fail != nil {
		return q.fail
	}
	q.msgs, q.info = append(q.msgs, PoisonMessage(msg, info, 0)), append(q.info, info)
	return nil
}

func (q *poisonQueue) reasons() []events.Reason {
	q.mu.Lock()
	defer q.mu.Unlock()
	var out []events.Reason
	for _, i := range q.info {
		out = append(out, i.Reason)
	}
	return out
}

// logBuffer is a log that can be searched.
type logBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func (l *logBuffer) logger() *slog.Logger {
	return slog.New(slog.NewTextHandler(l, &slog.HandlerOptions{Level: slog.LevelDebug}))
}

func acked(msg *message.Message) string {
	select {
	case <-msg.Acked():
		return "acked"
	case <-msg.Nacked():
		return "nacked"
	default:
		return "unsettled"
	}
}

func confirm(context.Context, string, ...*message.Message) error { return nil }

func result(o driver.Outcome, err error) driver.Result { return driver.Result{Outcome: o, Err: err} }
