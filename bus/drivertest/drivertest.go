// Package drivertest is the conformance suite that every backend passes: what
// the comments of package driver promise, as tests.
//
//	func TestConformance(t *testing.T) {
//		drivertest.Run(t, drivertest.Harness{
//			Open: func(t testing.TB) driver.Backend {
//				return redisbus.Open(redisbus.Config{Addr: addr})
//			},
//			Restart: func(t testing.TB) { server.Restart() },
//			Inject: func(t testing.TB, topic string, raw []byte) { ... },
//			Except: map[string]drivertest.Exception{
//				"OpenWhileDown": {Reason: "the test server can't be opened late"},
//			},
//		})
//	}
//
// Nothing is skipped silently. A case that does not apply says so, because the
// backend's Capabilities say that it promises nothing there; a case that a
// backend cannot pass stands in Harness.Except with the reason, and is either
// not run or, with MustFail, run and required to fail, so that a reason that is
// no longer true is noticed. A hook that is nil needs an exception as well.
//
// RunWatermill runs Watermill's own suite on a backend.
package drivertest

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/aura360/eventbus/bus/driver"
)

// Harness makes what the suite needs of one backend. Open is required.
type Harness struct {
	// Open returns a new client of the broker. All of them are clients of the
	// same one, see each other's messages and groups, and are closed by the
	// suite.
	Open func(t testing.TB) driver.Backend

	// OpenDown returns a client of a broker that can't be reached, and a
	// function that makes it reachable and returns when it is.
	OpenDown func(t testing.TB) (b driver.Backend, up func())

	// Restart stops the broker that Open's clients use and starts it again with
	// its data. It returns when it takes messages again.
	Restart func(t testing.TB)

	// Inject puts raw into the topic as an entry that no publisher of ours would
	// write and the backend cannot read as a message.
	Inject func(t testing.TB, topic string, raw []byte)

	// Except names the cases (see Cases) that this backend does not pass.
	Except map[string]Exception

	// Wait bounds every wait of the suite for something that must happen.
	// Defaults to 30 s.
	Wait time.Duration
	// Quiet is how long the suite watches that something does not happen, where
	// no message can serve as a sign. Defaults to 100 ms.
	Quiet time.Duration
	// Serial runs the cases one after another instead of in parallel.
	Serial bool
}

// Exception is a case that a backend does not pass.
type Exception struct {
	// Reason is required.
	Reason string
	// MustFail runs the case and requires that it fails. Without it, for what
	// fails only sometimes or takes too long to, the case is not run.
	MustFail bool
	// Wait replaces Harness.Wait, so that a failure that is expected does not
	// take long.
	Wait time.Duration
}

// testCase is one claim about a backend.
type testCase struct {
	name string
	// needs says what of the capabilities the claim is about; "" that it applies.
	needs func(driver.Capabilities) (missing string)
	// hook says whether the harness has what the case needs; "" that it has.
	hook func(*Harness) (missing string)
	// alone runs it when no other case does.
	alone bool
	run   func(*env)
}

var cases = slices.Concat(publishCases, subscribeCases, orderCases, closeCases, faultCases)

// Cases returns the names of all cases.
func Cases() []string {
	names := make([]string, len(cases))
	for i, c := range cases {
		names[i] = c.name
	}
	return names
}

// Run runs every case as a subtest.
func Run(t *testing.T, h Harness) {
	t.Helper()
	if h.Open == nil {
		t.Fatal("drivertest: Harness.Open is nil")
	}
	h = h.withDefaults()
	for name, x := range h.Except {
		if !slices.Contains(Cases(), name) {
			t.Errorf("drivertest: Except names %q, which is no case", name)
		}
		if x.Reason == "" {
			t.Errorf("drivertest: Except[%q] gives no reason", name)
		}
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			if !c.alone && !h.Serial {
				t.Parallel()
			}
			runCase(t, h, c)
		})
	}
}

func (h Harness) withDefaults() Harness {
	h.Wait = cmp.Or(h.Wait, 30*time.Second)
	h.Quiet = cmp.Or(h.Quiet, 100*time.Millisecond)
	return h
}

func runCase(t *testing.T, h Harness, c testCase) {
	x, excepted := h.Except[c.name]
	if excepted && !x.MustFail {
		t.Skipf("exception: %s", x.Reason)
	}
	if c.hook != nil {
		if missing := c.hook(&h); missing != "" {
			t.Fatalf("Harness.%s is nil: set it, or say in Except[%q] why there is none", missing, c.name)
		}
	}
	caps := h.capabilities(t)
	if c.needs != nil {
		if missing := c.needs(caps); missing != "" {
			t.Skipf("the backend does not claim it: %s", missing)
		}
	}
	if caps.Discards && !strings.HasPrefix(c.name, "Publish") {
		t.Skip("the backend does not claim it: it discards every message")
	}
	if !excepted {
		c.run(newEnv(t, h, caps))
		return
	}
	if x.Wait > 0 {
		h.Wait = x.Wait
	}
	failures := expectFailure(t, func(tb testing.TB) { c.run(newEnv(tb, h, caps)) })
	if len(failures) == 0 {
		t.Fatalf("passes, but Except says: %s", x.Reason)
	}
	t.Logf("fails as Except says (%s): %s", x.Reason, strings.Join(failures, "; "))
}

// capabilities asks a client of its own.
func (h *Harness) capabilities(t testing.TB) driver.Capabilities {
	b := h.Open(t)
	defer closeBackend(t, b)
	return b.Capabilities()
}

var serial atomic.Int64

// run is part of every name, so that two runs on one broker don't meet.
var run = strings.ReplaceAll(uuid.NewString(), "-", "")[:12]

func uniqueName(kind string) string {
	return fmt.Sprintf("dt-%s-%s-%d", run, kind, serial.Add(1))
}
