package middleware

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"pgregory.net/rapid"

	"github.com/aura360/eventbus/events"
)

func TestConcurrentCopiesAreHandledOnce(t *testing.T) {
	dd := Deduplicate(NewMemoryMarks(MemoryMarksConfig{}), nil)
	var wg sync.WaitGroup
	var handled, duplicates [20]atomic.Int32
	for id := range handled {
		for range 8 {
			wg.Go(func() {
				h := dd(handler(func(context.Context) error { handled[id].Add(1); return nil }))
				d, err := deliver(h, event(t.Context(), fmt.Sprint(id), "{}"))
				if err != nil {
					t.Error(err)
				}
				if d.Outcome == OutcomeDuplicate {
					duplicates[id].Add(1)
				}
			})
		}
	}
	wg.Wait()
	for id := range handled {
		if h, d := handled[id].Load(), duplicates[id].Load(); h != 1 || d != 7 {
			t.Errorf("event %d: handled %d times, %d duplicates", id, h, d)
		}
	}
}

// TestDeduplicateKeepsItsInvariants runs random schedules of copies, in virtual
// time, against the two invariants of Marks.
func TestDeduplicateKeepsItsInvariants(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		type copyOf struct {
			id, body        string
			at, takes, stop time.Duration
			fails           bool
		}
		copies := rapid.SliceOfN(rapid.Custom(func(rt *rapid.T) copyOf {
			ms := func(most int, name string) time.Duration {
				return time.Duration(rapid.IntRange(0, most).Draw(rt, name)) * time.Millisecond
			}
			return copyOf{
				id: rapid.SampledFrom([]string{"a", "b"}).Draw(rt, "id"), body: rapid.SampledFrom([]string{"x", "x", "y"}).Draw(rt, "body"),
				at: ms(10, "at"), takes: ms(5, "takes"), stop: ms(40, "stop") + 1, fails: rapid.Bool().Draw(rt, "fails"),
			}
		}), 1, 12).Draw(rt, "copies")
		leased := rapid.Bool().Draw(rt, "leased")

		var problem string
		synctest.Test(t, func(t *testing.T) {
			var marks Marks = NewMemoryMarks(MemoryMarksConfig{})
			if leased {
				marks = newLeasedMarks(2 * time.Millisecond)
			}
			dd := Deduplicate(marks, nil)
			var mu sync.Mutex
			running, succeeded := map[string]int{}, map[string]int{}
			report := func(format string, a ...any) { problem = fmt.Sprintf(format, a...) }
			var wg sync.WaitGroup
			for _, c := range copies {
				wg.Go(func() {
					time.Sleep(c.at) // virtual
					ctx, cancel := context.WithTimeout(t.Context(), c.stop)
					defer cancel()
					event1 := c.id + c.body
					called := false
					d, err := deliver(dd(handler(func(context.Context) error {
						mu.Lock()
						called = true
						if running[event1]++; running[event1] > 1 {
							report("%s is handled twice at a time", event1)
						}
						if succeeded[event1] > 0 {
							report("%s is handled after it was done", event1)
						}
						mu.Unlock()
						time.Sleep(c.takes)
						mu.Lock()
						defer mu.Unlock()
						running[event1]--
						if c.fails {
							return errBoom
						}
						succeeded[event1]++
						return nil
					})), event(ctx, c.id, c.body))
					mu.Lock()
					defer mu.Unlock()
					switch {
					case d.Outcome == OutcomeDuplicate && (succeeded[event1] == 0 || called):
						report("%s is dropped before it was handled", event1)
					case err == nil && d.Outcome != OutcomeDuplicate && !called:
						report("%s is acked and nobody handled it", event1)
					case d.MarksFailed:
						report("%s: marks failed", event1)
					}
				})
			}
			wg.Wait()
		})
		if problem != "" {
			rt.Fatal(problem)
		}
	})
}

// leasedMarks is a store as one across processes is: claims run out. Waiting
// copies look again every millisecond.
type leasedMarks struct {
	lease    time.Duration
	mu       sync.Mutex
	token    uint64
	m        map[MarkKey]leasedMark
	failing  atomic.Bool
	renewals atomic.Int32
}

