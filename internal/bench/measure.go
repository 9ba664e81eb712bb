package main

import (
	"context"
	"fmt"
	"io"
	"runtime"
	"slices"
	"strings"
	"time"
)

// side does n units of work between two readings of a meter.
type side func(ctx context.Context, m *meter, n int) error

// meter reads the clock and the allocator. What a side prepares before start and
// clears away after stop is not measured.
type meter struct {
	begin         time.Time
	before, after runtime.MemStats
	took          time.Duration
}

func (m *meter) start() {
	runtime.ReadMemStats(&m.before)
	m.begin = time.Now()
}

func (m *meter) stop() {
	m.took = time.Since(m.begin)
	runtime.ReadMemStats(&m.after)
}

// comparison is the same work done by two sides. A round of n events is cut into
// slices that alternate: the finer, the less what drifts on the machine weighs.
type comparison struct {
	name       string
	n, slices  int
	bare, ours side
	servers    []int // processes of the broker, if they are on this machine
	cores      cores
}

// sample is one slice of one side, per event.
type sample struct{ ns, allocs, bytes float64 }

// measure runs the rounds and prints a row. The ratio is the median over pairs
// of slices that followed each other, with the quarter and three quarters of them
// behind it: what disturbs the machine for longer than a slice falls on both of
// a pair, and what is shorter on few.
func (c comparison) measure(ctx context.Context, rounds int, raw io.Writer) error {
	restore, err := place(c.cores, c.servers)
	if err != nil {
		return err
	}
	defer restore()
	var bare, ours []sample
	var ratios []float64
	for i := range rounds + 1 {
		for j := range c.slices {
			var b, o sample
			first, second := &b, &o
			f, g := c.bare, c.ours
			if (i+j)%2 == 1 { // who goes first alternates too
				first, second, f, g = second, first, g, f
			}
			if err := first.take(ctx, f, c.n/c.slices); err != nil {
				return err
			}
			if err := second.take(ctx, g, c.n/c.slices); err != nil {
				return err
			}
			if i > 0 { // the first round warms both up
				bare, ours, ratios = append(bare, b), append(ours, o), append(ratios, o.ns/b.ns)
			}
		}
	}
	label := strings.NewReplacer(" ", "_", ",", "").Replace(c.title())
	for name, samples := range map[string][]sample{"bare": bare, "ours": ours} {
		for _, s := range samples {
			fmt.Fprintf(raw, "Benchmark%s/side=%s %d %.0f ns/op %.0f B/op %.0f allocs/op\n",
				label, name, c.n/c.slices, s.ns, s.bytes, s.allocs)
		}
	}
	x, y := median(bare, sample.time), median(ours, sample.time)
	slices.Sort(ratios)
	fmt.Printf("| %s | %s | %s | %+.1f us | %.2f (%.2f-%.2f) | %.0f / %.0f |\n", c.title(), micro(x), micro(y), (y-x)/1000,
		ratios[len(ratios)/2], ratios[len(ratios)/4], ratios[len(ratios)*3/4],
		median(bare, sample.count), median(ours, sample.count))
	return nil
}

// title is the name, and where the two programs run.
func (c comparison) title() string {
	if c.cores == anyCore {
		return c.name
	}
	return c.name + ", " + c.cores.String()
}

func (s sample) time() float64  { return s.ns }
func (s sample) count() float64 { return s.allocs }

// take runs one slice of n events. It starts without garbage: neither side
// collects the other's.
func (s *sample) take(ctx context.Context, f side, n int) error {
	var m meter
	runtime.GC()
	if err := f(ctx, &m, n); err != nil {
		return err
	}
	per := float64(n)
	s.ns = float64(m.took.Nanoseconds()) / per
	s.allocs = float64(m.after.Mallocs-m.before.Mallocs) / per
	s.bytes = float64(m.after.TotalAlloc-m.before.TotalAlloc) / per
	return nil
}

func median(s []sample, of func(sample) float64) float64 {
	values := make([]float64, len(s))
	for i, v := range s {
		values[i] = of(v)
	}
	slices.Sort(values)
	return values[len(values)/2]
}

func micro(ns float64) string { return fmt.Sprintf("%.1f us", ns/1000) }
