package kafkabus_test

import (
	"context"
	"fmt"

	"github.com/aura360/eventbus/bus/driver"
	"github.com/aura360/eventbus/bus/kafkabus"
)

// Opening needs no broker: the connection is made in the background. Most
// programs let package bus do it.
func ExampleOpen() {
	b, err := kafkabus.Open(kafkabus.Config{
		BootstrapServers: "localhost:9092",
		ClientID:         "mood-api",
		Provision:        driver.Provision{Create: true},
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(b.Name(), b.Capabilities().OrderedPerKey)
	fmt.Println(b.Close(context.Background()))
	// Output:
	// kafka true
	// <nil>
}

// All that is wrong is reported at once, by the names of the environment
// variables that package bus reads.
func ExampleConfig_Validate() {
	err := kafkabus.Config{BootstrapServers: "localhost:9092", SecurityProtocol: "SASL_SSL"}.Validate()
	fmt.Println(err)
	// Output:
	// KAFKA_SASL_USERNAME (or KAFKA_API_KEY) is not set: KAFKA_SASL_MECHANISM=PLAIN needs it
	// KAFKA_SASL_PASSWORD (or KAFKA_API_SECRET) is not set: KAFKA_SASL_MECHANISM=PLAIN needs it
}
