package membus_test

import (
	"context"
	"fmt"
	"strconv"
	"testing"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/ThreeDotsLabs/watermill/pubsub/gochannel"

	"github.com/aura360/eventbus/bus/driver"
	"github.com/aura360/eventbus/bus/membus"
	"github.com/aura360/eventbus/events"
)

// benchMessages are 256-byte messages of 1000 keys with as many headers as given.
func benchMessages(headers int) []*message.Message {
	msgs := make([]*message.Message, 1000)
	for i := range msgs {
		m := message.NewMessage("018f0000-0000-7000-8000-"+fmt.Sprintf("%012d", i), make([]byte, 256))
		m.Metadata[events.HeaderKey] = "user-" + strconv.Itoa(i)
		for h := 1; h < headers; h++ {
			m.Metadata["ce_header_"+strconv.Itoa(h)] = "018f0000-0000-7000-8000-000000000000"
		}
		msgs[i] = m
	}
	return msgs
}

// BenchmarkPublishDeliverAck takes a message from Publish to its ack, for
// membus and for the stock GoChannel with the only setting that keeps order.
func BenchmarkPublishDeliverAck(b *testing.B) {
	for _, headers := range []int{1, 12} {
		msgs := benchMessages(headers)
		name := fmt.Sprintf("headers=%d", headers)
		b.Run("gochannel/"+name, func(b *testing.B) {
			g := gochannel.NewGoChannel(gochannel.Config{BlockPublishUntilSubscriberAck: true}, nil)
			defer g.Close()
			ch, err := g.Subscribe(b.Context(), "topic")
			if err != nil {
				b.Fatal(err)
			}
			go func() {
				for m := range ch {
					m.Ack()
				}
			}()
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				if err := g.Publish("topic", msgs[i%len(msgs)]); err != nil {
					b.Fatal(err)
				}
			}
		})
		for _, batch := range []int{1, 100} {
			b.Run(fmt.Sprintf("membus/%s/batch=%d", name, batch), func(b *testing.B) {
				benchMembus(b, msgs, batch, driver.SubscriberOptions{DirectSettle: true})
			})
		}
		b.Run("membus-watchers/"+name, func(b *testing.B) {
			benchMembus(b, msgs, 1, driver.SubscriberOptions{})
		})
	}
}

func benchMembus(b *testing.B, msgs []*message.Message, batch int, opts driver.SubscriberOptions) {
	ctx := context.Background()
	bus := membus.Open(membus.Config{MaxBacklog: 10_000})
	defer bus.Close(ctx)
	sub, err := bus.Subscriber("group", opts)
	if err != nil {
		b.Fatal(err)
	}
	ch, err := sub.Subscribe(ctx, "topic")
	if err != nil {
		b.Fatal(err)
	}
	done := make(chan struct{})
	last := make(chan int, 1)
	go func() {
		defer close(done)
		n, want := 0, -1
		for m := range ch {
			driver.Settle(m, true)
			n++
			select {
			case want = <-last:
			default:
			}
			if n == want {
				return
			}
		}
	}()
	b.ReportAllocs()
	n := 0
	for b.Loop() {
		if n%batch == 0 {
			at := n % len(msgs)
			if err := bus.Publish(ctx, "topic", msgs[at:at+batch]...); err != nil {
				b.Fatal(err)
			}
		}
		n++
	}
	// Every message counts as done when it has been acked.
	n = (n + batch - 1) / batch * batch
	last <- n + 1
	if err := bus.Publish(ctx, "topic", msgs[0]); err != nil {
		b.Fatal(err)
	}
	<-done
}
