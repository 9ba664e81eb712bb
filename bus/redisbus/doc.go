// Package redisbus is the bus on Redis Streams: one stream per topic, one
// consumer group per group of the bus. This build is on the stock
// watermill-redisstream adapter.
//
//	b, err := redisbus.Open(redisbus.Config{
//		URL:       "redis://localhost:6379/0",
//		Provision: driver.Provision{Create: true},
//	})
//	if err != nil {
//		return err // a wrong setting; a server that is down is not an error
//	}
//	defer b.Close(ctx)
//
//	sub, err := b.Subscriber("vectordb", driver.SubscriberOptions{})
//	msgs, err := sub.Subscribe(ctx, "orders")
//	err = b.Publish(ctx, "orders", message.NewMessage(watermill.NewUUID(), []byte(`{}`)))
//	msg := <-msgs
//	msg.Ack()
//	err = sub.Drain(ctx) // the ack is at Redis now
//
// # What holds
//
//   - Publish returns nil after Redis answered each XADD. Nothing is sent twice:
//     neither by go-redis's retries, which are off, nor by its Cluster client,
//     which is kept from it. Rejected means that no connection took the message
//     or that the server refused it; Unknown that the answer was lost.
//   - A group that is new, or was lost with FLUSHALL, a restart without data or
//     XGROUP DESTROY, starts at the oldest entry there is. In the last case that
//     means everything again.
//   - An entry is claimed by another member only when its own shows no sign of
//     life for ClaimAfter. Signs of life go on while a handler runs. A member
//     that stops in order leaves its entries at once.
//   - An entry that nobody can read is delivered all the same, marked with
//     events.HeaderMalformed. The wire is watermill-redisstream's own, so plain
//     Watermill services read what is published here, and the reverse.
//   - Streams are not trimmed.
//
// # What does not
//
//   - The events of one key are in order only while the group has one member,
//     and a topic has one event in flight: the stock adapter reads one entry per
//     round trip, with one in hand at a time. A nacked event holds up its whole topic.
//   - Redis replicates asynchronously: a failover (Sentinel, Cluster) may lose
//     what it confirmed last. Audit says so.
//   - A process that is killed leaves its entries for ClaimAfter, and its name
//     in XINFO CONSUMERS.
package redisbus
