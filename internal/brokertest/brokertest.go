//go:build unix

// Package brokertest gives tests the brokers they run against.
//
// A suite asks for every flavour that is there and runs once on each. The
// embedded ones (kfake, miniredis) always are; the real ones when the
// environment names them, as scripts/brokers env does:
//
//	for _, k := range brokertest.Kafkas(t) {
//		t.Run(k.Name, func(t *testing.T) {
//			topic := brokertest.Name(t, "orders")
//			... k.Addr ...
//		})
//	}
//
// Shared brokers are shared: use [Name] for topics, groups and keys, and never
// flush or stop one. A test that must do so starts its own with [StartRedis],
// [StartKafka] and their kin, which die with the test, or cuts the way to it
// with [Proxy].
//
// EVENTBUS_TEST_REQUIRE=kafka,redis makes the lack of a real broker a failure
// rather than a skip, so that a CI run cannot pass by testing less.
package brokertest

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/twmb/franz-go/pkg/kfake"

	"github.com/aura360/eventbus/internal/brokertest/local"
)

// Kafka is a broker that a suite runs against.
type Kafka struct {
	Name string // "kfake" or "kafka"
	Real bool
	Addr string // bootstrap servers, separated by commas

	// Fake is the embedded cluster, to inject faults into. Nil if Real.
	Fake *kfake.Cluster
}

// Redis is a server that a suite runs against.
type Redis struct {
	Name string // "miniredis" or "redis"
	Real bool
	Addr string // host:port; empty when URL is not of the form redis://host:port
	URL  string

	// Mini is the embedded server, to inject faults into. Nil if Real.
	Mini *miniredis.Miniredis
}

// Kafkas returns the Kafka flavours to test against: one embedded broker of the
// test's own, and the one that KAFKA_BOOTSTRAP_SERVERS names. Neither creates
// topics by itself.
func Kafkas(t testing.TB, opts ...kfake.Opt) []Kafka {
	t.Helper()
	list := []Kafka{FakeKafka(t, opts...)}
	if addr := os.Getenv("KAFKA_BOOTSTRAP_SERVERS"); addr != "" {
		list = append(list, Kafka{Name: "kafka", Real: true, Addr: addr})
	} else if required("kafka") {
		t.Fatal("EVENTBUS_TEST_REQUIRE names kafka, but KAFKA_BOOTSTRAP_SERVERS is not set: see scripts/brokers")
	}
	return list
}

// FakeKafka starts an embedded Kafka of the test's own: one broker, unless opts
// say otherwise.
func FakeKafka(t testing.TB, opts ...kfake.Opt) Kafka {
	t.Helper()
	c, err := kfake.NewCluster(append([]kfake.Opt{kfake.NumBrokers(1)}, opts...)...)
	if err != nil {
		t.Fatalf("start kfake: %v", err)
	}
	t.Cleanup(c.Close)
	return Kafka{Name: "kfake", Addr: strings.Join(c.ListenAddrs(), ","), Fake: c}
}

// RealKafka returns the Kafka that the environment names, or skips the test.
func RealKafka(t testing.TB) Kafka {
	t.Helper()
	addr := os.Getenv("KAFKA_BOOTSTRAP_SERVERS")
	if addr == "" {
		lack(t, "kafka", "KAFKA_BOOTSTRAP_SERVERS is not set: see scripts/brokers")
	}
	return Kafka{Name: "kafka", Real: true, Addr: addr}
}

// Redises returns the Redis flavours to test against: one embedded server of
// the test's own, and the one that MESSAGING_REDIS_URL names.
func Redises(t testing.TB) []Redis {
	t.Helper()
	list := []Redis{FakeRedis(t)}
	if url := os.Getenv("MESSAGING_REDIS_URL"); url != "" {
		list = append(list, realRedis(url))
	} else if required("redis") {
		t.Fatal("EVENTBUS_TEST_REQUIRE names redis, but MESSAGING_REDIS_URL is not set: see scripts/brokers")
	}
	return list
}

// FakeRedis starts an embedded Redis of the test's own.
func FakeRedis(t testing.TB) Redis {
	t.Helper()
	m := miniredis.NewMiniRedis()
	if err := m.StartAddr(local.Addr(Port(t))); err != nil {
		t.Fatalf("start miniredis: %v", err)
	}
	t.Cleanup(m.Close)
	return Redis{Name: "miniredis", Addr: m.Addr(), URL: "redis://" + m.Addr() + "/0", Mini: m}
}

// RealRedis returns the Redis that the environment names, or skips the test.
func RealRedis(t testing.TB) Redis {
	t.Helper()
	url := os.Getenv("MESSAGING_REDIS_URL")
	if url == "" {
		lack(t, "redis", "MESSAGING_REDIS_URL is not set: see scripts/brokers")
	}
	return realRedis(url)
}

func realRedis(url string) Redis {
	addr, _, _ := strings.Cut(strings.TrimPrefix(url, "redis://"), "/")
	if strings.ContainsAny(addr, "@,:") && !plainAddr.MatchString(addr) {
		addr = ""
	}
	return Redis{Name: "redis", Real: true, Addr: addr, URL: url}
}

var (
	plainAddr  = regexp.MustCompile(`^[\w.-]+:\d+$`)
	notAllowed = regexp.MustCompile(`[^a-zA-Z0-9]+`)
)

// Name returns a name that no other test and no other run uses, for a topic, a
// stream, a group or a key: prefix, the test's name, and random digits. It is
// valid on every backend.
func Name(t testing.TB, prefix string) string {
	t.Helper()
	var b [6]byte
	_, _ = rand.Read(b[:])
	test := strings.ToLower(strings.Trim(notAllowed.ReplaceAllString(t.Name(), "-"), "-"))
	return prefix + "." + test[:min(len(test), 60)] + "." + hex.EncodeToString(b[:])
}

// Port returns a port of the loopback interface on which nobody listens, and
// that nobody else takes before the test does, nor while what the test starts
// there is away.
func Port(t testing.TB) int {
	t.Helper()
	port, err := local.Port(0)
	if err != nil {
		t.Fatal(err)
	}
	return port
}

// required tells whether EVENTBUS_TEST_REQUIRE names a broker.
func required(name string) bool {
	list := strings.Split(os.Getenv("EVENTBUS_TEST_REQUIRE"), ",")
	return slices.ContainsFunc(list, func(s string) bool { return strings.TrimSpace(s) == name })
}

// lack ends the test for want of a broker: skipped, or failed if it is required.
func lack(t testing.TB, name, why string) {
	t.Helper()
	if required(name) {
		t.Fatalf("EVENTBUS_TEST_REQUIRE names %s: %s", name, why)
	}
	t.Skipf("needs a real %s: %s", name, why)
}

// check ends the test if err is not nil: for want of a broker if that is what it
// says.
func check(t testing.TB, name string, err error) {
	t.Helper()
	if errors.Is(err, local.ErrNotInstalled) {
		lack(t, name, err.Error())
	}
	if err != nil {
		t.Fatal(err)
	}
}

// startTimeout bounds the start of a server: a busy machine is slow, not broken.
const startTimeout = 90 * time.Second

func startContext(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
	t.Cleanup(cancel)
	return ctx
}
