//go:build unix

package brokertest

import (
	"context"
	"fmt"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/aura360/eventbus/internal/brokertest/local"
)

// RedisOptions describes a throw-away Redis.
type RedisOptions struct {
	Port  int    // defaults to a free one
	Fsync string // appendfsync policy. Defaults to "always"
	TLS   bool   // encrypted; a client certificate is accepted, not required

	// Config holds more lines of redis.conf, for example
	// "maxmemory 10mb" or "user alice on >secret ~* &* +@all".
	Config []string
}

// RedisProcess is a throw-away Redis.
type RedisProcess struct {
	*Process
	URL string // redis:// or rediss://, without credentials

	// With TLS, PEM files: the authority of the server's certificate, and a
	// client certificate with its key.
	CA, ClientCert, ClientKey string
}

// StartRedis starts a Redis of the test's own, empty, in a few milliseconds.
func StartRedis(t testing.TB, o RedisOptions) *RedisProcess {
	t.Helper()
	r := local.Redis{Dir: t.TempDir(), Port: o.Port, Fsync: o.Fsync, Config: o.Config}
	out := &RedisProcess{}
	scheme := "redis"
	if o.TLS {
		scheme = "rediss"
		certs, err := local.MakeCerts(filepath.Join(r.Dir, "certs"))
		check(t, "redis", err)
		r.Certs = certs
		out.CA, out.ClientCert, out.ClientKey = certs.Path(local.CACert), certs.Path(local.ClientCert), certs.Path(local.ClientKey)
	}
	out.Process = startRedis(t, r)
	out.URL = fmt.Sprintf("%s://%s/0", scheme, out.Addr)
	return out
}

func startRedis(t testing.TB, r local.Redis) *Process {
	t.Helper()
	if r.Port == 0 {
		r.Port = Port(t)
	}
	server, err := r.Server()
	check(t, "redis", err)
	return startProcess(t, "redis", local.Addr(r.Port), server)
}

// RedisSentinel is a primary, one replica, and one sentinel that watches them.
type RedisSentinel struct {
	Master   string // the name that the sentinel knows the primary by
	Primary  *Process
	Replica  *Process
	Sentinel *Process
}

// StartRedisSentinel starts a primary with a replica in step, and a sentinel
// that promotes the replica one second after the primary is gone.
func StartRedisSentinel(t testing.TB) *RedisSentinel {
	t.Helper()
	s := &RedisSentinel{Master: "eventbus"}
	s.Primary = startRedis(t, local.Redis{Name: "redis primary", Dir: t.TempDir()})
	host, port, _ := net.SplitHostPort(s.Primary.Addr)
	s.Replica = startRedis(t, local.Redis{
		Name: "redis replica", Dir: t.TempDir(),
		Config: []string{fmt.Sprintf("replicaof %s %s", host, port)},
	})
	waitRedis(t, s.Replica.Addr, "the replica to be in step", func(ctx context.Context, c *redis.Client) bool {
		info, err := c.Info(ctx, "replication").Result()
		return err == nil && strings.Contains(info, "master_link_status:up")
	})
	s.Sentinel = startRedis(t, local.Redis{
		Name: "redis sentinel", Dir: t.TempDir(), Sentinel: true,
		Config: []string{
			fmt.Sprintf("sentinel monitor %s %s %s 1", s.Master, host, port),
			"sentinel down-after-milliseconds " + s.Master + " 1000",
			"sentinel failover-timeout " + s.Master + " 5000",
		},
	})
	waitRedis(t, s.Sentinel.Addr, "the sentinel to know the replica", func(ctx context.Context, c *redis.Client) bool {
		n, err := c.Do(ctx, "SENTINEL", "REPLICAS", s.Master).Slice()
		return err == nil && len(n) == 1
	})
	return s
}

// RedisCluster is three primaries that share the slots.
type RedisCluster struct {
	Addrs []string
	Nodes []*Process
}

// StartRedisCluster starts a Redis Cluster of three primaries without replicas.
func StartRedisCluster(t testing.TB) *RedisCluster {
	t.Helper()
	const n, slots = 3, 16384
	ports, err := local.Ports(2 * n)
	check(t, "redis", err)
	c := &RedisCluster{}
	for i := range n {
		node := startRedis(t, local.Redis{
			Name: fmt.Sprintf("redis cluster node %d", i+1), Dir: t.TempDir(), Port: ports[2*i],
			Config: []string{
				"cluster-enabled yes",
				fmt.Sprintf("cluster-port %d", ports[2*i+1]),
				"cluster-node-timeout 2000",
			},
		})
		c.Nodes = append(c.Nodes, node)
		c.Addrs = append(c.Addrs, node.Addr)
	}
	ctx := startContext(t)
	for i, node := range c.Nodes {
		cl := redis.NewClient(&redis.Options{Addr: node.Addr})
		err := cl.ClusterAddSlotsRange(ctx, slots*i/n, slots*(i+1)/n-1).Err()
		if err == nil && i > 0 {
			err = cl.Do(ctx, "CLUSTER", "MEET", local.Loopback, ports[0], ports[1]).Err()
		}
		if cerr := cl.Close(); err == nil {
			err = cerr
		}
		check(t, "redis", err)
	}
	for _, node := range c.Nodes {
		waitRedis(t, node.Addr, "the cluster to form", func(ctx context.Context, cl *redis.Client) bool {
			info, err := cl.ClusterInfo(ctx).Result()
			return err == nil && strings.Contains(info, "cluster_state:ok") && strings.Contains(info, fmt.Sprintf("cluster_known_nodes:%d", n))
		})
	}
	return c
}

// waitRedis waits until holds says so of the server at addr.
func waitRedis(t testing.TB, addr, what string, holds func(context.Context, *redis.Client) bool) {
	t.Helper()
	c := redis.NewClient(&redis.Options{Addr: addr})
	defer c.Close()
	ctx := startContext(t)
	for !holds(ctx, c) {
		select {
		case <-ctx.Done():
			t.Fatalf("waited %s in vain for %s", startTimeout, what)
		case <-time.After(20 * time.Millisecond):
		}
	}
}