type leasedMark struct {
	body, token uint64
	done        bool
	until       time.Time
}

var errStore = errors.New("store is down")

func newLeasedMarks(lease time.Duration) *leasedMarks {
	return &leasedMarks{lease: lease, m: map[MarkKey]leasedMark{}}
}

func (l *leasedMarks) Lease() time.Duration { return l.lease }

func (l *leasedMarks) Claim(ctx context.Context, key MarkKey, body uint64) (Claim, error) {
	for {
		if l.failing.Load() {
			return Claim{}, errStore
		}
		l.mu.Lock()
		old, ok := l.m[key]
		switch {
		case !ok || !old.done && !time.Now().Before(old.until):
			l.token++
			l.m[key] = leasedMark{body: body, token: l.token, until: time.Now().Add(l.lease)}
			token := l.token
			l.mu.Unlock()
			return Claim{Claimed, token}, nil
		case old.done && old.body != body:
			l.mu.Unlock()
			return Claim{State: OtherBody}, nil
		case old.done:
			l.mu.Unlock()
			return Claim{State: AlreadyDone}, nil
		}
		l.mu.Unlock()
		if sleep(ctx, time.Millisecond) != nil {
			return Claim{}, ctx.Err()
		}
	}
}

func (l *leasedMarks) change(ctx context.Context, key MarkKey, token uint64, f func(*leasedMark) bool) error {
	if l.failing.Load() {
		return errStore
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	old, ok := l.m[key]
	if !ok || old.token != token || old.done {
		return ErrClaimLost
	}
	if f(&old) {
		l.m[key] = old
	} else {
		delete(l.m, key)
	}
	return nil
}

func (l *leasedMarks) Renew(ctx context.Context, key MarkKey, token uint64) error {
	l.renewals.Add(1)
	return l.change(ctx, key, token, func(m *leasedMark) bool { m.until = time.Now().Add(l.lease); return true })
}

func (l *leasedMarks) Done(ctx context.Context, key MarkKey, token uint64) error {
	return l.change(ctx, key, token, func(m *leasedMark) bool { m.done = true; return true })
}

func (l *leasedMarks) Release(ctx context.Context, key MarkKey, token uint64) error {
	return l.change(ctx, key, token, func(*leasedMark) bool { return false })
}

func TestClaimIsRenewedWhileTheHandlerRuns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		marks := newLeasedMarks(30 * time.Second)
		dd := Deduplicate(marks, nil)
		slow := dd(handler(func(context.Context) error { time.Sleep(5 * time.Minute); return nil })) // virtual
		var wg sync.WaitGroup
		wg.Go(func() { _, _ = deliver(slow, event(t.Context(), "1", "{}")) })
		synctest.Wait()
		start := time.Now()
		d, err := deliver(slow, event(t.Context(), "1", "{}"))
		if took := time.Since(start).Round(time.Second); err != nil || d.Outcome != OutcomeDuplicate || took != 5*time.Minute {
			t.Errorf("err %v, outcome %s, waited %v", err, d.Outcome, took)
		}
		wg.Wait()
		if n := marks.renewals.Load(); n < 29 || n > 30 {
			t.Errorf("renewed %d times in 30 thirds of the lease", n)
		}
	})
}

func TestStoreFailingHandlesAnyway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log logBuffer
		marks := newLeasedMarks(30 * time.Second)
		dd := Deduplicate(marks, log.logger())
		n := 0
		h := dd(handler(func(context.Context) error { n++; return nil }))
		marks.failing.Store(true)
		for range 3 {
			if d, err := deliver(h, event(t.Context(), "1", "{}")); err != nil || !d.MarksFailed {
				t.Fatalf("err %v, %+v", err, d)
			}
		}
		if n != 3 || strings.Count(log.String(), "marks failed") != 1 {
			t.Errorf("handled %d times; log %s", n, log.String())
		}
		marks.failing.Store(false)
		failsLater := dd(handler(func(context.Context) error { marks.failing.Store(true); return nil }))
		if d, err := deliver(failsLater, event(t.Context(), "2", "{}")); err != nil || !d.MarksFailed {
			t.Errorf("mark not set: err %v, counted %v", err, d.MarksFailed)
		}
	})
}

