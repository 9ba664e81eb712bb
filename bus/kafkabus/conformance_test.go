//go:build unix

package kafkabus_test

import (
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/pubsub/tests"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/aura360/eventbus/bus/driver"
	"github.com/aura360/eventbus/bus/drivertest"
	"github.com/aura360/eventbus/bus/kafkabus"
	"github.com/aura360/eventbus/internal/brokertest"
)

// inject writes raw with more headers than anybody reads.
func inject(addr string) func(t testing.TB, topic string, raw []byte) {
	return func(t testing.TB, topic string, raw []byte) {
		bomb := make([]kgo.RecordHeader, 2000)
		for i := range bomb {
			bomb[i].Key = strconv.Itoa(i)
		}
		cl := plain(t, addr)
		defer cl.Close()
		if err := cl.ProduceSync(testContext(t), &kgo.Record{Topic: topic, Key: []byte("key"), Value: raw, Headers: bomb}).FirstErr(); err != nil {
			t.Fatal(err)
		}
	}
}

func TestConformanceOnKfake(t *testing.T) {
	dir, port := t.TempDir(), brokertest.Port(t)
	start := func(t testing.TB) *kfake.Cluster {
		c, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.Ports(port), kfake.DataDir(dir))
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	c := start(t)
	t.Cleanup(func() { c.Close() })
	addr := strings.Join(c.ListenAddrs(), ",")
	drivertest.Run(t, drivertest.Harness{
		Open: func(t testing.TB) driver.Backend { return mustOpen(t, config(addr)) },
		OpenDown: func(t testing.TB) (driver.Backend, func()) {
			port := brokertest.Port(t)
			return mustOpen(t, config("127.0.0.1:"+strconv.Itoa(port))), func() {
				brokertest.FakeKafka(t, kfake.Ports(port))
			}
		},
		Restart: func(t testing.TB) {
			c.Close()
			c = start(t)
		},
		Inject: inject(addr),
	})
}

func TestConformanceOnKafka(t *testing.T) {
	k := brokertest.StartKafka(t, brokertest.KafkaOptions{})
	drivertest.Run(t, drivertest.Harness{
		Open: func(t testing.TB) driver.Backend { return mustOpen(t, config(k.Addr)) },
		OpenDown: func(t testing.TB) (driver.Backend, func()) {
			p := brokertest.StartKafka(t, brokertest.KafkaOptions{Proxied: true})
			p.Proxies[0].Cut()
			return mustOpen(t, config(p.Addr)), p.Proxies[0].Restore
		},
		Restart: func(testing.TB) { k.Nodes[0].Restart() },
		Inject:  inject(k.Addr),
		Wait:    90 * time.Second,
	})
}

// mustOpen opens a backend that the suite closes.
func mustOpen(t testing.TB, cfg kafkabus.Config) driver.Backend {
	t.Helper()
	b, err := kafkabus.Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestWatermillSuite(t *testing.T) {
	each(t, func(t *testing.T, k brokertest.Kafka) {
		drivertest.RunWatermill(t, drivertest.Harness{
			Open: func(t testing.TB) driver.Backend { return mustOpen(t, config(k.Addr)) },
		}, tests.Features{
			ConsumerGroups:                      true,
			ExactlyOnceDelivery:                 false,
			GuaranteedOrder:                     true,
			GuaranteedOrderWithSingleSubscriber: false,
			Persistent:                          true,
			// Is about subscribers without a group, which the bus does not have; that a
			// new group starts at the oldest message is in the conformance suite.
			NewSubscriberReceivesOldMessages: false,
			// In full it nacks one message 100 times, with pauses that grow to 5 s.
			ForceShort: true,
		})
	})
}
