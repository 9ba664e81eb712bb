//go:build unix

package brokertest_test

import (
	"crypto/tls"
	"crypto/x509"
	"net"
	"os"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/aura360/eventbus/internal/brokertest"
)

func redisClient(t testing.TB, o *redis.Options) *redis.Client {
	c := redis.NewClient(o)
	t.Cleanup(func() { _ = c.Close() })
	return c
}

func TestKilledRedisKeepsWhatItAcknowledged(t *testing.T) {
	r := brokertest.StartRedis(t, brokertest.RedisOptions{})
	c := redisClient(t, &redis.Options{Addr: r.Addr})
	add(t, c, "s", "a")
	r.Kill()
	if _, err := net.DialTimeout("tcp", r.Addr, time.Second); err == nil {
		t.Error("a killed server still listens")
	}
	r.Start()
	add(t, c, "s", "b")
	r.Restart()
	if n := c.XLen(testContext(t), "s").Val(); n != 2 {
		t.Errorf("after a kill and a restart the stream has %d entries, want 2", n)
	}
}

func TestFrozenRedisHangsUntilItThaws(t *testing.T) {
	r := brokertest.StartRedis(t, brokertest.RedisOptions{})
	c := redisClient(t, &redis.Options{Addr: r.Addr, ReadTimeout: 2 * time.Second, MaxRetries: -1})
	r.Freeze()
	if err := c.Ping(testContext(t)).Err(); err == nil {
		t.Error("a frozen server answered")
	}
	r.Thaw()
	if err := c.Ping(testContext(t)).Err(); err != nil {
		t.Errorf("after the thaw: %v", err)
	}
}

func TestRedisWithTLSAndUsers(t *testing.T) {
	r := brokertest.StartRedis(t, brokertest.RedisOptions{
		TLS:    true,
		Config: []string{"user default off", "user alice on >right ~* &* +@all"},
	})
	pem, err := os.ReadFile(r.CA)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(pem)
	for _, tc := range []struct {
		password string
		roots    *x509.CertPool
		ok       bool
	}{
		{"right", pool, true},
		{"wrong", pool, false},
		{"right", x509.NewCertPool(), false},
	} {
		c := redisClient(t, &redis.Options{
			Addr: r.Addr, Username: "alice", Password: tc.password, MaxRetries: -1,
			TLSConfig: &tls.Config{RootCAs: tc.roots},
		})
		if err := c.Ping(testContext(t)).Err(); (err == nil) != tc.ok {
			t.Errorf("password %s, authority known %v: %v", tc.password, tc.roots == pool, err)
		}
	}
}

func TestSentinelPromotesTheReplica(t *testing.T) {
	t.Parallel()
	s := brokertest.StartRedisSentinel(t)
	c := redis.NewFailoverClient(&redis.FailoverOptions{MasterName: s.Master, SentinelAddrs: []string{s.Sentinel.Addr}})
	defer c.Close()
	ctx := testContext(t)
	// Replication is asynchronous, and WAIT speaks of its own connection's writes.
	conn := c.Conn()
	defer conn.Close()
	if err := conn.XAdd(ctx, &redis.XAddArgs{Stream: "s", Values: []string{"v", "a"}}).Err(); err != nil {
		t.Fatal(err)
	}
	if n, err := conn.Wait(ctx, 1, 10*time.Second).Result(); n != 1 {
		t.Fatalf("%d replicas have the entry, want 1 (%v)", n, err)
	}
	s.Primary.Kill()
	for range time.Tick(100 * time.Millisecond) { // nothing tells when the Sentinel has promoted
		if err := c.XAdd(ctx, &redis.XAddArgs{Stream: "s", Values: []string{"v", "b"}}).Err(); err == nil {
			break
		} else if ctx.Err() != nil {
			t.Fatalf("no new primary: %v", err)
		}
	}
	if n := redisClient(t, &redis.Options{Addr: s.Replica.Addr}).XLen(ctx, "s").Val(); n != 2 {
		t.Errorf("the promoted replica has %d entries, want 2", n)
	}
}

func TestClusterSharesTheKeys(t *testing.T) {
	t.Parallel()
	cluster := brokertest.StartRedisCluster(t)
	c := redis.NewClusterClient(&redis.ClusterOptions{Addrs: cluster.Addrs})
	defer c.Close()
	for _, key := range []string{"a", "b", "c", "d", "e", "f"} {
		add(t, c, key, "v")
	}
	holding := 0
	for _, n := range cluster.Nodes {
		if redisClient(t, &redis.Options{Addr: n.Addr}).DBSize(testContext(t)).Val() > 0 {
			holding++
		}
	}
	if holding < 2 {
		t.Errorf("%d of 3 nodes hold keys, want at least 2", holding)
	}
}

func TestProxyDoesWhatNetworksDo(t *testing.T) {
	mini := brokertest.FakeRedis(t)
	p := brokertest.Proxy(t, mini.Addr)
	c := redisClient(t, &redis.Options{Addr: p.Addr, ReadTimeout: 2 * time.Second, MaxRetries: -1})
	ping := func() (time.Duration, error) {
		began := time.Now()
		err := c.Ping(testContext(t)).Err()
		return time.Since(began), err
	}
	mustWork := func(when string) {
		t.Helper()
		for range 20 { // connections in the pool may be broken ones
			if _, err := ping(); err == nil {
				return
			}
		}
		t.Fatalf("%s: no answer", when)
	}
	mustWork("at first")

	p.Cut()
	if _, err := ping(); err == nil {
		t.Error("cut, yet it answers")
	}
	p.Restore()
	mustWork("after a cut")

	p.Latency(100*time.Millisecond, 0)
	if d, err := ping(); err != nil || d < 100*time.Millisecond {
		t.Errorf("latency 100ms: answered after %s, %v", d, err)
	}
	p.Latency(time.Minute, 0) // replaces
	p.Restore()
	if _, err := ping(); err != nil {
		t.Errorf("latency restored: %v", err)
	}

	p.BlackHole()
	if _, err := ping(); err == nil {
		t.Error("black hole, yet it answers")
	}
	p.Restore()
	mustWork("after a black hole")

	p.LoseReplies()
	before := mini.Mini.DB(0).Keys()
	if err := c.Set(testContext(t), "k", "v", 0).Err(); err == nil {
		t.Error("replies lost, yet it answers")
	}
	if after := mini.Mini.DB(0).Keys(); len(after) != len(before)+1 {
		t.Errorf("replies lost: keys %v, want the one that was set", after)
	}
	p.Restore()
	mustWork("after lost replies")

	p.Bandwidth(100) // KB/s
	began := time.Now()
	slow := redisClient(t, &redis.Options{Addr: p.Addr, ReadTimeout: 10 * time.Second, WriteTimeout: 10 * time.Second})
	if err := slow.Set(testContext(t), "big", make([]byte, 50_000), 0).Err(); err != nil {
		t.Fatal(err)
	}
	if d := time.Since(began); d < 300*time.Millisecond {
		t.Errorf("50 KB at 100 KB/s took %s", d)
	}
}
