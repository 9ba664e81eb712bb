package main

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/ThreeDotsLabs/watermill"
	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/aura360/eventbus/bus"
	"github.com/aura360/eventbus/events"
	"github.com/aura360/eventbus/events/aura360"
	"github.com/aura360/eventbus/router"
)

// users spreads the events over keys, as real traffic is.
const users = 1000

// topic is the benchmark's own: the platform's topics stay as they are.
const topic = "eventbus.bench.moods"

// moodNoted is an ordinary event, about 300 bytes of JSON.
type moodNoted struct {
	events.Base
	Data aura360.Mood `json:"data"`
}

var _ = events.Define[moodNoted]("bench.mood.noted", events.Topic(topic))

var noted = time.Date(2025, 1, 7, 12, 34, 56, 0, time.UTC)

func event(i int) moodNoted {
	return moodNoted{
		Base: events.Base{UserID: fmt.Sprintf("user-%d", i%users)},
		Data: aura360.Mood{MoodID: "mood", CreatedAt: noted, Score: float64(i%10 + 1), Tags: []string{"calm", "rested"}, Notes: "slept well, walked to work"},
	}
}

// wire is n events as our publish chain sends them: the bare side sends the
// same bytes and the same metadata.
func wire(n int) ([]*message.Message, error) {
	out := make([]*message.Message, n)
	for i := range out {
		enc, err := events.Encode(event(i), events.Base{})
		if err != nil {
			return nil, err
		}
		out[i] = message.NewMessage(enc.Base.ID, enc.Body)
		out[i].Metadata = enc.Header(events.SourceOf("bench"))
	}
	return out, nil
}

// publishOurs publishes typed events one at a time through the whole chain. The
// adapters know no contexts, so nobody can cancel this one either.
func publishOurs(b *bus.Bus) side {
	return func(ctx context.Context, m *meter, n int) error {
		ctx = context.WithoutCancel(ctx)
		evs := typed(n)
		m.start()
		for _, e := range evs {
			if err := b.Publish(ctx, e); err != nil {
				return err
			}
		}
		m.stop()
		return nil
	}
}

// publishBare publishes the same bytes one at a time with the adapter itself, as
// a program without a bus does: it makes a message of them and sets the headers.
func publishBare(p message.Publisher, topic string) side {
	return func(_ context.Context, m *meter, n int) error {
		ready, err := wire(n)
		if err != nil {
			return err
		}
		m.start()
		for _, w := range ready {
			msg := message.NewMessage(watermill.NewUUID(), w.Payload)
			for k, v := range w.Metadata {
				msg.Metadata.Set(k, v)
			}
			if err := p.Publish(topic, msg); err != nil {
				return err
			}
		}
		m.stop()
		return nil
	}
}

// groupSeq makes a group of its own for every drain: each starts at the oldest.
var groupSeq atomic.Int64

func newGroup() string {
	return fmt.Sprintf("bench-%d-%d", time.Now().UnixNano(), groupSeq.Add(1))
}

// patience is how long a drain may take as a whole.
const patience = 3 * time.Minute

// consumeOurs drains n events with a typed handler through the whole chain. The
// clock runs from the first handled event to the last: joining a group is not
// what is compared.
func consumeOurs(b *bus.Bus) side {
	return func(ctx context.Context, m *meter, n int) error {
		ctx, cancel := context.WithTimeout(ctx, patience)
		defer cancel()
		r, err := router.New(b, newGroup())
		if err != nil {
			return err
		}
		var seen atomic.Int64
		router.Handle(r, "count", func(context.Context, moodNoted) error {
			switch seen.Add(1) {
			case 1:
				m.start()
			case int64(n):
				m.stop()
				cancel()
			}
			return nil
		})
		if err := r.Run(ctx); err != nil {
			return err
		}
		if seen.Load() < int64(n) {
			return fmt.Errorf("%d of %d events within %v", seen.Load(), n, patience)
		}
		return nil
	}
}

// consumeBare drains n messages with the adapter's subscriber itself.
func consumeBare(open func(group string) (message.Subscriber, error), topic string) side {
	return func(ctx context.Context, m *meter, n int) error {
		ctx, cancel := context.WithTimeout(ctx, patience)
		defer cancel()
		s, err := open(newGroup())
		if err != nil {
			return err
		}
		msgs, err := s.Subscribe(ctx, topic)
		if err != nil {
			return err
		}
		seen := 0
		for msg := range msgs {
			msg.Ack()
			if seen++; seen == 1 {
				m.start()
			}
			if seen == n {
				m.stop()
				break
			}
		}
		if seen < n {
			return fmt.Errorf("%d of %d messages within %v", seen, n, patience)
		}
		return s.Close()
	}
}

// fill makes sure that the topic holds at least n events, published by many at
// once.
func fill(b *bus.Bus, n int) error {
	const workers = 32
	errs := make(chan error, workers)
	for w := range workers {
		go func() {
			var err error
			for i := w; i < n && err == nil; i += workers {
				err = b.Publish(context.Background(), event(i))
			}
			errs <- err
		}()
	}
	var err error
	for range workers {
		err = errors.Join(err, <-errs)
	}
	return err
}
