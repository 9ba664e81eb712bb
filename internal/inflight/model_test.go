package inflight

import (
	"slices"
	"strconv"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// model is the window said slowly: every lane a slice, every question a scan.
type model struct {
	lanes []*modelLane // all
	ready []*modelLane // in the order of turns
}

type modelLane struct {
	key     string
	entries []int
	out     bool
	paused  bool
	until   time.Time
	order   int
	nacks   int
	turn    int
}

type modelTicket struct {
	lane *modelLane
	turn int
}

func (t modelTicket) good() bool { return t.lane.out && t.lane.turn == t.turn }

func (m *model) add(key string, v int) {
	if key != "" {
		for _, l := range m.lanes {
			if l.key == key {
				l.entries = append(l.entries, v)
				return
			}
		}
	}
	l := &modelLane{key: key, entries: []int{v}}
	m.lanes = append(m.lanes, l)
	m.ready = append(m.ready, l)
}

func (m *model) count(is func(*modelLane) bool) (n int) {
	for _, l := range m.lanes {
		if is(l) {
			n++
		}
	}
	return n
}

// settle puts a lane, whose head has changed or gone, where it belongs.
func (m *model) settle(l *modelLane) {
	l.out, l.paused, l.nacks = false, false, 0
	if len(l.entries) > 0 {
		m.ready = append(m.ready, l)
		return
	}
	m.lanes = slices.DeleteFunc(m.lanes, func(x *modelLane) bool { return x == l })
}

// TestWindowFollowsTheModel drives a window and the model with the same random
// operations: what is given out, in which order, and which tickets are good is
// always the same.
func TestWindowFollowsTheModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		limit := rapid.SampledFrom([]int{0, 1, 2, 5}).Draw(t, "max")
		w := New[int](Options{Max: limit, MinPause: 10, MaxPause: 45})
		m := &model{}
		now := time.Unix(0, 0)
		serial, order := 0, 0
		// Every ticket ever given, so that stale ones are tried as well.
		var tickets []Ticket[int]
		var modelTickets []modelTicket
		pick := func(t *rapid.T) int {
			if len(tickets) == 0 {
				t.Skip("no tickets yet")
			}
			return rapid.IntRange(0, len(tickets)-1).Draw(t, "ticket")
		}

		t.Repeat(map[string]func(*rapid.T){
			"add": func(t *rapid.T) {
				key := rapid.SampledFrom([]string{"", "a", "b", "c"}).Draw(t, "key")
				for range rapid.SampledFrom([]int{1, 1, 1, 70}).Draw(t, "n") {
					serial++
					w.Add(key, serial)
					m.add(key, serial)
				}
			},
			"next": func(t *rapid.T) {
				got, ticket, ok := w.Next()
				out := m.count(func(l *modelLane) bool { return l.out })
				want := len(m.ready) > 0 && (limit == 0 || out < limit)
				if ok != want {
					t.Fatalf("Next: ok %v, want %v", ok, want)
				}
				if !ok {
					if ticket.Good() {
						t.Fatal("a ticket for nothing is good")
					}
					return
				}
				l := m.ready[0]
				m.ready = m.ready[1:]
				l.out = true
				l.turn++
				if got != l.entries[0] {
					t.Fatalf("Next: %d, want %d", got, l.entries[0])
				}
				tickets = append(tickets, ticket)
				modelTickets = append(modelTickets, modelTicket{l, l.turn})
			},
			"ack": func(t *rapid.T) {
				i := pick(t)
				mt := modelTickets[i]
				want := mt.good()
				if ok := w.Ack(tickets[i]); ok != want {
					t.Fatalf("Ack: %v, want %v", ok, want)
				}
				if want {
					mt.lane.entries = mt.lane.entries[1:]
					m.settle(mt.lane)
				}
			},
			"nack": func(t *rapid.T) {
				i := pick(t)
				mt := modelTickets[i]
				until, ok := w.Nack(tickets[i], now)
				if ok != mt.good() {
					t.Fatalf("Nack: %v, want %v", ok, mt.good())
				}
				if !ok {
					return
				}
				l := mt.lane
				l.out, l.paused = false, true
				l.nacks++
				l.until = now.Add([]time.Duration{0, 10, 20, 40, 45}[min(l.nacks, 4)])
				order++
				l.order = order
				if !until.Equal(l.until) {
					t.Fatalf("Nack: until %v, want %v", until, l.until)
				}
			},
			"nack until": func(t *rapid.T) {
				i := pick(t)
				mt := modelTickets[i]
				until := now.Add(time.Duration(rapid.IntRange(-5, 100).Draw(t, "pause")))
				if ok := w.NackUntil(tickets[i], until); ok != mt.good() {
					t.Fatalf("NackUntil: %v, want %v", ok, mt.good())
				}
				if l := mt.lane; mt.good() {
					l.out, l.paused, l.until = false, true, until
					order++
					l.order = order
				}
			},
			"drop waiting": func(t *rapid.T) {
				mod := rapid.IntRange(1, 7).Draw(t, "every")
				match := func(v int) bool { return v%mod == 0 }
				// Lanes that are out keep their heads; the others' heads go, and what is
				// below drop says about the order does not arise: one at a time is dropped
				// from lanes that are ready or out.
				for _, l := range m.lanes {
					if l.paused && match(l.entries[0]) {
						t.Skip("a paused head would go")
					}
				}
				want := 0
				for _, l := range slices.Clone(m.lanes) {
					n := len(l.entries)
					if l.out {
						head := l.entries[0]
						l.entries = append([]int{head}, slices.DeleteFunc(l.entries[1:], match)...)
						want += n - len(l.entries)
						continue
					}
					headGone := match(l.entries[0])
					l.entries = slices.DeleteFunc(l.entries, match)
					want += n - len(l.entries)
					if headGone {
						l.nacks = 0
					}
					if len(l.entries) == 0 {
						m.ready = slices.DeleteFunc(m.ready, func(x *modelLane) bool { return x == l })
						m.lanes = slices.DeleteFunc(m.lanes, func(x *modelLane) bool { return x == l })
					}
				}
				if got := w.DropWaiting(match); got != want {
					t.Fatalf("DropWaiting: %d, want %d", got, want)
				}
			},
			"tick": func(t *rapid.T) {
				now = now.Add(time.Duration(rapid.IntRange(0, 50).Draw(t, "passed")))
				var due []*modelLane
				var next time.Time
				for _, l := range m.lanes {
					switch {
					case !l.paused:
					case !l.until.After(now):
						due = append(due, l)
					case next.IsZero() || l.until.Before(next):
						next = l.until
					}
				}
				slices.SortFunc(due, func(a, b *modelLane) int {
					if c := a.until.Compare(b.until); c != 0 {
						return c
					}
					return a.order - b.order
				})
				for _, l := range due {
					l.paused = false
					m.ready = append(m.ready, l)
				}
				if got := w.Tick(now); !got.Equal(next) {
					t.Fatalf("Tick: next %v, want %v", got, next)
				}
			},
			"return": func(t *rapid.T) {
				var ts []Ticket[int]
				var lanes []*modelLane
				for range rapid.IntRange(1, 3).Draw(t, "n") {
					i := pick(t)
					ts = append(ts, tickets[i])
					if mt := modelTickets[i]; mt.good() && !slices.Contains(lanes, mt.lane) {
						lanes = append(lanes, mt.lane)
					} else if mt.good() {
						// The last of two mentions of a ticket counts.
						t.Skip("same ticket twice")
					}
				}
				for _, l := range lanes {
					l.out = false
				}
				m.ready = append(slices.Clone(lanes), m.ready...)
				if got := w.Return(ts...); got != len(lanes) {
					t.Fatalf("Return: %d good, want %d", got, len(lanes))
				}
			},
			"drop": func(t *rapid.T) {
				mod := rapid.IntRange(1, 7).Draw(t, "every")
				match := func(v int) bool { return v%mod == 0 }
				want := 0
				// In the window's order of lanes: out, ready, paused. Only the
				// ready ones' order is seen later, so out and paused lanes that
				// become ready are compared as a set, by draining below.
				before := len(m.ready)
				for _, l := range slices.Clone(m.lanes) {
					n := len(l.entries)
					headGone := match(l.entries[0])
					l.entries = slices.DeleteFunc(l.entries, match)
					want += n - len(l.entries)
					if !headGone {
						continue
					}
					if i := slices.Index(m.ready, l); i >= 0 {
						if len(l.entries) > 0 {
							continue
						}
						m.ready = slices.Delete(m.ready, i, i+1)
						before--
					}
					m.settle(l)
				}
				if got := w.Drop(match); got != want {
					t.Fatalf("Drop: %d, want %d", got, want)
				}
				// Take over the window's order of those that have become ready.
				became := m.ready[before:]
				i := 0
				for l := w.ready.first; l != nil; l = l.next {
					if i >= before {
						j := slices.IndexFunc(became, func(x *modelLane) bool { return x.entries[0] == l.head })
						if j < i-before {
							t.Fatalf("Drop: %d became ready, not in the model", l.head)
						}
						became[i-before], became[j] = became[j], became[i-before]
					}
					i++
				}
			},
			"": func(t *rapid.T) { // invariants, after every step
				all := []int{}
				for _, l := range m.lanes {
					all = append(all, l.entries...)
				}
				got := slices.Sorted(w.All())
				slices.Sort(all)
				if !slices.Equal(got, all) {
					t.Fatalf("All: %v, want %v", got, all)
				}
				if w.Len() != len(all) {
					t.Fatalf("Len: %d, want %d", w.Len(), len(all))
				}
				if out := m.count(func(l *modelLane) bool { return l.out }); w.Out() != out || limit > 0 && out > limit {
					t.Fatalf("Out: %d, want %d, at most %d", w.Out(), out, limit)
				}
				if w.Ready() != len(m.ready) {
					t.Fatalf("Ready: %d, want %d", w.Ready(), len(m.ready))
				}
				if keyed := m.count(func(l *modelLane) bool { return l.key != "" }); len(w.keyed) != keyed {
					t.Fatalf("%d keyed lanes, want %d", len(w.keyed), keyed)
				}
				for i, ticket := range tickets {
					if ticket.Good() != modelTickets[i].good() {
						t.Fatalf("ticket %d: good %v, want %v", i, ticket.Good(), modelTickets[i].good())
					}
				}
			},
		})
	})
}