func TestHandledAtShutdownIsMarkedAllTheSame(t *testing.T) {
	marks := newLeasedMarks(30 * time.Second)
	dd := Deduplicate(marks, nil)
	ctx, cancel := context.WithCancel(t.Context())
	if d, err := deliver(dd(handler(func(context.Context) error { cancel(); return nil })), event(ctx, "1", "{}")); err != nil || d.MarksFailed {
		t.Fatalf("err %v, %+v", err, d)
	}
	if d, err := deliver(dd(handler(nil)), event(t.Context(), "1", "{}")); err != nil || d.Outcome != OutcomeDuplicate {
		t.Errorf("err %v, outcome %s", err, d.Outcome)
	}
}

func TestLostClaimIsCounted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		marks := newLeasedMarks(3 * time.Second)
		h := Deduplicate(marks, nil)(handler(func(context.Context) error {
			marks.mu.Lock()
			for k, m := range marks.m { // somebody else has it now
				m.token += 100
				marks.m[k] = m
			}
			marks.mu.Unlock()
			time.Sleep(10 * time.Second) // virtual
			return nil
		}))
		if d, err := deliver(h, event(t.Context(), "1", "{}")); err != nil || !d.MarksFailed || marks.renewals.Load() != 1 {
			t.Errorf("err %v, counted %v, renewals %d", err, d.MarksFailed, marks.renewals.Load())
		}
	})
}

func TestSameIDWithAnotherBodyIsHandledAndKnown(t *testing.T) {
	var log logBuffer
	dd := Deduplicate(NewMemoryMarks(MemoryMarksConfig{}), log.logger())
	h := dd(handler(func(context.Context) error { return nil }))
	for i, c := range []struct {
		body string
		want Outcome
		diff bool
	}{{"x", "", false}, {"y", "", true}, {"y", OutcomeDuplicate, false}, {"x", OutcomeDuplicate, false}} {
		d, err := deliver(h, event(t.Context(), "1", c.body))
		if err != nil || d.Outcome != c.want || d.OtherBody != c.diff {
			t.Errorf("copy %d: err %v, outcome %q, other body %v", i, err, d.Outcome, d.OtherBody)
		}
	}
	if n := strings.Count(log.String(), "another body"); n != 1 {
		t.Errorf("logged %d times", n)
	}
}

func TestWhatIdentifiesAnEvent(t *testing.T) {
	dd := Deduplicate(NewMemoryMarks(MemoryMarksConfig{}), nil)
	n := 0
	h := dd(handler(func(context.Context) error { n++; return nil }))
	run := func(change func(d *Delivery)) Outcome {
		msg := event(t.Context(), "1", "{}")
		d := Begin(msg, "kafka", "group", "topic")
		d.Handler = "handler"
		change(d)
		if _, err := h(msg); err != nil {
			t.Fatal(err)
		}
		return d.Outcome
	}
	for name, f := range map[string]func(d *Delivery){
		"itself":     func(*Delivery) {},
		"group":      func(d *Delivery) { d.Group = "other" },
		"handler":    func(d *Delivery) { d.Handler = "other" },
		"source":     func(d *Delivery) { d.Msg.Metadata["ce_source"] = "other" },
		"id":         func(d *Delivery) { d.Msg.Metadata["event_id"] = "2" },
		"generation": func(d *Delivery) { d.Msg.Metadata[events.HeaderGeneration] = "1" },
		"body's id": func(d *Delivery) {
			d.Msg.Metadata = message.Metadata{"ce_source": "svc"}
			d.Event = benchEvent{Base: events.Base{ID: "3"}}
		},
	} {
		if first, second := run(f), run(f); first != "" || second != OutcomeDuplicate {
			t.Errorf("%s: outcomes %q, %q", name, first, second)
		}
	}
	// Neither backend nor topic: failover changes the one, a rename the other.
	if o := run(func(d *Delivery) { d.Backend, d.Topic = "redis", "other" }); o != OutcomeDuplicate {
		t.Errorf("on another backend: outcome %q", o)
	}
	n = 0
	for range 2 {
		run(func(d *Delivery) { d.Msg.Metadata = message.Metadata{} })
	}
	if n != 2 {
		t.Errorf("without an id handled %d times of 2", n)
	}
}

