package middleware

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"

	"github.com/ThreeDotsLabs/watermill"
	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/ThreeDotsLabs/watermill/pubsub/gochannel"
)

// TestPiecesWorkInAPlainWatermillRouter: no Begin, no driver of ours.
func TestPiecesWorkInAPlainWatermillRouter(t *testing.T) {
	logger := watermill.NopLogger{}
	ps := gochannel.NewGoChannel(gochannel.Config{OutputChannelBuffer: 10, Persistent: true}, logger)
	r, err := message.NewRouter(message.RouterConfig{}, logger)
	if err != nil {
		t.Fatal(err)
	}
	m, err := NewMetrics(nil)
	if err != nil {
		t.Fatal(err)
	}
	var q poisonQueue
	poisoned := make(chan struct{}, 10)
	sink := func(ctx context.Context, msg *message.Message, info PoisonInfo) error {
		defer func() { poisoned <- struct{}{} }()
		return q.sink(ctx, msg, info)
	}
	r.AddMiddleware(Guard(nil), Trace(Tracing{}), Measure(m, "gochannel"), Deduplicate(NewMemoryMarks(MemoryMarksConfig{}), nil),
		Poison(sink, nil), Retry(RetryPolicy{MaxAttempts: 2, Initial: 1, Max: 1}, nil), Recover())
	var tries atomic.Int32
	handled := make(chan *Delivery, 10)
	r.AddConsumerHandler("h", "topic", ps, func(msg *message.Message) error {
		if msg.UUID == "uuid-bad" {
			tries.Add(1)
			panic(errBoom)
		}
		handled <- DeliveryFrom(msg.Context())
		return nil
	})
	ctx, cancel := context.WithCancel(t.Context())
	ran := make(chan error)
	go func() { ran <- r.Run(ctx) }()
	<-r.Running()
	for _, id := range []string{"bad", "good", "good"} {
		if err := ps.Publish("topic", event(context.Background(), id, "{}")); err != nil {
			t.Fatal(err)
		}
	}
	d := <-handled
	if d.Topic != "topic" || d.Handler != "h" {
		t.Errorf("delivery %q, %q", d.Topic, d.Handler)
	}
	if err := ps.Publish("topic", event(context.Background(), "last", "{}")); err != nil {
		t.Fatal(err)
	}
	<-handled
	<-poisoned
	cancel()
	if err := errors.Join(<-ran, ps.Close()); err != nil {
		t.Error(err)
	}
	if tries.Load() != 2 || len(q.info) != 1 || q.info[0].Handler != "h" || len(handled) != 0 {
		t.Errorf("%d tries, poisoned %v, %d more handled", tries.Load(), q.reasons(), len(handled))
	}
}
