// Package middleware is what happens around every message, on its way out and
// on its way in. The bus and the router put its pieces together; a program that
// uses Watermill's router alone can do the same:
//
//	r, _ := message.NewRouter(message.RouterConfig{}, logger)
//	r.AddMiddleware(
//		middleware.Guard(log),
//		middleware.Measure(metrics, "kafka"),
//		middleware.Poison(sink, log),
//		middleware.Retry(middleware.RetryPolicy{}, log),
//		middleware.Recover(),
//	)
//	r.AddConsumerHandler("mail", "orders", subscriber, sendMail)
//
// # In
//
// A piece of the subscribe path is a Watermill message.HandlerMiddleware. The
// order is fixed, the outermost first; any piece can be left out.
//
//	Guard           a panic in the chain is logged; the driver is told ack or nack
//	Trace           span "process <topic>", continues the message's trace
//	Measure         counts and times by outcome
//	Poison          around the decoding: what cannot be read is poisoned
//	  (decode and dispatch: the router's)
//	Deduplicate     claim, handle, mark: a copy of what is done is dropped
//	Poison          a final error goes to the poison queue, and the message is acked
//	Delay           puts off what Retry gave up, for a later round of tries
//	Retry           tries again, in place
//	CircuitBreaker  waits while what the handler needs is down
//	Throttle        waits for its turn in time
//	Concurrency     waits for a free place
//	Timeout         a deadline for this try
//	Recover         a panic is an error of this try
//
// Middleware of a user's own stands well right inside Measure (once per
// message) or right inside Retry (once per try).
//
// What holds in this order: a message is acked when it was handled, is a
// duplicate, is for nobody here, or the poison queue has confirmed it; never
// otherwise. A delivery that is stopped, because its driver ended its context or
// the bus is closing, is left unacked and never poisoned: stopping says nothing
// about the message. Waiting pieces hold the message's in-flight slot, so that
// consuming slows down, and its key, so that order is kept.
//
// The pieces find each other's results in the Delivery, which is the message's
// context. None of their errors and log lines holds a payload; the text of a
// handler's own error is logged and kept as it is.
//
// # Out
//
// A piece of the publish path wraps a PublishFunc, in the end the driver's. The
// order, the outermost first:
//
//	ValidatePublish  holds back what no broker should see
//	TracePublish     span "send <topic>", writes the trace into the messages
//	MetricsPublish   counts and times by outcome
//	RetryPublish     sends again what was not confirmed; bounds each try
//	PoisonPublish    keeps what the broker refuses for ever
//
// Every piece keeps the contract of driver.Backend's Publish: nil only when all
// messages are confirmed, else one result per message.
package middleware
