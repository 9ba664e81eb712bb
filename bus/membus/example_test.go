package membus_test

import (
	"context"
	"fmt"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/aura360/eventbus/bus/driver"
	"github.com/aura360/eventbus/bus/membus"
	"github.com/aura360/eventbus/events"
)

func Example() {
	ctx := context.Background()
	b := membus.Open(membus.Config{})
	defer b.Close(ctx)

	// Published before anybody reads: kept.
	for _, item := range []string{"a chair", "a table", "a lamp"} {
		msg := message.NewMessage(item, []byte(item))
		msg.Metadata[events.HeaderKey] = "customer-1"
		if err := b.Publish(ctx, "orders", msg); err != nil {
			fmt.Println(err)
		}
	}

	sub, _ := b.Subscriber("billing", driver.SubscriberOptions{})
	msgs, _ := sub.Subscribe(ctx, "orders")
	for range 3 {
		msg := <-msgs // one at a time, because they have the same key
		fmt.Println(string(msg.Payload))
		msg.Ack()
	}

	// Output:
	// a chair
	// a table
	// a lamp
}
