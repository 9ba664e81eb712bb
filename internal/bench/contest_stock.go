package main

import (
	"context"
	"errors"
	"time"

	"github.com/ThreeDotsLabs/watermill"
	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/aura360/eventbus/events"
)

// messageOf encodes an event with the same codec and headers as ours.
func messageOf(e moodNoted) (*message.Message, error) {
	enc, err := events.Encode(e, events.Base{})
	if err != nil {
		return nil, err
	}
	m := message.NewMessage(enc.Base.ID, enc.Body)
	m.Metadata = enc.Header(benchSource)
	return m, nil
}

var benchSource = events.SourceOf("bench")

// stockBatches publishes batches with a stock publisher.
func stockBatches(p message.Publisher, topic string) func(context.Context, []moodNoted) error {
	return func(_ context.Context, evs []moodNoted) error {
		msgs := make([]*message.Message, len(evs))
		for i, e := range evs {
			var err error
			if msgs[i], err = messageOf(e); err != nil {
				return err
			}
		}
		return p.Publish(topic, msgs...)
	}
}

// stockOne publishes one event with a stock publisher.
func stockOne(p message.Publisher, topic string) publishOne {
	return func(_ context.Context, i int) error {
		m, err := messageOf(event(i))
		if err != nil {
			return err
		}
		return p.Publish(topic, m)
	}
}

// drainStock drains n events with a stock subscriber under Watermill's router
// and a handler that decodes them with the same codec and takes pause for each.
func drainStock[T events.Event](open func(group string) (message.Subscriber, error), topic string, pause time.Duration) side {
	return func(ctx context.Context, m *meter, n int) error {
		ctx, cancel := context.WithTimeout(ctx, patience)
		defer cancel()
		s, err := open(newGroup())
		if err != nil {
			return err
		}
		r, err := message.NewRouter(message.RouterConfig{CloseTimeout: 10 * time.Second}, watermill.NopLogger{})
		if err != nil {
			return err
		}
		d := drained{m: m, n: n, done: cancel}
		r.AddConsumerHandler("count", topic, s, func(msg *message.Message) error {
			if err := handlePlain[T](msg.Payload); err != nil {
				return err
			}
			work(msg.Context(), pause)
			d.one()
			return nil
		})
		return errors.Join(r.Run(ctx), d.complete())
	}
}

// fillWith publishes n events from many goroutines at once.
func fillWith(n int, publish func(i int) error) error {
	return fromMany(func(_ context.Context, i int) error { return publish(i) })(context.Background(), new(meter), n)
}
