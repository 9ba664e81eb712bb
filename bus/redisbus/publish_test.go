package redisbus_test

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill"
	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/aura360/eventbus/bus/driver"
	"github.com/aura360/eventbus/bus/redisbus"
	"github.com/aura360/eventbus/internal/brokertest"
)

func one() *message.Message { return message.NewMessage(watermill.NewUUID(), []byte("payload")) }

func TestPublishToAServerThatIsDownIsRejected(t *testing.T) {
	p := brokertest.StartRedis(t, brokertest.RedisOptions{})
	b := open(t, creating(p.URL))
	publish(t, b, "topic", "a connection that is open")
	p.Stop()
	// The connections are closed and the client learns it, at the latest, here.
	_ = b.Publish(t.Context(), "topic", one())
	res := outcome(t, b.Publish(t.Context(), "topic", one()))
	if res.Outcome != driver.Rejected || !errors.Is(res.Err, driver.ErrUnavailable) {
		t.Errorf("got %+v, want rejected, unavailable", res)
	}
	if err := b.Ping(t.Context()); !errors.Is(err, driver.ErrUnavailable) {
		t.Errorf("Ping: %v, want ErrUnavailable", err)
	}
}

func TestPublishWhoseAnswerIsLostIsUnknownAndNotRepeated(t *testing.T) {
	r := realRedis(t)
	proxy := brokertest.Proxy(t, r.Addr)
	b := open(t, creating("redis://"+proxy.Addr+"/0?read_timeout=300ms"))
	topic := brokertest.Name(t, "topic")
	publish(t, b, topic, "a connection that is open")
	proxy.LoseReplies()
	err := b.Publish(t.Context(), topic, one(), one(), one())
	got := driver.Results(err, 3)
	if got[0].Outcome != driver.Unknown {
		t.Errorf("first: %+v, want unknown", got[0])
	}
	for i, r := range got[1:] {
		if r.Outcome != driver.Rejected || !errors.Is(r.Err, driver.ErrNotSent) {
			t.Errorf("message %d: %+v, want not sent", i+1, r)
		}
	}
	proxy.Restore()
	until(t, func() error { return b.Ping(t.Context()) })
	if n, err := client(t, r.URL).XLen(t.Context(), topic).Result(); err != nil || n != 2 {
		t.Errorf("%d entries (%v), want 2: the one lost was repeated or refused", n, err)
	}
}

func TestPublishIsBoundedByItsContext(t *testing.T) {
	r := realRedis(t)
	proxy := brokertest.Proxy(t, r.Addr)
	b := open(t, creating("redis://"+proxy.Addr+"/0?read_timeout=2m&dial_timeout=2m"))
	publish(t, b, "topic", "a connection that is open")
	proxy.BlackHole()
	for _, how := range []string{"deadline", "cancel"} {
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		if how == "cancel" {
			ctx, cancel = context.WithCancel(t.Context())
			time.AfterFunc(100*time.Millisecond, cancel)
		}
		start := time.Now()
		res := driver.Results(b.Publish(ctx, "topic", one(), one()), 2)
		cancel()
		if res[0].Outcome == driver.Confirmed || !errors.Is(res[1].Err, driver.ErrNotSent) {
			t.Errorf("%s: %+v", how, res)
		}
		if d := time.Since(start); d > wait {
			t.Errorf("%s: Publish took %v", how, d)
		}
	}
	proxy.Restore()
}

