// Package kafkabus is the bus on Apache Kafka, in two builds that write and read
// the same records and are configured alike. Open is the stock one, through the
// adapters that Watermill users know: watermill-kafka on sarama, with every
// setting that makes them safe. OpenNative has a publisher and a subscriber of our
// own on franz-go.
//
//	b, err := kafkabus.OpenNative(kafkabus.Config{
//		BootstrapServers: "localhost:9092",
//		Provision:        driver.Provision{Create: true},
//	})
//	if err != nil {
//		return err
//	}
//	defer b.Close(ctx)
//	m := message.NewMessage(watermill.NewUUID(), []byte(`{"total": 12}`))
//	m.Metadata[events.HeaderKey] = "customer-7"
//	if err := b.Publish(ctx, "shop.orders", m); err != nil {
//		return err // driver.Results tells what became of each message
//	}
//	sub, err := b.Subscriber("billing", driver.SubscriberOptions{})
//	if err != nil {
//		return err
//	}
//	msgs, err := sub.Subscribe(ctx, "shop.orders")
//	if err != nil {
//		return err
//	}
//	for m := range msgs {
//		fmt.Println(string(m.Payload))
//		m.Ack()
//	}
//
// # What holds
//
// A publish that returns nil is confirmed by all in-sync replicas (acks=all,
// idempotent). One that fails says for each message whether it was rejected or
// may be in the topic. To know this although a client reports only the last error
// of several tries, it looks at its own connections: see wire.go.
//
// The conformance suite (package drivertest) passes without exceptions.
//
// # The native build
//
// One record's way out: Publish copies it, with its call, into the lane of its
// partition. If nothing of that lane is on its way it goes out at once, else with
// whatever else gathers until the answer comes. What a lane sends is one batch,
// confirmed or refused as a whole, so no message is confirmed behind one of its
// key that was not. When the caller's context ends, what waits in a lane is taken
// back, and so is what the client has and never wrote; the rest is Unknown and,
// a moment later, cancelled: no copy is sent once the caller has given up.
//
// And in: a subscriber is one client and one member of its group. What it fetches
// goes through package delivery, up to MaxInFlight unacked and one per key, and
// comes back as acks in any order. Of each partition the offset before which all
// is acked is committed, and what is acked beyond it is in the commit's metadata,
// so that the next owner does not handle it again. A partition that moves to
// another member is waited for, up to three quarters of Config.MaxPollInterval, and
// committed; meanwhile the others go on. A member that dies repeats what it had in
// hand, and what it acked since its last commit.
//
// A topic that is deleted and made again is read from its beginning, and a broker
// that lost its data is as one that never had any.
//
// # The stock build
//
// A subscription starts at the oldest message, has one message per partition in
// hand, commits what was acked once a second and when it is drained or closed,
// and outlives its broker. A rebalance repeats nothing that is acked, with any
// strategy. A member that dies repeats at most what it acked in the last second.
//
// Messages of different keys in one partition wait for each other (Capabilities
// says ParallelKeys false): so does a rebalance for the messages in hand, up to
// Config.MaxPollInterval. After a broker was away, sarama refuses a topic for up
// to ten seconds once three publishes failed; they are Rejected at once.
//
// # The wire
//
// What Watermill's own marshaler writes and reads: metadata as headers, the
// message's UUID as header _watermill_message_uuid. The partition key is the
// record's key. Records of others are read whatever they are.
package kafkabus