func TestIgnoredAndPanickedEventsAreNotMarked(t *testing.T) {
	marks := NewMemoryMarks(MemoryMarksConfig{})
	dd := Deduplicate(marks, nil)
	ignore := dd(func(msg *message.Message) ([]*message.Message, error) {
		DeliveryFrom(msg.Context()).Outcome = OutcomeIgnored
		return nil, nil
	})
	if _, err := deliver(ignore, event(t.Context(), "1", "{}")); err != nil {
		t.Fatal(err)
	}
	func() {
		defer func() { _ = recover() }()
		_, _ = deliver(dd(handler(func(context.Context) error { panic("p") })), event(t.Context(), "1", "{}"))
	}()
	if s := marks.Stats(); s != (MarksStats{}) {
		t.Errorf("kept %+v", s)
	}
}

func TestMemoryMarksForgetByAgeAndNumber(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := NewMemoryMarks(MemoryMarksConfig{MaxEntries: 64 * 2 * 10, TTL: time.Hour})
		mark := func(k MarkKey) ClaimState {
			c, err := m.Claim(t.Context(), k, 1)
			if err != nil {
				t.Fatal(err)
			}
			if c.State == Claimed {
				if err := m.Done(t.Context(), k, c.Token); err != nil {
					t.Fatal(err)
				}
			}
			return c.State
		}
		key := func(i int) MarkKey { return MarkKey{0: 7, 1: byte(i), 2: byte(i >> 8)} } // one shard
		mark(key(0))
		time.Sleep(90 * time.Minute) // virtual
		mark(key(1))                 // begins a generation
		if s := mark(key(0)); s != AlreadyDone {
			t.Errorf("state %d before two generations", s)
		}
		time.Sleep(90 * time.Minute)
		mark(key(2))
		if s := mark(key(0)); s != Claimed {
			t.Errorf("state %d, want it forgotten", s)
		}
		for i := range 1000 {
			mark(key(i))
			if s := mark(key(i)); s != AlreadyDone {
				t.Fatalf("mark %d: state %d right after it was set", i, s)
			}
		}
		if s := m.Stats(); s.Marks > 20 || s.Claims != 0 || s.Forgotten == 0 {
			t.Errorf("stats %+v", s)
		}
		if s := mark(key(995)); s != AlreadyDone {
			t.Errorf("a recent mark: state %d", s)
		}
	})
}

func TestMemoryMarksTakeOnlyTheHoldersToken(t *testing.T) {
	m := NewMemoryMarks(MemoryMarksConfig{})
	k := MarkKey{1}
	c, _ := m.Claim(t.Context(), k, 1)
	for name, f := range map[string]func(context.Context, MarkKey, uint64) error{"Renew": m.Renew, "Done": m.Done} {
		if err := f(t.Context(), k, c.Token+1); !errors.Is(err, ErrClaimLost) {
			t.Errorf("%s with a foreign token: %v", name, err)
		}
	}
	if err := m.Release(t.Context(), k, c.Token+1); err != nil || m.Stats().Claims != 1 {
		t.Errorf("Release with a foreign token: %v, %+v", err, m.Stats())
	}
	if err := m.Renew(t.Context(), k, c.Token); err != nil || m.Lease() != 0 {
		t.Errorf("Renew: %v", err)
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(errBoom)
	if _, err := m.Claim(ctx, k, 1); !errors.Is(err, errBoom) {
		t.Errorf("waiting: %v", err)
	}
}
