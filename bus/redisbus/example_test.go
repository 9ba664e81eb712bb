package redisbus_test

import (
	"context"
	"fmt"

	"github.com/aura360/eventbus/bus/driver"
	"github.com/aura360/eventbus/bus/redisbus"
)

// Opening needs no server: the connection is made in the background. Most
// programs let package bus do it.
func ExampleOpen() {
	b, err := redisbus.Open(redisbus.Config{
		URL:       "redis://localhost:6379/0",
		Provision: driver.Provision{Create: true},
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(b.Name(), b.Capabilities().OrderedSingleMember)
	fmt.Println(b.Close(context.Background()))
	// Output:
	// redis true
	// <nil>
}