// TestWindowIsFairBetweenKeys: while one key has a thousand entries waiting, a
// key that comes later waits for one of them and no more.
func TestWindowIsFairBetweenKeys(t *testing.T) {
	w := New[string](Options{Max: 1})
	for i := range 1000 {
		w.Add("busy", "busy "+strconv.Itoa(i))
	}
	w.Add("quiet", "quiet")
	var got []string
	for range 3 {
		v, ticket, ok := w.Next()
		if !ok {
			t.Fatal("nothing ready")
		}
		got = append(got, v)
		w.Ack(ticket)
	}
	if want := []string{"busy 0", "quiet", "busy 1"}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

// TestWindowReusesMemory: a steady flow of keys allocates nothing.
func TestWindowReusesMemory(t *testing.T) {
	w := New[int](Options{})
	keys := make([]string, 100)
	for i := range keys {
		keys[i] = strconv.Itoa(i)
	}
	i := 0
	step := func() {
		w.Add(keys[i%len(keys)], i)
		i++
		_, ticket, _ := w.Next()
		w.Ack(ticket)
	}
	for range 1000 {
		step()
	}
	if n := testing.AllocsPerRun(1000, step); n != 0 {
		t.Errorf("%v allocations per entry", n)
	}
}

func BenchmarkWindow(b *testing.B) {
	w := New[int](Options{})
	keys := make([]string, 1000)
	for i := range keys {
		keys[i] = "user-" + strconv.Itoa(i)
	}
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		w.Add(keys[i%len(keys)], i)
		_, ticket, _ := w.Next()
		w.Ack(ticket)
	}
}
