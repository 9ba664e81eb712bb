package middleware_test

import (
	"context"
	"errors"
	"fmt"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/aura360/eventbus/bus/driver"
	"github.com/aura360/eventbus/middleware"
)

// A chain for one handler: copies are dropped, failures tried again, and what
// cannot be handled goes to the poison queue.
func Example() {
	poisonQueue := func(_ context.Context, msg *message.Message, info middleware.PoisonInfo) error {
		kept := middleware.PoisonMessage(msg, info, 1<<20)
		fmt.Println("poisoned:", kept.Metadata["event_id"], kept.Metadata["eb_poison_reason"])
		return nil
	}
	marks := middleware.NewMemoryMarks(middleware.MemoryMarksConfig{})
	handle := func(msg *message.Message) ([]*message.Message, error) {
		if string(msg.Payload) == "bad" {
			return nil, middleware.Permanent(errors.New("no such order"))
		}
		fmt.Println("handled:", string(msg.Payload))
		return nil, nil
	}
	pieces := []message.HandlerMiddleware{
		middleware.Guard(nil),
		middleware.Deduplicate(marks, nil),
		middleware.Poison(poisonQueue, nil),
		middleware.Retry(middleware.RetryPolicy{}, nil),
		middleware.Recover(),
	}
	chain := message.HandlerFunc(handle)
	for i := len(pieces) - 1; i >= 0; i-- {
		chain = pieces[i](chain)
	}

	for _, m := range []struct{ id, body string }{{"1", "good"}, {"1", "good"}, {"2", "bad"}} {
		msg := message.NewMessage(m.id, []byte(m.body))
		msg.Metadata["event_id"] = m.id
		d := middleware.Begin(msg, "memory", "mail", "orders")
		_, err := chain(msg)
		fmt.Println(m.id, d.Outcome, err)
	}
	// Output:
	// handled: good
	// 1  <nil>
	// 1 duplicate <nil>
	// poisoned: 2 permanent
	// 2 poisoned <nil>
}

// Messages that are wrong are held back; the others of their batch are sent.
func ExampleChainPublish() {
	send := func(_ context.Context, topic string, msgs ...*message.Message) error {
		fmt.Println("sent to", topic+":", len(msgs))
		return nil
	}
	publish := middleware.ChainPublish(send,
		middleware.ValidatePublish(10),
		middleware.RetryPublish(middleware.RetryPolicy{}),
	)
	err := publish(context.Background(), "orders",
		message.NewMessage("1", []byte("small")),
		message.NewMessage("2", []byte("much too large")),
	)
	for _, r := range driver.Results(err, 2) {
		fmt.Println(r.Outcome, r.Err)
	}
	// Output:
	// sent to orders: 1
	// confirmed <nil>
	// rejected event: too_large: 14 bytes: want at most 10
}
