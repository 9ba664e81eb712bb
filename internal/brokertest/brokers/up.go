//go:build unix

package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/aura360/eventbus/internal/brokertest/local"
)

// up arranges a Redis, a second Redis for benchmarks, and a Kafka. What runs
// already is left as it is. What this machine cannot run is said, and is not an
// error unless -all was asked for.
func (m *machine) up(ctx context.Context, args []string) error {
	flags := flag.NewFlagSet("up", flag.ContinueOnError)
	redis := flags.String("redis", "", "address of the Redis that Docker Compose runs")
	bench := flags.String("bench", "", "address of the Redis for benchmarks that Docker Compose runs")
	kafka := flags.String("kafka", "", "address of the Kafka that Docker Compose runs")
	flags.IntVar(&m.redisPort, "redis-port", 6379, "where to start Redis, if the port is free")
	flags.IntVar(&m.benchPort, "bench-port", 6389, "where to start the Redis for benchmarks, if the port is free")
	flags.IntVar(&m.kafkaPort, "kafka-port", 9092, "where to start Kafka, if the port is free")
	all := flags.Bool("all", false, "fail if a broker cannot be had")
	if err := flags.Parse(args); err != nil {
		return err
	}
	err := errors.Join(
		m.arrange(ctx, "redis", &m.Redis, os.Getenv("MESSAGING_REDIS_URL"), *redis, m.startRedis),
		m.arrange(ctx, "redis for benchmarks", &m.Bench, os.Getenv("EVENTBUS_BENCH_REDIS_URL"), *bench, m.startBench),
		m.arrange(ctx, "kafka", &m.Kafka, os.Getenv("KAFKA_BOOTSTRAP_SERVERS"), *kafka, m.startKafka),
	)
	if !*all && errors.Is(err, local.ErrNotInstalled) && onlyMissing(err) {
		err = nil
	}
	return err
}

// arrange fills in one service: the one in the environment, the one from
// Compose, the one that already runs, or a new process.
func (m *machine) arrange(ctx context.Context, name string, s **service, env, container string, start func(context.Context) (*service, error)) error {
	began := time.Now()
	how := "started"
	if *s != nil && (*s).From == given && env == "" {
		*s = nil // the environment no longer says so
	}
	if *s != nil && env != "" && env != m.told(*s) {
		if err := stop(name, *s); err != nil {
			return err
		}
	}
	switch {
	case *s != nil && (env == "" || env == m.told(*s)):
		how = "already running"
	case env != "":
		*s, how = &service{From: given, Addr: env}, "from the environment"
	case container != "":
		*s, how = &service{From: compose, Addr: container}, "in Docker Compose"
	default:
		started, err := start(ctx)
		if err != nil {
			fmt.Printf("%s: not available: %v\n", name, err)
			return fmt.Errorf("%s: %w", name, err)
		}
		*s = started
	}
	if how == "started" {
		fmt.Printf("%s: started at %s (pid %d, ready after %.1fs)\n", name, (*s).Addr, (*s).PID, time.Since(began).Seconds())
	} else {
		fmt.Printf("%s: %s at %s\n", name, how, safe((*s).Addr))
	}
	return m.save()
}

// told is the value that env prints for a service.
func (m *machine) told(s *service) string {
	if s != m.Kafka && !strings.Contains(s.Addr, "://") {
		return "redis://" + s.Addr + "/0"
	}
	return s.Addr
}

func (m *machine) startRedis(ctx context.Context) (*service, error) {
	return m.redis(ctx, local.Redis{Name: "redis", Dir: m.file("redis"), Fsync: "always"}, m.redisPort)
}

func (m *machine) startBench(ctx context.Context) (*service, error) {
	return m.redis(ctx, local.Redis{Name: "redis-bench", Dir: m.file("redis-bench"), Fsync: "everysec"}, m.benchPort)
}

func (m *machine) redis(ctx context.Context, r local.Redis, port int) (*service, error) {
	if err := os.RemoveAll(r.Dir); err != nil {
		return nil, err
	}
	var err error
	if r.Port, err = local.Port(port); err != nil {
		return nil, err
	}
	server, err := r.Server()
	if err != nil {
		return nil, err
	}
	return start(ctx, server, &service{From: native, Addr: local.Addr(r.Port)})
}

func (m *machine) startKafka(ctx context.Context) (*service, error) {
	k := local.Kafka{
		Dir:         m.file("kafka"),
		ClusterID:   local.NewClusterID(),
		Ports:       map[local.Listener]int{},
		Controllers: map[int]int{},
		Secure:      m.certs(),
	}
	if err := os.RemoveAll(k.Dir); err != nil {
		return nil, err
	}
	if _, err := local.MakeCerts(k.Secure.Dir); err != nil {
		return nil, err
	}
	if err := k.Secure.MakeOAuthKey(); err != nil {
		return nil, err
	}
	var err error
	for i, l := range local.Listeners {
		preferred := 9092 + i
		if l == local.Plaintext {
			preferred = m.kafkaPort
		}
		if k.Ports[l], err = local.Port(preferred); err != nil {
			return nil, err
		}
	}
	if k.Controllers[1], err = local.Port(9092 + len(local.Listeners)); err != nil {
		return nil, err
	}
	server, err := k.Server(ctx)
	if err != nil {
		return nil, err
	}
	return start(ctx, server, &service{From: native, Ports: k.Ports, Addr: local.Addr(k.Ports[local.Plaintext])})
}

func start(ctx context.Context, server local.Server, s *service) (*service, error) {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	p, err := server.Start(ctx, true)
	if err != nil {
		return nil, err
	}
	s.PID, s.Birth = p.PID, p.Birth
	return s, nil
}

// down stops the processes and removes their data. Servers whose addresses were
// given are left alone; containers are stopped by scripts/brokers.
func (m *machine) down() error {
	if err := errors.Join(
		stop("kafka", m.Kafka),
		stop("redis for benchmarks", m.Bench),
		stop("redis", m.Redis),
	); err != nil {
		return err
	}
	return os.RemoveAll(m.dir)
}

// stop ends a service if it is a process of ours.
func stop(name string, s *service) error {
	if s == nil || s.From != native {
		return nil
	}
	p := local.Attach(s.PID, s.Birth)
	if p == nil {
		return nil
	}
	if err := p.Stop(10 * time.Second); err != nil {
		return fmt.Errorf("stop %s (pid %d): %w", name, s.PID, err)
	}
	fmt.Printf("%s: stopped (pid %d)\n", name, s.PID)
	return nil
}

// onlyMissing tells whether every part of a joined error is about a program
// that is not installed.
func onlyMissing(err error) bool {
	if j, ok := err.(interface{ Unwrap() []error }); ok {
		for _, e := range j.Unwrap() {
			if !onlyMissing(e) {
				return false
			}
		}
		return true
	}
	return errors.Is(err, local.ErrNotInstalled)
}

// safe is an address without its password.
func safe(addr string) string {
	u, err := url.Parse(addr)
	if err != nil || u.Host == "" {
		return addr
	}
	return u.Redacted()
}
