// Command bench measures the bus's whole path against the same Watermill
// adapter used bare with the same bytes and the same settings, in one run:
// rounds of both sides alternate, and medians are compared, so that what else
// the machine does falls on both alike.
//
//	make bench
//
// It takes the brokers from KAFKA_BOOTSTRAP_SERVERS, MESSAGING_REDIS_URL
// (appendfsync always) and EVENTBUS_BENCH_REDIS_URL (appendfsync everysec); those
// that are not set are left out, and said to be. With -out it also writes every
// round in Go's benchmark format, for benchstat.
package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"runtime"
	"runtime/pprof"
	"slices"
	"strings"
	"time"
)

// options are the command's flags.
type options struct {
	rounds  int
	publish int
	consume int
	memory  int
	only    string
	out     string
	profile string
}

func main() {
	var o options
	flag.IntVar(&o.rounds, "rounds", 7, "rounds of each side, alternating")
	flag.IntVar(&o.publish, "publish", 4000, "events per round when publishing to a broker")
	flag.IntVar(&o.consume, "consume", 10000, "events per round when consuming from a broker")
	flag.IntVar(&o.memory, "memory", 100000, "events per round in memory")
	flag.StringVar(&o.only, "only", "", "run only the comparisons whose name contains this")
	flag.StringVar(&o.out, "out", "", "file for every round in Go's benchmark format")
	flag.StringVar(&o.profile, "cpuprofile", "", "file for a CPU profile of all of it")
	flag.Parse()
	slog.SetDefault(slog.New(slog.DiscardHandler))
	if err := run(o); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run(o options) error {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Minute)
	defer cancel()
	all := memoryComparisons(o)
	add := func(cs []comparison, err error) error {
		all = append(all, cs...)
		return err
	}
	for _, r := range []struct{ name, url string }{
		{"redis everysec", os.Getenv("EVENTBUS_BENCH_REDIS_URL")},
		{"redis always", os.Getenv("MESSAGING_REDIS_URL")},
	} {
		if r.url == "" {
			fmt.Printf("%s: not measured: no address (scripts/brokers up; eval \"$(scripts/brokers env)\")\n", r.name)
			continue
		}
		if err := add(redisComparisons(r.name, r.url, o)); err != nil {
			return fmt.Errorf("%s: %w", r.name, err)
		}
	}
	if addr := os.Getenv("KAFKA_BOOTSTRAP_SERVERS"); addr == "" {
		fmt.Println("kafka: not measured: no address (scripts/brokers up; eval \"$(scripts/brokers env)\")")
	} else if err := add(kafkaComparisons(addr, o)); err != nil {
		return fmt.Errorf("kafka: %w", err)
	}
	fmt.Printf("%d rounds of each side, alternating; medians; Go %s, %d cores\n\n", o.rounds, runtime.Version(), runtime.NumCPU())
	fmt.Println("| work | bare | ours | difference | ratio of time | allocations bare / ours |")
	fmt.Println("|---|---|---|---|---|---|")
	var raw strings.Builder
	if o.profile != "" {
		f, err := os.Create(o.profile)
		if err != nil {
			return err
		}
		defer f.Close()
		if err := pprof.StartCPUProfile(f); err != nil {
			return err
		}
		defer pprof.StopCPUProfile()
	}
	for _, c := range all {
		if !strings.Contains(c.name, o.only) {
			continue
		}
		if err := c.measure(ctx, o.rounds, &raw); err != nil {
			return fmt.Errorf("%s: %w", c.name, err)
		}
	}
	if o.out != "" {
		return os.WriteFile(o.out, []byte(raw.String()), 0o644)
	}
	return nil
}

// side does n units of work and returns how long they took.
type side func(ctx context.Context, n int) (time.Duration, error)

// comparison is the same work done by two sides. A round of n events is cut into
// slices that alternate: the finer, the less what drifts on the machine weighs.
type comparison struct {
	name       string
	n, slices  int
	bare, ours side
}

// sample is one round of one side, per event.
type sample struct{ ns, allocs, bytes float64 }

// measure runs the rounds and prints a row.
func (c comparison) measure(ctx context.Context, rounds int, raw io.Writer) error {
	var bare, ours []sample
	for i := range rounds + 1 {
		var b, o sample
		for j := range c.slices {
			first, second := &b, &o
			f, g := c.bare, c.ours
			if (i+j)%2 == 1 { // who goes first alternates too
				first, second, f, g = second, first, g, f
			}
			if err := first.add(ctx, f, c.n/c.slices, c.slices); err != nil {
				return err
			}
			if err := second.add(ctx, g, c.n/c.slices, c.slices); err != nil {
				return err
			}
		}
		if i > 0 { // the first round warms both up
			bare, ours = append(bare, b), append(ours, o)
		}
	}
	for name, samples := range map[string][]sample{"bare": bare, "ours": ours} {
		for _, s := range samples {
			fmt.Fprintf(raw, "Benchmark%s/side=%s %d %.0f ns/op %.0f B/op %.0f allocs/op\n",
				strings.NewReplacer(" ", "_", ",", "").Replace(c.name), name, c.n, s.ns, s.bytes, s.allocs)
		}
	}
	x, y := median(bare, sample.time), median(ours, sample.time)
	fmt.Printf("| %s | %s | %s | %+.1f us | %.2f | %.0f / %.0f |\n", c.name, micro(x), micro(y), (y-x)/1000, y/x,
		median(bare, sample.count), median(ours, sample.count))
	return nil
}

func (s sample) time() float64  { return s.ns }
func (s sample) count() float64 { return s.allocs }

// add runs one slice of a round: n events, a part of parts.
func (s *sample) add(ctx context.Context, f side, n, parts int) error {
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	d, err := f(ctx, n)
	if err != nil {
		return err
	}
	runtime.ReadMemStats(&after)
	per := float64(n) * float64(parts)
	s.ns += float64(d.Nanoseconds()) / per
	s.allocs += float64(after.Mallocs-before.Mallocs) / per
	s.bytes += float64(after.TotalAlloc-before.TotalAlloc) / per
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
