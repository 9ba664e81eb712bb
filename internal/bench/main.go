// Command bench measures the bus's whole path against the same Watermill
// adapter used bare with the same bytes and the same settings, in one run: short
// slices of both sides alternate, on the same cores, and each is compared with
// its neighbour, so that what else the machine does falls on both alike.
//
//	make bench
//
// It takes the brokers from KAFKA_BOOTSTRAP_SERVERS, MESSAGING_REDIS_URL
// (appendfsync always) and EVENTBUS_BENCH_REDIS_URL (appendfsync everysec); those
// that are not set are left out, and said to be. With -out it also writes every
// slice in Go's benchmark format, for benchstat.
package main

import (
	"context"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"runtime"
	"runtime/pprof"
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
	flag.StringVar(&o.out, "out", "", "file for every slice in Go's benchmark format")
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
	fmt.Printf("%d rounds of each side, alternating in slices; medians, of the ratio with its quartiles; Go %s, %d cores\n\n",
		o.rounds, runtime.Version(), runtime.NumCPU())
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
		if !strings.Contains(c.title(), o.only) {
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
