//go:build unix

package main

import (
	"context"
	"fmt"
	"io"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/aura360/eventbus/internal/brokertest/local"
)

// env prints shell lines that tell tests where the brokers are.
func (m *machine) env(w io.Writer) error {
	if m.Redis == nil && m.Bench == nil && m.Kafka == nil {
		return errNothing
	}
	export := func(name, value string) {
		fmt.Fprintf(w, "export %s='%s'\n", name, strings.ReplaceAll(value, "'", `'\''`))
	}
	if m.Redis != nil {
		export("MESSAGING_REDIS_URL", m.told(m.Redis))
	}
	if m.Bench != nil {
		export("EVENTBUS_BENCH_REDIS_URL", m.told(m.Bench))
	}
	if m.Kafka == nil {
		return nil
	}
	export("KAFKA_BOOTSTRAP_SERVERS", m.told(m.Kafka))
	if m.Kafka.From != native {
		return nil
	}
	for _, l := range local.Listeners {
		if l != local.Plaintext {
			export("EVENTBUS_TEST_KAFKA_"+string(l), local.Addr(m.Kafka.Ports[l]))
		}
	}
	export("EVENTBUS_TEST_CERTS", m.certs().Dir)
	return nil
}

// status prints what runs and whether it answers.
func (m *machine) status(ctx context.Context, w io.Writer) error {
	known := false
	show := func(name string, s *service, ping func(context.Context) error) {
		if s == nil {
			fmt.Fprintf(w, "%-12s not running\n", name)
			return
		}
		known = true
		ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
		defer cancel()
		answer := "ready"
		if err := ping(ctx); err != nil {
			answer = "does not answer: " + err.Error()
		}
		from := s.From
		if s.PID != 0 {
			from = fmt.Sprintf("%s, pid %d", from, s.PID)
		}
		fmt.Fprintf(w, "%-12s %s (%s) %s\n", name, safe(s.Addr), from, answer)
		for _, l := range local.Listeners {
			if port, ok := s.Ports[l]; ok && l != local.Plaintext {
				fmt.Fprintf(w, "  %-14s %s\n", l, local.Addr(port))
			}
		}
	}
	show("redis", m.Redis, func(ctx context.Context) error { return pingRedis(ctx, m.Redis.Addr) })
	show("redis-bench", m.Bench, func(ctx context.Context) error { return pingRedis(ctx, m.Bench.Addr) })
	show("kafka", m.Kafka, func(ctx context.Context) error { return local.PingKafka(ctx, m.Kafka.Addr, 1) })
	if !known {
		return errNothing
	}
	return nil
}

// backends prints one line: what the tests of this environment run against.
func (m *machine) backends(ctx context.Context, w io.Writer) {
	redis := "redis (embedded miniredis; for a real one: scripts/brokers up)"
	if addr := os.Getenv("MESSAGING_REDIS_URL"); addr != "" {
		version := ""
		if v, err := redisVersion(ctx, addr); err == nil {
			version = v + " "
		}
		redis = fmt.Sprintf("redis (embedded miniredis, real %sat %s)", version, safe(addr))
	}
	kafka := "kafka (embedded kfake; for a real one: scripts/brokers up)"
	if addr := os.Getenv("KAFKA_BOOTSTRAP_SERVERS"); addr != "" {
		version := ""
		if m.Kafka != nil && m.Kafka.From == native && m.Kafka.Addr == addr {
			version = local.KafkaVersion + " "
		}
		kafka = fmt.Sprintf("kafka (embedded kfake, real %sat %s)", version, addr)
	}
	fmt.Fprintf(w, "backends: memory, %s, %s\n", redis, kafka)
}

func pingRedis(ctx context.Context, addr string) error {
	host, tls := redisHost(addr)
	if tls {
		return nil // not ours, and we do not know its authority
	}
	return local.PingRedis(ctx, host, nil)
}

func redisVersion(ctx context.Context, addr string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	host, tls := redisHost(addr)
	if tls {
		return "", fmt.Errorf("not asked over TLS")
	}
	return local.RedisVersion(ctx, host)
}

// redisHost is the host and port of a Redis address, and whether it is TLS.
func redisHost(addr string) (host string, tls bool) {
	u, err := url.Parse(addr)
	if err != nil || u.Host == "" {
		return addr, false
	}
	host = u.Host
	if u.Port() == "" {
		host += ":6379"
	}
	return host, u.Scheme == "rediss"
}
