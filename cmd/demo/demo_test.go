package main

import (
	"bytes"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/aura360/eventbus/middleware"
)

// runFor runs the demo for a second of 300 events, in virtual time, and returns
// what it printed.
func runFor(t *testing.T, change func(*options)) (d *demo, plain string, err error) {
	t.Helper()
	t.Setenv("MESSAGING_BACKEND", "memory")
	synctest.Test(t, func(t *testing.T) {
		o := options{rate: 300, length: time.Second, seed: 1, users: 20, settle: 2 * time.Second}
		if change != nil {
			change(&o)
		}
		var said bytes.Buffer
		if d, err = open(o, strings.NewReader(""), newJournal(&said, false)); err != nil {
			return
		}
		var out bytes.Buffer
		finished := make(chan error, 1)
		go func() { finished <- d.run() }()
		if e := showPlain(d, &out); e != nil {
			t.Error(e)
		}
		err = <-finished
		printLedger(&out, d)
		plain = out.String()
		if said.Len() > 0 {
			t.Logf("journal: %s", &said)
		}
	})
	return d, plain, err
}

func TestRunEndsWithALedgerThatHolds(t *testing.T) {
	d, plain, err := runFor(t, nil)
	if err != nil {
		t.Fatal(err)
	}
	b := d.ledger.balance()
	if !b.Holds() || b.Accepted < 600 || b.Unconfirmed+b.Refused+b.Failed+b.Foreign+b.Copies > 0 {
		t.Errorf("lost %v, doubled %v of %d accepted; %+v", b.Lost, b.Doubled, b.Accepted, b)
	}
	for _, g := range b.Groups {
		if g.Expected == 0 || g.Handled != g.Expected {
			t.Errorf("group %s handled %d of %d", g.Name, g.Handled, g.Expected)
		}
	}
	if d.talk.asked == 0 || d.talk.answered != d.talk.asked {
		t.Errorf("%d questions were asked, %d answered", d.talk.asked, d.talk.answered)
	}
	if !strings.Contains(plain, "It holds") || !strings.Contains(plain, "memory: accepted until this process ends") {
		t.Errorf("the report does not say so:\n%s", plain)
	}
	for line := range strings.Lines(plain) {
		if n := len([]rune(strings.TrimSuffix(line, "\n"))); n > 80 {
			t.Errorf("%d columns: %s", n, line)
		}
	}
}

// meddle calls change for the first delivery to a group, in place of the rest
// of the chain.
func meddle(group string, change func(next message.HandlerFunc, msg *message.Message)) func(*options) {
	var done atomic.Bool
	return func(o *options) {
		o.inner = []message.HandlerMiddleware{func(next message.HandlerFunc) message.HandlerFunc {
			return func(msg *message.Message) ([]*message.Message, error) {
				if middleware.DeliveryFrom(msg.Context()).Group != group || !done.CompareAndSwap(false, true) {
					return next(msg)
				}
				change(next, msg)
				return nil, nil
			}
		}}
	}
}

func TestLostEventIsReported(t *testing.T) {
	d, plain, err := runFor(t, meddle("vectordb-context-aggregator", func(message.HandlerFunc, *message.Message) {}))
	if err != nil {
		t.Fatal(err)
	}
	b := d.ledger.balance()
	equal(t, []int{1, 0, 1}, []int{len(b.Lost), len(b.Doubled), b.Groups[0].Lost})
	if !strings.Contains(plain, "It does not hold: 1 lost, 0 doubled") || !strings.Contains(plain, "nothing happened for 2s") || !strings.Contains(plain, "lost: vectordb-context-aggregator "+b.Lost[0].id) {
		t.Errorf("the report does not say so:\n%s", plain)
	}
}

func TestDoubledEventIsReported(t *testing.T) {
	d, _, err := runFor(t, meddle("vectordb-vectorization", func(next message.HandlerFunc, msg *message.Message) {
		_, _ = next(msg)
		_, _ = next(msg)
	}))
	if err != nil {
		t.Fatal(err)
	}
	b := d.ledger.balance()
	if len(b.Doubled) == 0 || len(b.Lost) != 0 {
		t.Errorf("lost %v, doubled %v", b.Lost, b.Doubled)
	}
}

func TestStoppingEarlySettlesWhatWasAccepted(t *testing.T) {
	var d *demo
	t.Setenv("MESSAGING_BACKEND", "memory")
	synctest.Test(t, func(t *testing.T) {
		var err error
		o := options{rate: 300, length: time.Hour, seed: 1, users: 20, settle: 2 * time.Second}
		if d, err = open(o, nil, newJournal(&bytes.Buffer{}, false)); err != nil {
			t.Fatal(err)
		}
		time.AfterFunc(2*time.Second, d.stop)
		if err := d.run(); err != nil {
			t.Fatal(err)
		}
	})
	if b := d.ledger.balance(); !b.Holds() || b.Accepted < 300 {
		t.Errorf("%d accepted, lost %v, doubled %v", b.Accepted, b.Lost, b.Doubled)
	}
}

func TestDisabledBackendIsRefused(t *testing.T) {
	t.Setenv("MESSAGING_BACKEND", "disabled")
	if _, err := open(options{}, nil, newJournal(&bytes.Buffer{}, false)); err == nil || !strings.Contains(err.Error(), "disabled") {
		t.Errorf("got %v", err)
	}
}

func TestWrongArgumentsAreRefused(t *testing.T) {
	for _, args := range [][]string{{"-rate", "-1"}, {"-users", "0"}, {"-for", "-1s"}, {"x"}, {"-bogus"}, {"-rate", "0", "-input", "-"}} {
		var said bytes.Buffer
		if code := run(args, strings.NewReader(""), &bytes.Buffer{}, &said); code != 2 || said.Len() == 0 {
			t.Errorf("demo %v: exit %d, said %q", args, code, &said)
		}
	}
}

// The command itself, in real time, with its API and an input.
func TestCommandPublishesAnInputAndHoldsItsLedger(t *testing.T) {
	t.Setenv("MESSAGING_BACKEND", "")
	input := `{"user_id":"u1","mood_score":7,"notes":"bom dia"}
{"user_id":"u1","mood_score":70}
{"user_id":"u2","mood_score":3}
`
	var out, said bytes.Buffer
	code := run([]string{"-input", "-", "-addr", "127.0.0.1:0", "-rate", "1000"}, strings.NewReader(input), &out, &said)
	if code != 0 || !strings.Contains(out.String(), "2 lines published, 1 skipped as wrong") {
		t.Errorf("exit %d, said %q, printed\n%s", code, &said, &out)
	}
	if !strings.Contains(said.String(), "-:2: mood_score") || !strings.Contains(out.String(), "as MESSAGING_BACKEND is not set") {
		t.Errorf("said %q, printed\n%s", &said, &out)
	}
}
