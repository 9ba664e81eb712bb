package membus_test

import (
	"testing"

	"github.com/ThreeDotsLabs/watermill/pubsub/tests"

	"github.com/aura360/eventbus/bus/driver"
	"github.com/aura360/eventbus/bus/drivertest"
	"github.com/aura360/eventbus/bus/membus"
)

func harness(cfg membus.Config) drivertest.Harness {
	first := membus.Open(cfg)
	noBroker := drivertest.Exception{Reason: "a broker in memory is never down and starts empty"}
	return drivertest.Harness{
		Open: func(testing.TB) driver.Backend { return first.Connect() },
		Except: map[string]drivertest.Exception{
			"OpenWhileDown": noBroker,
			"Restart":       noBroker,
			"Malformed":     {Reason: "there is no wire: only messages can be put in"},
		},
	}
}

func TestConformance(t *testing.T) {
	drivertest.Run(t, harness(membus.Config{MaxMessageBytes: 1 << 20}))
}

// TestWatermillSuite claims order with any number of members, which the stock
// GoChannel does not.
func TestWatermillSuite(t *testing.T) {
	drivertest.RunWatermill(t, harness(membus.Config{}), tests.Features{
		ConsumerGroups:                      true,
		ExactlyOnceDelivery:                 false,
		GuaranteedOrder:                     true,
		GuaranteedOrderWithSingleSubscriber: false,
		Persistent:                          true,
	})
}
