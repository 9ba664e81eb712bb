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
	"io"
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

	batch, drain, slow, drainRounds int

	table   string
	broker  string
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
	flag.IntVar(&o.batch, "batch", 40000, "events per round when publishing in batches or from many goroutines")
	flag.IntVar(&o.drain, "drain", 200000, "events in the backlog that is drained")
	flag.IntVar(&o.slow, "slow", 19200, "events per round with a handler of 10 ms")
	flag.IntVar(&o.drainRounds, "drain-rounds", 3, "rounds of each side when draining")
	flag.StringVar(&o.table, "table", "both", "middle (our layers against the same adapter), native (our drivers against others), or both")
	flag.StringVar(&o.broker, "broker", "", "in the table native: only the brokers whose name contains this")
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

// broker is a real one to measure with.
type broker struct{ name, addr string }

func run(o options) error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Hour)
	defer cancel()
	var redises []broker
	for _, r := range []broker{
		{"redis everysec", os.Getenv("EVENTBUS_BENCH_REDIS_URL")},
		{"redis always", os.Getenv("MESSAGING_REDIS_URL")},
	} {
		if r.addr == "" {
			fmt.Printf("%s: not measured: no address (scripts/brokers up; eval \"$(scripts/brokers env)\")\n", r.name)
			continue
		}
		redises = append(redises, r)
	}
	kafka := os.Getenv("KAFKA_BOOTSTRAP_SERVERS")
	if kafka == "" {
		fmt.Println("kafka: not measured: no address (scripts/brokers up; eval \"$(scripts/brokers env)\")")
	}
	fmt.Printf("Go %s, %d cores\n", runtime.Version(), runtime.NumCPU())
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
	var raw strings.Builder
	for _, t := range []struct {
		name string
		run  func(context.Context, options, []broker, string, io.Writer) error
	}{{"middle", middle}, {"native", natives}} {
		if o.table != "both" && o.table != t.name {
			continue
		}
		if err := t.run(ctx, o, redises, kafka, &raw); err != nil {
			return err
		}
	}
	if o.out != "" {
		return os.WriteFile(o.out, []byte(raw.String()), 0o644)
	}
	return nil
}

// middle compares what is ours above an adapter with the same adapter bare.
func middle(ctx context.Context, o options, redises []broker, kafka string, raw io.Writer) error {
	all := memoryComparisons(o)
	for _, r := range redises {
		cs, err := redisComparisons(r.name, r.addr, o)
		if err != nil {
			return fmt.Errorf("%s: %w", r.name, err)
		}
		all = append(all, cs...)
	}
	if kafka != "" {
		cs, err := kafkaComparisons(kafka, o)
		if err != nil {
			return fmt.Errorf("kafka: %w", err)
		}
		all = append(all, cs...)
	}
	fmt.Printf("\nThe stock build, ours above the adapter against the adapter bare: %d rounds of each side,\n"+
		"alternating in slices; medians, of the ratio with its quartiles.\n\n", o.rounds)
	fmt.Println("| work | bare | ours | difference | ratio of time | allocations bare / ours |")
	fmt.Println("|---|---|---|---|---|---|")
	for _, c := range all {
		if !strings.Contains(c.title(), o.only) {
			continue
		}
		if err := c.measure(ctx, o.rounds, raw); err != nil {
			return fmt.Errorf("%s: %w", c.name, err)
		}
	}
	return nil
}

// natives compares the native build, with all that is ours above it, with the
// stock adapter and with the client library alone.
func natives(ctx context.Context, o options, redises []broker, kafka string, raw io.Writer) error {
	fmt.Printf("\nThe native build, everything included, against the client library and the stock adapter\n"+
		"doing the same: medians of %d rounds (%d when draining), the sides in turns.\n\n", o.rounds, o.drainRounds)
	fmt.Println("| work | bare client | stock adapter | ours | ours to stock | bound | ours to bare | bound |")
	fmt.Println("|---|---|---|---|---|---|---|---|")
	for _, r := range append(redises, broker{"kafka", kafka}) {
		if r.addr == "" || !strings.Contains(r.name, o.broker) {
			continue
		}
		open := redisContests
		if r.name == "kafka" {
			open = kafkaContests
		}
		contests, latencies, err := open(r.name, r.addr, o)
		if err != nil {
			return fmt.Errorf("%s: %w", r.name, err)
		}
		for _, c := range contests {
			if strings.Contains(c.name, o.only) {
				if err := c.measure(ctx, raw); err != nil {
					return fmt.Errorf("%s: %w", c.name, err)
				}
			}
		}
		for _, l := range latencies {
			if strings.Contains(l.name, o.only) {
				if err := l.measure(ctx, raw); err != nil {
					return fmt.Errorf("%s: %w", l.name, err)
				}
			}
		}
	}
	if c := memoryContest(o); strings.Contains(c.name, o.only) && strings.HasPrefix(c.name, o.broker) {
		return c.measure(ctx, raw)
	}
	return nil
}
