// Package membus is the backend "memory": a broker with topics and consumer
// groups in the memory of this process, for tests, demonstrations and services
// that need no other.
//
//	b := membus.Open(membus.Config{})
//	defer b.Close(ctx)
//
//	sub, _ := b.Subscriber("billing", driver.SubscriberOptions{})
//	msgs, _ := sub.Subscribe(ctx, "orders")
//	go func() {
//		for msg := range msgs {
//			fmt.Println(string(msg.Payload))
//			msg.Ack()
//		}
//	}()
//
//	err := b.Publish(ctx, "orders", message.NewMessage("1", []byte("a chair")))
//
// What holds, as long as the process lives:
//
//   - Each group gets every message of a topic from the oldest there is; its
//     members share them. Of one key one message is unacked at a time, with any
//     number of members; messages of different keys, and those without one, are
//     handled in parallel.
//   - A nacked message comes again after a pause of 10 ms that doubles to 5 s,
//     before later ones of its key. Other keys do not wait for it.
//   - What a subscriber had not acked when it closed goes back to the group, in
//     order.
//   - Nothing that was accepted is lost, with one exception: while no group has
//     read a topic, it keeps the newest Config.Retain messages. Memory is bounded
//     all the same, because publishing blocks while a group has
//     Config.MaxBacklog messages to settle.
//   - A group that is created when others have handled messages already gets
//     the newest Config.Keep of them, and what any group has not settled.
//
// Publishing puts a message straight into a consumer's channel: there is no
// goroutine in between, and none at all but the watchers of messages whose
// consumer does not ask for driver.SubscriberOptions.DirectSettle. Therefore a
// backend that is forgotten rather than closed leaks nothing, and tests may use
// it inside testing/synctest.
package membus
