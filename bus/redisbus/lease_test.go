package redisbus

import (
	"fmt"
	"maps"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// modelServer is the two kinds of keys that leases are made of.
type modelServer struct {
	counts map[string]int64
	owner  owner
}

// modelMember does what keeper does, in steps that anything can happen between.
type modelMember struct {
	*roster
	count   int64
	until   time.Time // see keeper
	token   owner     // while owns
	owns    bool
	stopped bool // delivers nothing until it has asked who the owner is

	// What is on its way: a look, then the question for the owner, then the
	// compare-and-set. Each is sent, reaches the server, and is answered.
	step   string
	sent   time.Time
	counts map[string]int64
	value  owner
	before owner // what value was the time before
	next   owner
	won    bool
}

// acts tells that the member delivers.
func (m *modelMember) acts(now time.Time) bool { return m.owns && !m.stopped && !now.After(m.until) }

// TestNeverTwoMembersDeliverFromOnePartition: whatever is slow, lost or stopped,
// for however long.
func TestNeverTwoMembersDeliverFromOnePartition(t *testing.T) {
	const ttl = 100 * time.Millisecond
	rapid.Check(t, func(t *rapid.T) {
		now := time.Unix(1000, 0)
		s := &modelServer{counts: map[string]int64{}}
		lost := "" // what is not in the hash any more
		var all []*modelMember
		for i := range 3 {
			all = append(all, &modelMember{roster: newRoster(fmt.Sprintf("m%d", i), ttl)})
		}
		pick := func(t *rapid.T) *modelMember { return rapid.SampledFrom(all).Draw(t, "member") }
		// expired is what keeper does when it finds that its time is over.
		expired := func(m *modelMember) {
			if now.After(m.until) {
				m.stopped = true
			}
		}
		goOn := func(m *modelMember) {
			switch m.step {
			case "": // looks
				expired(m)
				m.sent, m.step = now, "look"
			case "look": // reaches the server
				m.count++
				s.counts[m.self] = m.count
				m.counts, m.step = maps.Clone(s.counts), "looked"
			case "looked":
				expired(m)
				m.until = m.sent.Add(trusted(ttl))
				m.observe(m.sent, now, m.counts)
				for _, id := range m.forgotten() {
					if lost != "all" {
						delete(s.counts, id)
						lost = "some"
					}
				}
				m.step = "ask"
			case "ask":
				m.value, m.step = s.owner, "asked"
			case "asked":
				m.step = ""
				m.mention(m.value.member)
				defer func() { m.before = m.value }()
				switch {
				case m.owns && m.value != m.token:
					m.owns = false
				case m.owns:
					if m.stopped && !now.After(m.until) {
						m.next, m.step = owner{m.self, m.value.gen + 1}, "swap"
					}
				case m.mayTake(m.value, m.before) && !now.After(m.until):
					m.next, m.step = owner{m.self, m.value.gen + 1}, "swap"
				}
			case "swap":
				if m.won = s.owner == m.value; m.won {
					s.owner = m.next
				}
				m.step = "swapped"
			case "swapped":
				m.owns = m.won
				if m.won {
					m.token, m.stopped = m.next, now.After(m.until)
				}
				m.step = ""
			}
		}
		check := func(t *rapid.T) {
			var acting []string
			for _, m := range all {
				if m.acts(now) {
					acting = append(acting, m.self)
				}
			}
			if len(acting) > 1 {
				t.Fatalf("%v deliver at %v, the owner is %v", acting, now.Sub(time.Unix(1000, 0)), s.owner)
			}
		}
		t.Repeat(map[string]func(*rapid.T){
			"time": func(t *rapid.T) {
				now = now.Add(time.Duration(rapid.SampledFrom([]int{1, 3, 10, 20, 50, 300}).Draw(t, "ms")) * time.Millisecond)
			},
			"step": func(t *rapid.T) { goOn(pick(t)) },
			"look again and again": func(t *rapid.T) {
				m := pick(t)
				pause := time.Duration(rapid.IntRange(1, 25).Draw(t, "pause")) * time.Millisecond
				for range rapid.IntRange(1, 15).Draw(t, "looks") {
					for goOn(m); m.step != ""; goOn(m) {
						check(t)
					}
					now = now.Add(pause)
					check(t)
				}
			},
			"lose the answer": func(t *rapid.T) {
				if m := pick(t); m.step == "looked" || m.step == "asked" || m.step == "swapped" {
					m.step = ""
				}
			},
			"give back": func(t *rapid.T) {
				if m := pick(t); m.owns && m.step == "" && rapid.IntRange(0, 3).Draw(t, "rarely") == 0 {
					if s.owner == m.token {
						s.owner = owner{gen: m.token.gen}
					}
					m.owns = false
				}
			},
			"the hash is lost": func(*rapid.T) {
				// Once: a member that counts between two losses, unseen by another, looks as
				// if it had never been there. With FLUSHALL the owner keys are gone as well.
				if lost == "" {
					clear(s.counts)
					lost = "all"
				}
			},
			"": check,
		})
	})
}

// TestSilenceIsDeathAfterALease: and not before, and not because the server was
// away, or the one who looks.
func TestSilenceIsDeathAfterALease(t *testing.T) {
	const ttl = time.Second
	now := time.Unix(0, 0)
	r := newRoster("b", ttl)
	look := func(after time.Duration, counts map[string]int64) {
		now = now.Add(after)
		r.observe(now, now, counts)
	}
	still := map[string]int64{"a": 7, "b": 1}
	look(0, still)
	look(time.Hour, still) // the server was away for an hour
	for range 3 {
		look(200*time.Millisecond, still)
	}
	if r.dead("a") {
		t.Fatal("dead after less than a lease of looking")
	}
	if got := r.living(false); len(got) != 2 || got[0] != "a" {
		t.Fatalf("living: %v", got)
	}
	look(200*time.Millisecond, still)
	if !r.dead("a") {
		t.Fatal("alive after a lease of silence")
	}
	look(50*time.Millisecond, map[string]int64{"a": 8})
	if r.dead("a") {
		t.Fatal("dead though it counts again")
	}
	look(50*time.Millisecond, nil) // FLUSHALL
	if got := r.living(false); len(got) != 2 {
		t.Fatalf("a member that vanished gets no time to come back: %v", got)
	}
	look(50*time.Millisecond, map[string]int64{"a": -9})
	if got := r.living(false); len(got) != 1 || r.dead("a") {
		t.Fatalf("a member that leaves gets partitions (%v), or is dead", got)
	}
}

// TestAnOwnerThatNeverCountsIsReplacedAfterALease: its field went with FLUSHALL, or
// it died before we came.
func TestAnOwnerThatNeverCountsIsReplacedAfterALease(t *testing.T) {
	r := newRoster("b", time.Second)
	now := time.Unix(0, 0)
	for i := range 100 {
		now = now.Add(50 * time.Millisecond)
		r.observe(now, now, map[string]int64{"b": int64(i)})
		r.mention("a")
		if len(r.living(false)) != 1 {
			t.Fatal("partitions are assigned to a member that is not there")
		}
		if r.mayTake(owner{"a", 3}, owner{"a", 3}) {
			if i < 20 {
				t.Fatalf("replaced after %d looks", i)
			}
			return
		}
	}
	t.Fatal("never replaced")
}

// TestPartitionsAreSharedEvenly: each member gets as many as any other, or one
// more; all members agree.
func TestPartitionsAreSharedEvenly(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		living := rapid.SliceOfNDistinct(rapid.StringN(1, 5, 5), 1, 10, rapid.ID[string]).Draw(t, "living")
		partitions := rapid.IntRange(1, 50).Draw(t, "partitions")
		topic := rapid.String().Draw(t, "topic")
		share := map[string]int{}
		for i := range partitions {
			share[assignee(topic, i, living)]++
		}
		for _, m := range living {
			if n := share[m]; n < partitions/len(living) || n > partitions/len(living)+1 {
				t.Errorf("%s gets %d of %d among %d", m, n, partitions, len(living))
			}
		}
	})
}

func TestOwnerKeysAreReadAsTheyAreWritten(t *testing.T) {
	for _, o := range []owner{{"", 0}, {"", 7}, {"01J-host name", 12}} {
		if got := parseOwner(o.String()); got != o {
			t.Errorf("%q is read as %+v", o.String(), got)
		}
	}
	for _, s := range []string{"", "x", "x y", "x -1", " "} {
		if got := parseOwner(s); got != (owner{}) {
			t.Errorf("%q is read as %+v", s, got)
		}
	}
}