func TestWhatTheServerRefusesIsRejected(t *testing.T) {
	for _, c := range []struct {
		name      string
		prepare   func(t *testing.T, url string)
		config    []string
		want      string
		permanent bool
	}{
		{name: "WRONGTYPE", want: "WRONGTYPE", permanent: true, prepare: func(t *testing.T, url string) {
			if err := client(t, url).Set(t.Context(), "topic", "a string", 0).Err(); err != nil {
				t.Fatal(err)
			}
		}},
		{name: "OOM", want: "OOM", config: []string{"maxmemory 100kb"}},
		{name: "READONLY", want: "READONLY", config: []string{"replicaof 127.0.0.1 1"}},
		{name: "NOAUTH", want: "NOAUTH", config: []string{"requirepass secret-123"}},
		{name: "NOPERM", want: "NOPERM", config: []string{"user default on nopass ~* +@all -xadd"}},
		{name: "too large for the server", want: "invalid bulk length", config: []string{"proto-max-bulk-len 1mb"}, permanent: true},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := brokertest.StartRedis(t, brokertest.RedisOptions{Config: c.config})
			if c.prepare != nil {
				c.prepare(t, p.URL)
			}
			msg := one()
			if c.name == "too large for the server" {
				msg.Payload = make([]byte, 2<<20)
			}
			res := outcome(t, open(t, creating(p.URL)).Publish(t.Context(), "topic", msg))
			if c.name == "too large for the server" && res.Outcome == driver.Unknown {
				t.Skipf("the server hung up before its answer was read: %v", res.Err)
			}
			if res.Outcome != driver.Rejected || !strings.Contains(res.Err.Error(), c.want) ||
				errors.Is(res.Err, driver.ErrPermanent) != c.permanent || errors.Is(res.Err, driver.ErrUnavailable) {
				t.Errorf("got %v %v, want rejected, %s, permanent %v", res.Outcome, res.Err, c.want, c.permanent)
			}
		})
	}
}

func TestWhatCannotBeSentIsRejectedForGood(t *testing.T) {
	cfg := creating(brokertest.FakeRedis(t).URL)
	cfg.MaxMessageBytes = 1000
	b := open(t, cfg)
	large := message.NewMessage("u", make([]byte, 1000))
	reserved := one()
	reserved.Metadata.Set("_watermill_message_uuid", "mine")
	for name, m := range map[string]*message.Message{"too large": large, "reserved metadata": reserved} {
		res := outcome(t, b.Publish(t.Context(), "topic", m))
		if res.Outcome != driver.Rejected || !errors.Is(res.Err, driver.ErrPermanent) {
			t.Errorf("%s: %+v", name, res)
		}
	}
	res := outcome(t, b.Publish(t.Context(), "", one()))
	if res.Outcome != driver.Rejected || !errors.Is(res.Err, driver.ErrPermanent) {
		t.Errorf("no topic: %+v", res)
	}
	if err := b.Publish(t.Context(), "topic"); err != nil {
		t.Errorf("no messages: %v", err)
	}
}

func TestWithoutCreateAMissingStreamIsAnError(t *testing.T) {
	eachRedis(t, func(t *testing.T, r brokertest.Redis) {
		b, topic := open(t, redisbus.Config{URL: r.URL}), brokertest.Name(t, "topic")
		res := outcome(t, b.Publish(t.Context(), topic, one()))
		if res.Outcome != driver.Rejected || !strings.Contains(res.Err.Error(), "does not exist") || errors.Is(res.Err, driver.ErrPermanent) {
			t.Errorf("got %+v", res)
		}
		for range 2 {
			if err := b.EnsureTopic(t.Context(), driver.TopicSpec{Name: topic}); err != nil {
				t.Fatal(err)
			}
		}
		publish(t, b, topic, "1")
		c := client(t, r.URL)
		if err := c.Set(t.Context(), topic+"-string", "x", 0).Err(); err != nil {
			t.Fatal(err)
		}
		for _, name := range []string{"", topic + "-string"} {
			if err := b.EnsureTopic(t.Context(), driver.TopicSpec{Name: name}); !errors.Is(err, driver.ErrPermanent) {
				t.Errorf("EnsureTopic(%q): %v, want ErrPermanent", name, err)
			}
		}
	})
}

func TestPublishDoesNotRaceWithClose(t *testing.T) {
	b, err := redisbus.Open(creating(brokertest.FakeRedis(t).URL))
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for {
				err := b.Publish(context.Background(), "topic", one(), one())
				for _, r := range driver.Results(err, 2) {
					if r.Outcome == driver.Unknown {
						t.Errorf("an orderly Close left %+v", r)
					}
				}
				if errors.Is(err, driver.ErrClosed) {
					return
				}
			}
		})
	}
	if err := b.Close(t.Context()); err != nil {
		t.Error(err)
	}
	wg.Wait()
}
