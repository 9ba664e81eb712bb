package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/aura360/eventbus/bus"
	"github.com/aura360/eventbus/events"
	"github.com/aura360/eventbus/router"
)

// contest is the same work done in three ways: by the client library alone
// (bare), by the stock adapter, and by ours with everything that a user gets by
// default. Bare and stock make and read the same JSON and the same headers.
type contest struct {
	name   string
	n      int // events per round
	rounds int
	// stockPart divides n for the stock adapter where it would take minutes.
	stockPart int
	// bare is nil where there is nothing to compare with.
	bare, stock, ours side
	// atLeast and aim are rates relative to stock, bareLeast and bareAim to bare;
	// 0 is no bound.
	atLeast, aim, bareLeast, bareAim float64
}

// measure runs the rounds, the sides in turns, and prints a row.
func (c contest) measure(ctx context.Context, raw io.Writer) error {
	names := []string{"bare", "stock", "ours"}
	sides := []side{c.bare, c.stock, c.ours}
	samples := make([][]sample, len(sides))
	for i := range c.rounds + 1 {
		for j := range sides {
			k := (i + j) % len(sides) // who goes first alternates
			if sides[k] == nil {
				continue
			}
			n := c.n
			if names[k] == "stock" && c.stockPart > 1 {
				n /= c.stockPart
			}
			if i == 0 {
				n = max(n/8, 1) // the first round warms up
			}
			var s sample
			if err := s.take(ctx, sides[k], n); err != nil {
				return fmt.Errorf("%s: %w", names[k], err)
			}
			if i > 0 {
				samples[k] = append(samples[k], s)
				fmt.Fprintf(raw, "Benchmark%s/side=%s %d %.0f ns/op %.0f B/op %.0f allocs/op\n",
					strings.NewReplacer(" ", "_", ",", "").Replace(c.name), names[k], n, s.ns, s.bytes, s.allocs)
			}
		}
	}
	rate := func(k int) float64 {
		if len(samples[k]) == 0 {
			return 0
		}
		return 1e9 / median(samples[k], sample.time)
	}
	bare, stock, ours := rate(0), rate(1), rate(2)
	fmt.Printf("| %s | %s | %s | %s | %s | %s | %s | %s |\n", c.name, thousands(bare), thousands(stock), thousands(ours),
		times(ours, stock), bound(c.atLeast, c.aim), times(ours, bare), bound(c.bareLeast, c.bareAim))
	return nil
}

func thousands(rate float64) string {
	switch {
	case rate == 0:
		return ""
	case rate < 1000:
		return fmt.Sprintf("%.0f/s", rate)
	case rate < 10_000:
		return fmt.Sprintf("%.1fk/s", rate/1000)
	}
	return fmt.Sprintf("%.0fk/s", rate/1000)
}

func times(a, b float64) string {
	if b == 0 {
		return ""
	}
	return fmt.Sprintf("%.2fx", a/b)
}

func bound(atLeast, aim float64) string {
	switch {
	case atLeast == 0 && aim == 0:
		return ""
	case atLeast == 0:
		return fmt.Sprintf("aim %gx", aim)
	}
	return fmt.Sprintf("%gx, aim %gx", atLeast, aim)
}

// latency is a contest about how long one publish takes, from one goroutine.
type latency struct {
	name        string
	n           int
	stock, ours publishOne
}

// publishOne publishes the i-th event and returns once it is confirmed.
type publishOne func(ctx context.Context, i int) error

