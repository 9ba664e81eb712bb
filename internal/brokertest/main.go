package brokertest

import (
	"fmt"
	"os"
	"testing"
	"time"

	"go.uber.org/goleak"
)

// leakPatience is longer than the pauses that the stock adapters' goroutines
// finish before they look whether they are still wanted (500 ms).
const leakPatience = 5 * time.Second

// Main runs a package's tests and then fails if a goroutine is left. It is
// goleak.VerifyTestMain with more patience: see leakPatience.
func Main(m *testing.M) {
	code := m.Run()
	if code == 0 {
		deadline := time.Now().Add(leakPatience)
		err := goleak.Find()
		for err != nil && time.Now().Before(deadline) {
			err = goleak.Find() // waits about half a second by itself
		}
		if err != nil {
			fmt.Fprintf(os.Stderr, "goroutines are left after the tests: %v\n", err)
			code = 1
		}
	}
	os.Exit(code)
}
