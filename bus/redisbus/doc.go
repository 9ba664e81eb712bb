// Package redisbus is the bus on Redis Streams: one consumer group per group of
// the bus, in two builds whose wire is the same.
//
// [Native], opened with [OpenNative], is our own publisher and subscriber. A
// topic is one stream per partition, so that the events of a key stay in order
// with any number of processes; publishing goes out in batches, as a transaction
// for each stream; and streams are trimmed of what every group has consumed. See
// docs/adr/005-redis-partitions.md.
//
// [Backend], opened with [Open], is on the stock watermill-redisstream adapter:
// one stream per topic. The rest of this page is about it.
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
