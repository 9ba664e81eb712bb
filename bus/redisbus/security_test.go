package redisbus_test

import (
	"bytes"
	"fmt"
	"log/slog"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/aura360/eventbus/bus/redisbus"
	"github.com/aura360/eventbus/internal/brokertest"
)

const password = "s3cret/with@special?chars"

// syncBuffer is a bytes.Buffer for a logger and a test.
type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *syncBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *syncBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

// works publishes and consumes an event.
func works(t *testing.T, cfg redisbus.Config) {
	t.Helper()
	b, topic := open(t, cfg), brokertest.Name(t, "topic")
	s := subscriber(t, b, "g")
	ch := subscribe(t, s, topic)
	publish(t, b, topic, "1", "2")
	take(t, ch, "1", "2")
	drain(t, s) // the server has taken the acks
	if lag, known, err := b.Lag(t.Context(), topic, "g"); err != nil || !known || lag != 0 {
		t.Errorf("lag %d, known %v, %v", lag, known, err)
	}
}

func TestUserAndPassword(t *testing.T) {
	p := brokertest.StartRedis(t, brokertest.RedisOptions{Config: []string{
		"user default off", `user alice on ">` + password + `" ~* &* +@all`,
	}})
	inURL := "redis://alice:" + url.QueryEscape(password) + "@" + p.Addr
	t.Run("in the URL", func(t *testing.T) { works(t, creating(inURL)) })
	t.Run("beside it", func(t *testing.T) {
		cfg := creating(p.URL)
		cfg.Username, cfg.Password = "alice", password
		works(t, cfg)
	})
	t.Run("wrong", func(t *testing.T) {
		var log syncBuffer
		cfg := creating(p.URL)
		cfg.Username, cfg.Password = "alice", "wrong-"+password
		cfg.Log = slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug}))
		b := open(t, cfg)
		s := subscriber(t, b, "g")
		subscribe(t, s, "topic")
		until(t, func() error {
			if st := s.State()["topic"]; !strings.Contains(st.LastError, "WRONGPASS") {
				return fmt.Errorf("state %+v", st)
			}
			return nil
		})
		texts := map[string]string{
			"ping":    fmt.Sprint(b.Ping(t.Context())),
			"publish": b.Publish(t.Context(), "topic", one()).Error(),
			"state":   fmt.Sprintf("%+v", s.State()),
			"log":     log.String(),
		}
		for what, text := range texts {
			if !strings.Contains(text, "WRONGPASS") || strings.Contains(text, "s3cret") {
				t.Errorf("%s: %s", what, text)
			}
		}
	})
	t.Run("may not configure", func(t *testing.T) {
		err := client(t, inURL).Do(t.Context(), "ACL", "SETUSER", "bob", "on", ">bob", "~*", "+@all", "-config").Err()
		if err != nil {
			t.Fatal(err)
		}
		a, err := open(t, creating("redis://bob:bob@"+p.Addr)).Audit(t.Context())
		if err != nil || a.Durable || len(a.Findings) != 2 || a.Findings[0] != redisbus.FindNoConfig {
			t.Errorf("audit %+v (%v)", a, err)
		}
	})
}

func TestTLS(t *testing.T) {
	p := brokertest.StartRedis(t, brokertest.RedisOptions{TLS: true, Config: []string{"tls-auth-clients yes"}})
	cfg := creating(p.URL)
	cfg.CAFile, cfg.CertFile, cfg.KeyFile = p.CA, p.ClientCert, p.ClientKey
	works(t, cfg)

	noCA := creating(p.URL)
	if err := open(t, noCA).Ping(t.Context()); err == nil || !strings.Contains(err.Error(), "certificate") {
		t.Errorf("a certificate of an unknown authority: %v", err)
	}
	name := cfg
	name.ServerName = "someone.else"
	if err := open(t, name).Ping(t.Context()); err == nil || !strings.Contains(err.Error(), "someone.else") {
		t.Errorf("a certificate of another name: %v", err)
	}
}

func TestSentinel(t *testing.T) {
	s := brokertest.StartRedisSentinel(t)
	cfg := creating("redis+sentinel://" + s.Sentinel.Addr + "/" + s.Master + "/0?dial_timeout=500ms&read_timeout=1s")
	works(t, cfg)
	b, topic := open(t, cfg), brokertest.Name(t, "topic")
	ch := subscribe(t, subscriber(t, b, "g"), topic)
	publish(t, b, topic, "before")
	take(t, ch, "before")
	a, err := b.Audit(t.Context())
	if err != nil || !strings.Contains(strings.Join(a.Findings, "\n"), redisbus.FindReplicas) {
		t.Errorf("audit %+v (%v)", a, err)
	}
	s.Primary.Kill()
	until(t, func() error { return b.Publish(t.Context(), topic, one()) })
	for {
		m := next(t, ch)
		m.Ack()
		if string(m.Payload) == "payload" {
			break
		}
	}
}

func TestCluster(t *testing.T) {
	c := brokertest.StartRedisCluster(t)
	cfg := creating("redis+cluster://" + strings.Join(c.Addrs, ","))
	for range 5 { // topics on several nodes
		works(t, cfg)
	}
	works(t, creating("redis://"+c.Addrs[0]+"?addr="+c.Addrs[1]))
	b := open(t, cfg)
	a, err := b.Audit(t.Context())
	if err != nil || !a.Durable {
		t.Errorf("audit %+v (%v)", a, err)
	}
	// A node that is away takes its topics with it; nothing is sent twice.
	topic := brokertest.Name(t, "topic")
	publish(t, b, topic, "1")
	for _, n := range c.Nodes {
		n.Kill()
	}
	if got := outcome(t, b.Publish(t.Context(), topic, one())); got.Err == nil {
		t.Errorf("got %+v", got)
	}
}

func TestParseURLTellsWhatItTakes(t *testing.T) {
	if _, err := redisbus.ParseURL("redis://user:password@host"); err != nil {
		t.Error(err)
	}
	if _, err := redisbus.ParseURL("rabbit://host"); err == nil || !strings.Contains(err.Error(), "redis+sentinel://") {
		t.Errorf("got %v", err)
	}
}

func TestWrongSettings(t *testing.T) {
	dir := t.TempDir()
	empty := filepath.Join(dir, "empty.pem")
	if err := os.WriteFile(empty, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for want, cfg := range map[string]redisbus.Config{
		"no URL":             {},
		"not a Redis URL":    {URL: "http://:s3cret@host"},
		"percent-encoded":    {URL: "redis://:s3cret@with@host/x"},
		"MaxMessageBytes -1": {URL: "redis://host", MaxMessageBytes: -1},
		"ClaimAfter 1ms":     {URL: "redis://host", ClaimAfter: 1e6},
		"use rediss":         {URL: "redis://host", CAFile: empty},
		"no certificate":     {URL: "rediss://host", CAFile: empty},
		"no such file":       {URL: "rediss://host", CAFile: empty + ".not"},
		"needs both":         {URL: "rediss://host", CertFile: empty},
		"client certificate": {URL: "rediss://host", CertFile: empty, KeyFile: empty},
	} {
		b, err := redisbus.Open(cfg)
		if err == nil {
			_ = b.Close(t.Context())
		}
		if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "s3cret") {
			t.Errorf("%+v: %v, want %q", cfg, err, want)
		}
	}
}