// measure publishes in slices that alternate, and prints a row.
func (l latency) measure(ctx context.Context, raw io.Writer) error {
	const parts = 40
	took := map[string][]time.Duration{}
	for part := range parts + 2 {
		order := []string{"stock", "ours"}
		if part%2 == 1 {
			order[0], order[1] = order[1], order[0]
		}
		for _, name := range order {
			f := l.ours
			if name == "stock" {
				f = l.stock
			}
			for i := range l.n / parts {
				start := time.Now()
				if err := f(ctx, i); err != nil {
					return fmt.Errorf("%s: %w", name, err)
				}
				if part >= 2 { // the first ones warm up
					took[name] = append(took[name], time.Since(start))
				}
			}
		}
	}
	at := func(name string, q float64) time.Duration {
		s := took[name]
		slices.Sort(s)
		return s[min(int(q*float64(len(s))), len(s)-1)]
	}
	for _, q := range []struct {
		name string
		at   float64
	}{{"p50", 0.5}, {"p99", 0.99}} {
		s, o := at("stock", q.at), at("ours", q.at)
		fmt.Printf("| %s, %s | | %v | %v | %.2f of the time | 1.15, aim 1 | | |\n", l.name, q.name,
			s.Round(time.Microsecond), o.Round(time.Microsecond), float64(o)/float64(s))
		fmt.Fprintf(raw, "Benchmark%s/q=%s/side=stock %d %d ns/op\nBenchmark%[1]s/q=%[2]s/side=ours %[3]d %[5]d ns/op\n",
			strings.NewReplacer(" ", "_", ",", "").Replace(l.name), q.name, l.n, s.Nanoseconds(), o.Nanoseconds())
	}
	return nil
}

// fromMany publishes n events from 64 goroutines.
func fromMany(f publishOne) side {
	const goroutines = 64
	return func(ctx context.Context, m *meter, n int) error {
		var next atomic.Int64
		var wg sync.WaitGroup
		errs := make(chan error, goroutines)
		m.start()
		for range goroutines {
			wg.Go(func() {
				for {
					i := int(next.Add(1)) - 1
					if i >= n {
						return
					}
					if err := f(ctx, i); err != nil {
						errs <- err
						return
					}
				}
			})
		}
		wg.Wait()
		m.stop()
		close(errs)
		return <-errs
	}
}

// inBatches publishes n events in batches through f.
func inBatches(size int, f func(ctx context.Context, evs []moodNoted) error) side {
	return func(ctx context.Context, m *meter, n int) error {
		evs := make([]moodNoted, n)
		for i := range evs {
			evs[i] = event(i)
		}
		m.start()
		for len(evs) > 0 {
			k := min(size, len(evs))
			if err := f(ctx, evs[:k]); err != nil {
				return err
			}
			evs = evs[k:]
		}
		m.stop()
		return nil
	}
}

// ourBatches publishes with our bus.
func ourBatches(b *bus.Bus) func(ctx context.Context, evs []moodNoted) error {
	return func(ctx context.Context, evs []moodNoted) error {
		batch := make([]events.Event, len(evs))
		for i, e := range evs {
			batch[i] = e
		}
		return b.PublishAll(ctx, batch...)
	}
}

// ourOne publishes one event with our bus.
func ourOne(b *bus.Bus) publishOne {
	return func(ctx context.Context, i int) error { return b.Publish(ctx, event(i)) }
}

// drained counts a drain of n events: the clock runs from the first event
// handled to the last, as joining a group is not what is compared.
type drained struct {
	m    *meter
	n    int
	seen atomic.Int64
	done func() // called once, with the last
}

func (d *drained) one() {
	switch d.seen.Add(1) {
	case 1:
		d.m.start()
	case int64(d.n):
		d.m.stop()
		d.done()
	}
}

// complete is called when everything has ended.
func (d *drained) complete() error {
	if got := d.seen.Load(); got < int64(d.n) {
		return fmt.Errorf("%d of %d events within %v", got, d.n, patience)
	}
	return nil
}

// drainOurs drains n events with a typed handler that takes pause for each.
func drainOurs[T events.Event](b *bus.Bus, pause time.Duration) side {
	return func(ctx context.Context, m *meter, n int) error {
		ctx, cancel := context.WithTimeout(ctx, patience)
		defer cancel()
		r, err := router.New(b, newGroup())
		if err != nil {
			return err
		}
		d := drained{m: m, n: n, done: cancel}
		router.Handle(r, "count", func(ctx context.Context, _ T) error {
			work(ctx, pause)
			d.one()
			return nil
		})
		return errors.Join(r.Run(ctx), d.complete())
	}
}

// work is what a handler does for pause: it waits for somebody else.
func work(ctx context.Context, pause time.Duration) {
	if pause <= 0 {
		return
	}
	t := time.NewTimer(pause)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}
