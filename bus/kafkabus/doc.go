// Package kafkabus is the bus on Apache Kafka, through the adapters that
// Watermill users know: watermill-kafka on sarama, with every setting that makes
// them safe.
//
//	b, err := kafkabus.Open(kafkabus.Config{
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
// may be in the topic. To know this although sarama reports only the last error
// of several tries, the client looks at its own connections: see wire.go.
//
// A subscription starts at the oldest message, has one message per partition in
// hand, commits what was acked once a second and when it is drained or closed,
// and outlives its broker. A rebalance repeats nothing that is acked, with any
// strategy. A member that dies repeats at most what it acked in the last second.
//
// # What does not
//
// Messages of different keys in one partition wait for each other (Capabilities
// says ParallelKeys false): so does a rebalance for the messages in hand, up to
// Config.MaxPollInterval. After a broker was away, sarama refuses a topic for up
// to ten seconds once three publishes failed; they are Rejected at once.
// The conformance suite (package drivertest) passes without exceptions.
//
// # The wire
//
// What Watermill's own marshaler writes and reads: metadata as headers, the
// message's UUID as header _watermill_message_uuid. The partition key is the
// record's key. Records of others are read whatever they are.
package kafkabus
