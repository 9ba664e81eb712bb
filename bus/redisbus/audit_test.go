package redisbus_test

import (
	"errors"
	"fmt"
	"reflect"
	"slices"
	"testing"

	"github.com/aura360/eventbus/bus/driver"
	"github.com/aura360/eventbus/bus/redisbus"
	"github.com/aura360/eventbus/internal/brokertest"
)

func TestAuditFindsWhatLosesEvents(t *testing.T) {
	for _, c := range []struct {
		name, fsync string
		config      []string
		durable     bool
		want        []string
	}{
		{"safe", "always", nil, true, nil},
		{"everysec", "everysec", nil, false, []string{fmt.Sprintf(redisbus.FindNotAlways, "everysec")}},
		{"no file", "always", []string{"appendonly no"}, false, []string{redisbus.FindNoAOF}},
		{"evicts", "always", []string{"maxmemory-policy allkeys-lru"}, true, []string{fmt.Sprintf(redisbus.FindEvicts, "allkeys-lru")}},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := brokertest.StartRedis(t, brokertest.RedisOptions{Fsync: c.fsync, Config: c.config})
			a, err := open(t, creating(p.URL)).Audit(t.Context())
			want := append(slices.Clone(c.want), redisbus.FindNotTrimmed)
			if err != nil || a.Durable != c.durable || a.Version == "" || !reflect.DeepEqual(a.Findings, want) {
				t.Errorf("got %+v (%v), want durable %v, %v", a, err, c.durable, want)
			}
		})
	}
	t.Run("memory nearly full", func(t *testing.T) {
		p := brokertest.StartRedis(t, brokertest.RedisOptions{Config: []string{"maxmemory 100kb"}})
		a, err := open(t, creating(p.URL)).Audit(t.Context())
		if err != nil || len(a.Findings) != 2 {
			t.Errorf("got %+v (%v)", a, err)
		}
	})
	t.Run("down", func(t *testing.T) {
		p := brokertest.StartRedis(t, brokertest.RedisOptions{})
		p.Stop()
		if _, err := open(t, creating(p.URL)).Audit(t.Context()); !errors.Is(err, driver.ErrUnavailable) {
			t.Errorf("got %v", err)
		}
	})
}

func TestLagCountsWhatIsNotSettled(t *testing.T) {
	r := realRedis(t)
	b, topic := open(t, creating(r.URL)), brokertest.Name(t, "topic")
	check := func(group string, want int64, wantKnown bool) {
		t.Helper()
		lag, known, err := b.Lag(t.Context(), topic, group)
		if err != nil || lag != want || known != wantKnown {
			t.Errorf("lag %d, known %v (%v), want %d, %v", lag, known, err, want, wantKnown)
		}
	}
	check("g", 0, false) // no stream
	publish(t, b, topic, "1", "2", "3", "4", "5")
	check("g", 0, false) // no group
	s := subscriber(t, b, "g")
	m := next(t, subscribe(t, s, topic))
	check("g", 5, true)
	m.Ack()
	noted(t, m)
	drain(t, s)
	check("g", 4, true)
	// After a deletion Redis cannot tell, and the entries are counted.
	c := client(t, r.URL)
	last, err := c.XRevRangeN(t.Context(), topic, "+", "-", 1).Result()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.XGroupCreate(t.Context(), topic, "other", "0").Err(); err != nil {
		t.Fatal(err)
	}
	if err := c.XDel(t.Context(), topic, last[0].ID).Err(); err != nil {
		t.Fatal(err)
	}
	check("other", 4, true)
}
