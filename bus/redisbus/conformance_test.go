package redisbus_test

import (
	"context"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/pubsub/tests"
	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"

	"github.com/aura360/eventbus/bus/driver"
	"github.com/aura360/eventbus/bus/drivertest"
	"github.com/aura360/eventbus/bus/redisbus"
	"github.com/aura360/eventbus/internal/brokertest"
)

// server is what the conformance suite needs of a Redis.
type server struct {
	url        string
	stop, back func(t testing.TB)
}

func harness(start func(t *testing.T) server, t *testing.T) drivertest.Harness {
	return harnessOf(start, t, func(t testing.TB, url string) driver.Backend {
		b, err := redisbus.Open(creating(url))
		if err != nil {
			t.Fatal(err)
		}
		return b
	})
}

func harnessOf(start func(t *testing.T) server, t *testing.T, open func(t testing.TB, url string) driver.Backend) drivertest.Harness {
	main := start(t)
	opener := func(url string) func(t testing.TB) driver.Backend {
		return func(t testing.TB) driver.Backend { return open(t, url) }
	}
	return drivertest.Harness{
		Open: opener(main.url),
		OpenDown: func(tb testing.TB) (driver.Backend, func()) {
			s := start(t)
			s.stop(tb)
			return opener(s.url)(tb), func() { s.back(tb) }
		},
		Restart: func(t testing.TB) {
			main.stop(t)
			main.back(t)
		},
		Inject: func(t testing.TB, topic string, raw []byte) {
			o, err := redis.ParseURL(main.url)
			if err != nil {
				t.Fatal(err)
			}
			c := redis.NewClient(o)
			defer c.Close()
			err = c.XAdd(t.Context(), &redis.XAddArgs{Stream: topic, Values: []any{
				"metadata", "\xc1", "payload", raw, // 0xc1 is never used in MessagePack
			}}).Err()
			if err != nil {
				t.Fatal(err)
			}
		},
	}
}

// mini starts a miniredis. It can be stopped only before it was used: it does
// not serve blocking reads after a restart.
func mini(t *testing.T) server {
	m := brokertest.FakeRedis(t).Mini
	addr := m.Addr()
	return server{
		url:  "redis://" + addr,
		stop: func(testing.TB) { m.Close() },
		back: func(t testing.TB) {
			again := miniredis.NewMiniRedis()
			if err := again.StartAddr(addr); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(again.Close)
		},
	}
}

func throwAway(t *testing.T) server {
	p := brokertest.StartRedis(t, brokertest.RedisOptions{})
	return server{
		url:  p.URL,
		stop: func(testing.TB) { p.Kill() },
		back: func(testing.TB) { p.Start() },
	}
}

func TestConformance(t *testing.T) {
	t.Run("miniredis", func(t *testing.T) {
		h := harness(mini, t)
		h.Except = map[string]drivertest.Exception{
			"Restart": {Reason: "miniredis does not serve blocking reads after a restart"},
			"Lag":     {Reason: "miniredis counts the lag wrong", MustFail: true, Wait: time.Second},
		}
		drivertest.Run(t, h)
	})
	t.Run("redis", func(t *testing.T) { drivertest.Run(t, harness(throwAway, t)) })
}

func TestWatermillsSuite(t *testing.T) {
	t.Run("miniredis", func(t *testing.T) { watermillsSuite(t, harness(mini, t)) })
	t.Run("redis", func(t *testing.T) { watermillsSuite(t, harness(throwAway, t)) })
}

func watermillsSuite(t *testing.T, h drivertest.Harness, adapt ...func(*tests.Features)) {
	t.Helper()
	// The suite forgets to close a subscriber (its TestPublishSubscribeInOrder
	// defers the outcome of Close rather than Close).
	bare := h.Open
	h.Open = func(tb testing.TB) driver.Backend {
		b := bare(tb)
		t.Cleanup(func() {
			if err := b.Close(context.Background()); err != nil {
				t.Error(err)
			}
		})
		return b
	}
	features := tests.Features{
		ConsumerGroups:                      true,
		ExactlyOnceDelivery:                 false,
		GuaranteedOrder:                     true,
		GuaranteedOrderWithSingleSubscriber: true,
		Persistent:                          true,
		// Is about subscribers without a group, which the bus does not have; that a
		// new group starts at the oldest message is in the conformance suite.
		NewSubscriberReceivesOldMessages: false,
		RequireSingleInstance:            false,
		// Nacks one message 5 times rather than 300: the pause between grows to
		// seconds here, by design.
		ForceShort: true,
	}
	for _, f := range adapt {
		f(&features)
	}
	drivertest.RunWatermill(t, h, features)
}
