package kafkabus

// Exception is a case of the conformance suite that the stock adapter does not
// pass. docs/backends.md shows them.
type Exception struct {
	Case     string // its name in package drivertest
	Reason   string
	MustFail bool // it fails always, and a test requires that it does
}

// WatermillExceptions lists what the stock adapter cannot do.
func WatermillExceptions() []Exception {
	return []Exception{
		{
			Case:     "MessageContext",
			Reason:   "the stock adapter gives all deliveries of a message one context, which ends with the ack; a nack does not end it",
			MustFail: true,
		},
	}
}
