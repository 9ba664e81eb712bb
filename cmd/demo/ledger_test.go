package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/ThreeDotsLabs/watermill/message"
	"pgregory.net/rapid"

	"github.com/aura360/eventbus/bus/driver"
	"github.com/aura360/eventbus/events"
	"github.com/aura360/eventbus/middleware"
)

// book drives a ledger through the middleware that the bus calls.
type book struct{ *ledger }

func newBook() book {
	b := book{newLedger()}
	b.expect("mood", "aggregator")
	b.expect("context", "vectorizer")
	b.expect("context", "archive")
	return b
}

// send publishes an event with the outcome o; while runs before its publisher
// is told.
func (b book) send(id, typ string, o driver.Outcome, while ...func()) {
	msg := message.NewMessage(id, nil)
	msg.Metadata = message.Metadata{events.HeaderEventID: id, events.HeaderEventType: typ}
	publish := b.publishing(func(context.Context, string, ...*message.Message) error {
		for _, f := range while {
			f()
		}
		if o != driver.Confirmed {
			return driver.Fail("memory", "t", 1, o, errors.New("no"))
		}
		return nil
	})
	_ = publish(context.Background(), "t", msg)
}

// deliver brings an event to a group, whose handler returns err; outcome is
// what the chain between the ledger's two pieces made of it.
func (b book) deliver(group, id string, outcome middleware.Outcome, err error) {
	msg := message.NewMessage(id, nil)
	msg.Metadata = message.Metadata{events.HeaderEventID: id}
	d := middleware.Begin(msg, "memory", group, "t")
	handler := b.handling(func(*message.Message) ([]*message.Message, error) { return nil, err })
	_, _ = b.delivering(func(m *message.Message) ([]*message.Message, error) {
		d.Outcome = outcome
		switch outcome {
		case middleware.OutcomeDuplicate:
			return nil, nil
		case middleware.OutcomePoisoned:
			_, _ = handler(m)
			return nil, nil
		}
		return handler(m)
	})(msg)
}

func (b book) handle(group, id string) { b.deliver(group, id, "", nil) }

func TestLedgerHoldsWhenEveryGroupHandledEveryEventOnce(t *testing.T) {
	b := newBook()
	b.send("m1", "mood", driver.Confirmed)
	b.send("c1", "context", driver.Confirmed)
	b.send("nobody", "profile", driver.Confirmed)
	equal(t, 3, b.pulse().open)
	equal(t, false, b.pulse().quiet())
	b.handle("aggregator", "m1")
	b.handle("vectorizer", "c1")
	b.handle("archive", "c1")
	got := b.balance()
	equal(t, true, b.pulse().quiet())
	equal(t, true, got.Holds())
	equal(t, 3, got.Accepted)
	equal(t, []string{"aggregator", "vectorizer", "archive"}, []string{got.Groups[0].Name, got.Groups[1].Name, got.Groups[2].Name})
}

func TestOneLostAndOneDoubledDoNotMakeUpForEachOther(t *testing.T) {
	b := newBook()
	b.send("m1", "mood", driver.Confirmed)
	b.send("m2", "mood", driver.Confirmed)
	b.handle("aggregator", "m1")
	b.handle("aggregator", "m1")
	got := b.balance()
	equal(t, false, got.Holds())
	equal(t, []claim{{"aggregator", "m2"}}, got.Lost)
	equal(t, []claim{{"aggregator", "m1"}}, got.Doubled)
}

func TestEventHandledByOneGroupIsLostToTheOther(t *testing.T) {
	b := newBook()
	b.send("c1", "context", driver.Confirmed)
	b.handle("archive", "c1")
	equal(t, []claim{{"vectorizer", "c1"}}, b.balance().Lost)
}

func TestEventHandledBeforeItsPublisherIsToldIsSettled(t *testing.T) {
	b := newBook()
	b.send("m1", "mood", driver.Confirmed, func() { b.handle("aggregator", "m1") })
	equal(t, 0, b.pulse().open)
	equal(t, true, b.balance().Holds())
}

