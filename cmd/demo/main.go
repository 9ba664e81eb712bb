// Command demo is AURA360 in one process: an API that takes moods, activities
// and questions, the vector service's two consumers, the guardian agent, and
// users who keep them busy, on the broker that MESSAGING_BACKEND names, or in
// memory. It ends with a ledger: every event that the bus accepted, and what
// every consumer group did with it.
//
//	make demo                            # in memory, live
//	MESSAGING_BACKEND=redis make demo    # the same on a real broker
//	go run ./cmd/demo -rate 2000 -for 1m
//	go run ./cmd/demo -rate 0 -for 0     # only what you send to its API
//	go run ./cmd/demo -input moods.jsonl
//
// It exits with 1 when an event was lost or doubled, or there was no broker, and
// with 2 when it was called wrongly.
package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/mattn/go-isatty"
)

type options struct {
	addr   string
	rate   float64
	length time.Duration
	seed   uint64
	users  int
	input  string
	plain  bool
	settle time.Duration

	// inner stands around the handlers, outside the ledger: where tests lose and
	// double events.
	inner []message.HandlerMiddleware
}

func parse(args []string, stderr io.Writer) (options, error) {
	var o options
	fs := flag.NewFlagSet("demo", flag.ContinueOnError)
	fs.SetOutput(stderr)
	fs.StringVar(&o.addr, "addr", "127.0.0.1:8360", "`address` of the HTTP API; port 0 takes a free one, \"\" leaves the API out")
	fs.Float64Var(&o.rate, "rate", 200, "events per second that the users make, 0 to 100000; 0 for none")
	fs.DurationVar(&o.length, "for", 10*time.Second, "how long the users are active; 0 for until q or ctrl-c")
	fs.Uint64Var(&o.seed, "seed", 1, "the same seed makes the same traffic")
	fs.IntVar(&o.users, "users", 200, "how many users there are, 1 to 1000000")
	fs.StringVar(&o.input, "input", "", "publish the mood entries of this JSON Lines `file` instead; - is standard input")
	fs.BoolVar(&o.plain, "plain", false, "print plain lines also in a terminal")
	fs.DurationVar(&o.settle, "settle", 30*time.Second, "give up waiting for consumers when nothing happened for this long")
	if err := fs.Parse(args); err != nil {
		return o, err
	}
	timed := false
	fs.Visit(func(f *flag.Flag) { timed = timed || f.Name == "for" })
	if o.input != "" && !timed {
		o.length = 0 // the input has an end of its own
	}
	var err error
	switch {
	case fs.NArg() > 0:
		err = fmt.Errorf("unexpected argument %q", fs.Arg(0))
	case o.rate < 0 || o.rate > 100_000:
		err = fmt.Errorf("-rate %v: want 0 to 100000", o.rate)
	case o.rate == 0 && o.input != "":
		err = errors.New("-rate 0: want more than 0 with -input")
	case o.length < 0 || o.settle <= 0:
		err = errors.New("-for, -settle: want a positive duration")
	case o.users < 1 || o.users > 1_000_000:
		err = fmt.Errorf("-users %d: want 1 to 1000000", o.users)
	}
	if err != nil {
		fmt.Fprintf(stderr, "demo: %v\n", err)
	}
	return o, err
}

func main() { os.Exit(run(os.Args[1:], os.Stdin, os.Stdout, os.Stderr)) }

func run(args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	o, err := parse(args, stderr)
	switch {
	case errors.Is(err, flag.ErrHelp):
		return 0
	case err != nil:
		return 2
	}
	live := !o.plain && isTerminal(stdout) && (o.input != "-" || !isTerminal(stdin))
	d, err := open(o, stdin, newJournal(stderr, live))
	if err != nil {
		fmt.Fprintf(stderr, "demo: %v\n", err)
		return 1
	}
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	defer signal.Stop(signals)
	go func() {
		for {
			select {
			case <-signals:
				d.stop()
			case <-d.done:
				return
			}
		}
	}()
	finished := make(chan error, 1)
	go func() { finished <- d.run() }()
	show := showPlain
	if live {
		show = showLive
	}
	err = errors.Join(show(d, stdout), <-finished)
	d.journal.flush()
	if d.started.Load() != nil {
		printLedger(stdout, d)
	}
	if err != nil {
		fmt.Fprintf(stderr, "demo: %v\n", err)
		return 1
	}
	if !d.ledger.balance().Holds() {
		return 1
	}
	return 0
}

func isTerminal(f any) bool {
	file, ok := f.(*os.File)
	return ok && isatty.IsTerminal(file.Fd())
}
