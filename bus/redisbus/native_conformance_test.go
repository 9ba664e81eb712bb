package redisbus_test

import (
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/pubsub/tests"

	"github.com/aura360/eventbus/bus/driver"
	"github.com/aura360/eventbus/bus/drivertest"
	"github.com/aura360/eventbus/bus/redisbus"
)

func nativeHarness(start func(t *testing.T) server, t *testing.T) drivertest.Harness {
	return harnessOf(start, t, func(t testing.TB, url string) driver.Backend {
		b, err := redisbus.OpenNative(creating(url))
		if err != nil {
			t.Fatal(err)
		}
		return b
	})
}

func TestNativeConformance(t *testing.T) {
	t.Run("miniredis", func(t *testing.T) {
		h := nativeHarness(mini, t)
		h.Except = map[string]drivertest.Exception{
			"Restart": {Reason: "miniredis does not serve blocking reads after a restart"},
			"Lag":     {Reason: "miniredis counts the lag wrong", MustFail: true, Wait: time.Second},
		}
		drivertest.Run(t, h)
	})
	t.Run("redis", func(t *testing.T) { drivertest.Run(t, nativeHarness(throwAway, t)) })
}

func TestNativeWatermillsSuite(t *testing.T) {
	features := func(f *tests.Features) { f.GuaranteedOrderWithSingleSubscriber = false }
	t.Run("miniredis", func(t *testing.T) { watermillsSuite(t, nativeHarness(mini, t), features) })
	t.Run("redis", func(t *testing.T) { watermillsSuite(t, nativeHarness(throwAway, t), features) })
}