func TestOutcomesAreKeptApart(t *testing.T) {
	b := newBook()
	b.send("poisoned", "mood", driver.Confirmed)
	b.deliver("aggregator", "poisoned", middleware.OutcomePoisoned, errors.New("bad"))
	b.send("copied", "mood", driver.Confirmed)
	b.handle("aggregator", "copied")
	b.deliver("aggregator", "copied", middleware.OutcomeDuplicate, nil)
	b.send("unknown", "mood", driver.Unknown)
	b.handle("aggregator", "unknown")
	b.send("unknown, gone", "mood", driver.Unknown)
	b.send("refused", "mood", driver.Rejected)
	b.send("retried", "mood", driver.Rejected)
	b.send("retried", "mood", driver.Confirmed)
	b.deliver("aggregator", "retried", middleware.OutcomeUnacked, errors.New("again"))
	b.handle("aggregator", "retried")
	b.handle("aggregator", "of another run")

	got := b.balance()
	equal(t, true, got.Holds())
	equal(t, groupBalance{
		Name: "aggregator", Expected: 3, Handled: 2, Poisoned: 1, Latency: got.Groups[0].Latency,
	}, got.Groups[0])
	equal(t, []int{3, 2, 1, 1, 1, 1, 2}, []int{
		got.Accepted, got.Unconfirmed, got.Arrived, got.Refused, got.Copies, got.Foreign, got.Failed,
	})
}

func TestEventHandledThoughRefusedBreaksTheLedger(t *testing.T) {
	b := newBook()
	b.send("m1", "mood", driver.Rejected)
	b.handle("aggregator", "m1")
	equal(t, false, b.balance().Holds())
}

func TestUnconfirmedEventHandledTwiceIsDoubled(t *testing.T) {
	b := newBook()
	b.send("m1", "mood", driver.Unknown)
	b.handle("aggregator", "m1")
	b.handle("aggregator", "m1")
	equal(t, []claim{{"aggregator", "m1"}}, b.balance().Doubled)
}

// Whatever happens to events, in whatever order, the ledger names exactly those
// that were lost and those that were doubled.
func TestLedgerFindsEveryLossAndEveryDouble(t *testing.T) {
	groupsOf := map[string][]string{"mood": {"aggregator"}, "context": {"vectorizer", "archive"}, "profile": nil}
	rapid.Check(t, func(t *rapid.T) {
		b := newBook()
		var lost, doubled []claim
		var steps []func()
		for i := range rapid.IntRange(1, 40).Draw(t, "events") {
			id := fmt.Sprintf("e%02d", i)
			typ := rapid.SampledFrom([]string{"mood", "context", "profile"}).Draw(t, "type")
			o := rapid.SampledFrom([]driver.Outcome{driver.Confirmed, driver.Confirmed, driver.Unknown}).Draw(t, "outcome")
			early := rapid.Bool().Draw(t, "early")
			var deliveries []func()
			for _, g := range groupsOf[typ] {
				handled := rapid.SampledFrom([]int{0, 1, 1, 1, 2}).Draw(t, "handled")
				poisoned := rapid.SampledFrom([]int{0, 0, 0, 1}).Draw(t, "poisoned")
				for range handled {
					deliveries = append(deliveries, func() { b.handle(g, id) })
				}
				for range poisoned {
					deliveries = append(deliveries, func() {
						b.deliver(g, id, middleware.OutcomePoisoned, errors.New("bad"))
					})
				}
				if handled+poisoned == 0 && o == driver.Confirmed {
					lost = append(lost, claim{g, id})
				}
				if handled+poisoned > 1 {
					doubled = append(doubled, claim{g, id})
				}
			}
			if early {
				b.send(id, typ, o, deliveries...)
				continue
			}
			b.send(id, typ, o)
			steps = append(steps, deliveries...)
		}
		rng := rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "order"), 0))
		rng.Shuffle(len(steps), func(i, j int) { steps[i], steps[j] = steps[j], steps[i] })
		for _, step := range steps {
			step()
		}
		got := b.balance()
		sorted := func(x, y claim) int { return strings.Compare(x.String(), y.String()) }
		slices.SortFunc(lost, sorted)
		slices.SortFunc(doubled, sorted)
		equal(t, lost, got.Lost)
		equal(t, doubled, got.Doubled)
		equal(t, len(lost), b.pulse().open)
		equal(t, len(lost) == 0, b.pulse().quiet())
	})
}

// equal compares whole values.
func equal[T any](t interface {
	Helper()
	Fatalf(string, ...any)
}, want, got T,
) {
	t.Helper()
	if !reflect.DeepEqual(want, got) {
		t.Fatalf("got %+v, want %+v", got, want)
	}
}
