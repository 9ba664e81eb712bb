package redisbus_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill"
	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/redis/go-redis/v9"

	"github.com/aura360/eventbus/bus/driver"
	"github.com/aura360/eventbus/bus/redisbus"
	"github.com/aura360/eventbus/internal/brokertest"
)

func TestMain(m *testing.M) { brokertest.Main(m) }

// wait is how long a test waits for what must come: much, since machines are slow.
const wait = 20 * time.Second

// eachRedis runs f on miniredis, and on the real server that the environment
// names or, where the program is installed, one of the test's own.
func eachRedis(t *testing.T, f func(t *testing.T, r brokertest.Redis)) {
	t.Helper()
	t.Run("miniredis", func(t *testing.T) { f(t, brokertest.FakeRedis(t)) })
	t.Run("redis", func(t *testing.T) { f(t, realRedis(t)) })
}

func realRedis(t *testing.T) brokertest.Redis {
	t.Helper()
	if os.Getenv("MESSAGING_REDIS_URL") != "" {
		return brokertest.RealRedis(t)
	}
	p := brokertest.StartRedis(t, brokertest.RedisOptions{Fsync: "no"})
	return brokertest.Redis{Name: "redis", Real: true, Addr: p.Addr, URL: p.URL}
}

func open(t *testing.T, cfg redisbus.Config) *redisbus.Backend {
	t.Helper()
	if cfg.BlockTime == 0 {
		cfg.BlockTime = 10 * time.Millisecond
	}
	b, err := redisbus.Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), wait)
		defer cancel()
		if err := b.Close(ctx); err != nil {
			t.Errorf("Close: %v", err)
		}
	})
	return b
}

// creating is a Config that creates streams.
func creating(url string) redisbus.Config {
	return redisbus.Config{URL: url, Provision: driver.Provision{Create: true}}
}

func client(t *testing.T, url string) *redis.Client {
	t.Helper()
	o, err := redis.ParseURL(url)
	if err != nil {
		t.Fatal(err)
	}
	c := redis.NewClient(o)
	t.Cleanup(func() { _ = c.Close() })
	return c
}

func subscriber(t *testing.T, b driver.Backend, group string) driver.Subscriber {
	t.Helper()
	s, err := b.Subscriber(group, driver.SubscriberOptions{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Errorf("close subscriber: %v", err)
		}
	})
	return s
}

func subscribe(t *testing.T, s driver.Subscriber, topic string) <-chan *message.Message {
	t.Helper()
	ch, err := s.Subscribe(t.Context(), topic)
	if err != nil {
		t.Fatal(err)
	}
	return ch
}

func publish(t *testing.T, b driver.Backend, topic string, payloads ...string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), wait)
	defer cancel()
	var msgs []*message.Message
	for _, p := range payloads {
		msgs = append(msgs, message.NewMessage(watermill.NewUUID(), []byte(p)))
	}
	if err := b.Publish(ctx, topic, msgs...); err != nil {
		t.Fatal(err)
	}
}

func next(t *testing.T, ch <-chan *message.Message) *message.Message {
	t.Helper()
	select {
	case m, ok := <-ch:
		if !ok {
			t.Fatal("the channel is closed")
		}
		return m
	case <-time.After(wait):
		t.Fatalf("no message within %v", wait)
	}
	return nil
}

// take acks the next messages and checks their payloads.
func take(t *testing.T, ch <-chan *message.Message, want ...string) {
	t.Helper()
	for _, w := range want {
		m := next(t, ch)
		if string(m.Payload) != w {
			t.Fatalf("got %q, want %q", m.Payload, w)
		}
		m.Ack()
		noted(t, m)
	}
}

// noted waits until the ack was taken.
func noted(t *testing.T, m *message.Message) {
	t.Helper()
	select {
	case <-m.Context().Done():
	case <-time.After(wait):
		t.Fatal("the ack was not taken")
	}
}

// until waits until holds returns nil.
func until(t *testing.T, holds func() error) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	deadline := time.After(wait)
	for {
		err := holds()
		if err == nil {
			return
		}
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatal(err)
		}
	}
}

// untilPending waits until n entries are delivered and not acked.
func untilPending(t *testing.T, c *redis.Client, topic, group string, n int64) {
	t.Helper()
	until(t, func() error {
		p, err := c.XPending(t.Context(), topic, group).Result()
		if err != nil {
			return err
		}
		if p.Count != n {
			return fmt.Errorf("%d entries pending, want %d", p.Count, n)
		}
		return nil
	})
}

// untilReading waits until the server holds a read of the client of that name,
// and will answer it with the next entry.
func untilReading(t *testing.T, c *redis.Client, name string) {
	t.Helper()
	until(t, func() error {
		clients, err := c.ClientList(t.Context()).Result()
		if err != nil {
			return err
		}
		for line := range strings.Lines(clients) {
			f := strings.Fields(line)
			if slices.Contains(f, "name="+name) && slices.Contains(f, "flags=b") && slices.Contains(f, "cmd=xreadgroup") {
				return nil
			}
		}
		return errors.New("no read is waiting on the server")
	})
}

func untilState(t *testing.T, s driver.Subscriber, topic string, connected bool) {
	t.Helper()
	until(t, func() error {
		if st := s.State()[topic]; st.Connected != connected {
			return fmt.Errorf("state %+v, want connected %v", st, connected)
		}
		return nil
	})
}

// outcome is the one result of a failed publish of one message.
func outcome(t *testing.T, err error) driver.Result {
	t.Helper()
	var pe *driver.PublishError
	if !errors.As(err, &pe) || len(pe.Results) != 1 {
		t.Fatalf("got %v, want a PublishError with one result", err)
	}
	return pe.Results[0]
}

func drain(t *testing.T, s driver.Subscriber) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), wait)
	defer cancel()
	if err := s.Drain(ctx); err != nil {
		t.Fatal(err)
	}
}
