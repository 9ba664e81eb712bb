//go:build unix

// Brokers starts and stops the real brokers of this checkout. It is the part
// of scripts/brokers that installs nothing.
//
//	brokers up [-redis addr] [-kafka addr]   start what is missing, wait until it is ready
//	brokers down                             stop what up started, remove its data
//	brokers env                              print the shell lines that tell tests about them
//	brokers status                           say what runs; exit status 3 if nothing does
//	brokers backends                         say in one line which backends tests run against
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"
)

// errNothing is the answer of status and env when no broker is known.
var errNothing = errors.New("no broker is running: start them with scripts/brokers up")

const folder = ".brokers"

func main() {
	err := run(os.Args[1:])
	if err == nil {
		return
	}
	fmt.Fprintln(os.Stderr, "brokers:", err)
	if errors.Is(err, errNothing) {
		os.Exit(3)
	}
	os.Exit(1)
}

func run(args []string) error {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	ctx, cancel := context.WithTimeout(ctx, 3*time.Minute)
	defer cancel()
	if len(args) == 0 {
		return errors.New("want up, down, env, status or backends")
	}
	m, err := load(folder)
	if err != nil {
		return err
	}
	switch args[0] {
	case "up":
		return m.up(ctx, args[1:])
	case "down":
		return m.down()
	case "env":
		return m.env(os.Stdout)
	case "status":
		return m.status(ctx, os.Stdout)
	case "backends":
		m.backends(ctx, os.Stdout)
		return nil
	default:
		return fmt.Errorf("%q: want up, down, env, status or backends", args[0])
	}
}
