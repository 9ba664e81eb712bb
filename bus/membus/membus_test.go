package membus_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"reflect"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"go.uber.org/goleak"

	"github.com/aura360/eventbus/bus/driver"
	"github.com/aura360/eventbus/bus/membus"
	"github.com/aura360/eventbus/events"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func msg(key, payload string) *message.Message {
	m := message.NewMessage(payload, []byte(payload))
	if key != "" {
		m.Metadata[events.HeaderKey] = key
	}
	return m
}

func publish(t *testing.T, b *membus.Backend, topic string, msgs ...*message.Message) {
	t.Helper()
	if err := b.Publish(t.Context(), topic, msgs...); err != nil {
		t.Fatal(err)
	}
}

func subscribe(t *testing.T, b *membus.Backend, group, topic string, opts driver.SubscriberOptions) (driver.Subscriber, <-chan *message.Message) {
	t.Helper()
	sub, err := b.Subscriber(group, opts)
	if err != nil {
		t.Fatal(err)
	}
	ch, err := sub.Subscribe(context.Background(), topic)
	if err != nil {
		t.Fatal(err)
	}
	return sub, ch
}

// waiting takes what is in the channel now and acks it.
func waiting(ch <-chan *message.Message) (got []string) {
	for {
		select {
		case m, ok := <-ch:
			if !ok {
				return got
			}
			got = append(got, string(m.Payload))
			driver.Settle(m, true)
		default:
			return got
		}
	}
}

var direct = driver.SubscriberOptions{DirectSettle: true}

func TestUnreadTopicKeepsTheNewestAndSaysSoOnce(t *testing.T) {
	var log bytes.Buffer
	b := membus.Open(membus.Config{Retain: 3, Logger: slog.New(slog.NewTextHandler(&log, nil))})
	defer b.Close(t.Context())
	for i := range 10 {
		publish(t, b, "topic", msg("key", fmt.Sprint(i)))
	}
	if got := b.Topics()[0].Dropped; got != 7 {
		t.Errorf("%d dropped, want 7", got)
	}
	if n := strings.Count(log.String(), "dropping the oldest"); n != 1 {
		t.Errorf("logged %d times: %s", n, log.String())
	}
	_, ch := subscribe(t, b, "group", "topic", direct)
	if got, want := waiting(ch), []string{"7", "8", "9"}; !slices.Equal(got, want) {
		t.Errorf("received %q, want %q", got, want)
	}
}

// TestLateGroup: it gets what others have not settled, however old, and the
// newest Keep that they have.
func TestLateGroup(t *testing.T) {
	b := membus.Open(membus.Config{Keep: 2})
	defer b.Close(t.Context())
	early, held := subscribe(t, b, "early", "topic", direct)
	publish(t, b, "topic", msg("stuck", "0"))
	stuck := <-held
	for i := range 6 {
		publish(t, b, "topic", msg("key", fmt.Sprint(i+1)))
	}
	if got := waiting(held); len(got) != 6 {
		t.Fatalf("received %q", got)
	}
	_, ch := subscribe(t, b, "late", "topic", direct)
	if got, want := waiting(ch), []string{"0", "5", "6"}; !slices.Equal(got, want) {
		t.Errorf("received %q, want %q", got, want)
	}
	driver.Settle(stuck, true)
	if err := early.Close(); err != nil {
		t.Error(err)
	}
}

func TestKeepNone(t *testing.T) {
	b := membus.Open(membus.Config{Keep: -1})
	defer b.Close(t.Context())
	publish(t, b, "topic", msg("key", "before any group"))
	_, ch := subscribe(t, b, "early", "topic", direct)
	publish(t, b, "topic", msg("key", "after"))
	if got := waiting(ch); len(got) != 2 {
		t.Fatalf("received %q", got)
	}
	_, ch = subscribe(t, b, "late", "topic", direct)
	if got := waiting(ch); got != nil {
		t.Errorf("received %q, want nothing: all was settled", got)
	}
}

// TestPublishWaitsForAGroupThatIsBehind, and gives up with its context or with
// Close; what it has placed is confirmed, the rest is rejected.
func TestPublishWaitsForAGroupThatIsBehind(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := membus.Open(membus.Config{MaxBacklog: 2, Logger: slog.New(slog.DiscardHandler)})
		_, ch := subscribe(t, b, "group", "topic", direct)

		done := make(chan error, 1)
		go func() { done <- b.Publish(t.Context(), "topic", msg("a", "1"), msg("b", "2"), msg("c", "3")) }()
		synctest.Wait()
		select {
		case err := <-done:
			t.Fatalf("Publish did not wait: %v", err)
		default:
		}
		driver.Settle(<-ch, true)
		if err := <-done; err != nil {
			t.Errorf("Publish with room: %v", err)
		}

		// Two are behind now. One more gets its place, the last does not.
		patience := errors.New("patience")
		ctx, cancel := context.WithTimeoutCause(t.Context(), time.Second, patience)
		defer cancel()
		go func() { done <- b.Publish(ctx, "topic", msg("d", "4"), msg("e", "5")) }()
		synctest.Wait()
		driver.Settle(<-ch, true)
		results := driver.Results(<-done, 2)
		if results[0].Outcome != driver.Confirmed || results[1].Outcome != driver.Rejected || !errors.Is(results[1].Err, patience) {
			t.Errorf("results %+v", results)
		}

		go func() { done <- b.Publish(t.Context(), "topic", msg("f", "6")) }()
		synctest.Wait()
		if err := b.Close(t.Context()); err != nil {
			t.Error(err)
		}
		results = driver.Results(<-done, 1)
		if results[0].Outcome != driver.Rejected || !errors.Is(results[0].Err, driver.ErrClosed) {
			t.Errorf("after Close: %+v", results)
		}
		// Nothing that was confirmed has gone.
		again := b.Connect()
		_, ch = subscribe(t, again, "group", "topic", direct)
		if got, want := waiting(ch), []string{"3", "4"}; !slices.Equal(got, want) {
			t.Errorf("received %q, want %q", got, want)
		}
		again.Close(t.Context())
	})
}

// TestNackPauses: 10 ms, doubled up to 5 s, from the start again after an ack;
// also when the subscriber changes meanwhile.
func TestNackPauses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := membus.Open(membus.Config{})
		defer b.Close(t.Context())
		publish(t, b, "topic", msg("key", "1"), msg("key", "2"))
		sub, ch := subscribe(t, b, "group", "topic", direct)
		m := <-ch
		for want := 10 * time.Millisecond; want <= 20*time.Second; want *= 2 {
			start := time.Now()
			driver.Settle(m, false)
			m = <-ch
			if got := time.Since(start); got != min(want, 5*time.Second) {
				t.Errorf("paused %v, want %v", got, min(want, 5*time.Second))
			}
		}
		driver.Settle(m, true)
		start := time.Now()
		driver.Settle(<-ch, false)
		m = <-ch
		if got := time.Since(start); got != 10*time.Millisecond {
			t.Errorf("after an ack: paused %v, want 10ms", got)
		}
		start = time.Now()
		driver.Settle(m, false)
		sub.Close()
		_, ch = subscribe(t, b, "group", "topic", direct)
		<-ch
		if got := time.Since(start); got != 20*time.Millisecond {
			t.Errorf("at the next subscriber: paused %v, want 20ms", got)
		}
	})
}

// TestPartitions: CRC32 modulo, as librdkafka's consistent partitioner; messages
// without a key take turns.
func TestPartitions(t *testing.T) {
	b := membus.Open(membus.Config{Partitions: 5})
	defer b.Close(t.Context())
	// 0xcbf43926 is the check value of CRC-32/ISO-HDLC.
	publish(t, b, "keyed", msg("123456789", "a"), msg("123456789", "b"))
	publish(t, b, "keyless", msg("", "a"), msg("", "b"), msg("", "c"), msg("", "d"), msg("", "e"))
	if err := b.EnsureTopic(t.Context(), driver.TopicSpec{Name: "made", Partitions: 2}); err != nil {
		t.Error(err)
	}
	_, ch := subscribe(t, b, "group", "keyed", direct)
	<-ch
	want := []membus.TopicInfo{
		{Name: "keyed", Partitions: make([]uint64, 5), Groups: []membus.GroupInfo{{Name: "group", Lag: 2, InFlight: 1, Members: 1}}},
		{Name: "keyless", Partitions: []uint64{1, 1, 1, 1, 1}},
		{Name: "made", Partitions: []uint64{0, 0}},
	}
	want[0].Partitions[0xcbf43926%5] = 2
	if got := b.Topics(); !reflect.DeepEqual(got, want) {
		t.Errorf("Topics:\n got %+v\nwant %+v", got, want)
	}
}

func TestProvisionAndAudit(t *testing.T) {
	b := membus.Open(membus.Config{Partitions: 5000, MaxMessageBytes: 10})
	for _, spec := range []driver.TopicSpec{{Name: ""}, {Name: "t", Partitions: 1001}, {Name: "t", Partitions: -1}} {
		if err := b.EnsureTopic(t.Context(), spec); err == nil {
			t.Errorf("EnsureTopic(%+v): no error", spec)
		}
	}
	audit, err := b.Audit(t.Context())
	if err != nil || audit.Durable || len(audit.Findings) == 0 {
		t.Errorf("Audit: %+v, %v", audit, err)
	}
	if b.Capabilities().Durable || b.Capabilities().CrossProcess || b.Capabilities().MaxMessageBytes != 10 {
		t.Errorf("Capabilities: %+v", b.Capabilities())
	}
	if _, known, err := b.Lag(t.Context(), "nowhere", "group"); known || err != nil {
		t.Errorf("Lag of no topic: known %v, %v", known, err)
	}
	b.Close(t.Context())
	if err := b.EnsureTopic(t.Context(), driver.TopicSpec{Name: "t"}); !errors.Is(err, driver.ErrClosed) {
		t.Errorf("EnsureTopic after Close: %v", err)
	}
	if _, _, err := b.Lag(t.Context(), "t", "group"); !errors.Is(err, driver.ErrClosed) {
		t.Errorf("Lag after Close: %v", err)
	}
}

// TestMessageContextNeedsNoGoroutine: nor does one derived from it, which a
// timeout around every handler is.
func TestMessageContextNeedsNoGoroutine(t *testing.T) {
	b := membus.Open(membus.Config{})
	defer b.Close(t.Context())
	sub, ch := subscribe(t, b, "group", "topic", direct)
	publish(t, b, "topic", msg("a", "1"), msg("b", "2"), msg("c", "3"))
	before := goleak.IgnoreCurrent()

	one := <-ch
	derived, cancel := context.WithTimeout(one.Context(), time.Hour)
	defer cancel()
	stopped := context.AfterFunc(one.Context(), func() { t.Error("called though stopped") })
	called := make(chan struct{})
	context.AfterFunc(one.Context(), func() { close(called) })
	if err := goleak.Find(before); err != nil {
		t.Error(err)
	}
	if !stopped() || stopped() {
		t.Error("stop reports the wrong thing")
	}
	driver.Settle(one, true)
	<-called
	<-derived.Done()
	if !errors.Is(one.Context().Err(), context.Canceled) || !errors.Is(context.Cause(derived), context.Canceled) {
		t.Errorf("errors %v, %v", one.Context().Err(), context.Cause(derived))
	}
	// After the end everything is over at once.
	<-one.Context().Done()
	after := make(chan struct{})
	stop := context.AfterFunc(one.Context(), func() { close(after) })
	<-after
	if stop() {
		t.Error("stopped what had run")
	}
	// Settling again, or late, changes nothing.
	driver.Settle(one, false)
	two := <-ch
	sub.Close()
	driver.Settle(two, true)
	if lag, _, _ := b.Lag(t.Context(), "topic", "group"); lag != 2 {
		t.Errorf("lag %d, want 2", lag)
	}
}

// TestAckJustBeforeCloseCounts also where nobody has told the backend yet.
func TestAckJustBeforeCloseCounts(t *testing.T) {
	b := membus.Open(membus.Config{})
	defer b.Close(t.Context())
	publish(t, b, "topic", msg("a", "1"), msg("b", "2"))
	sub, ch := subscribe(t, b, "group", "topic", driver.SubscriberOptions{})
	(<-ch).Ack()
	(<-ch).Nack()
	sub.Close()
	if lag, _, _ := b.Lag(t.Context(), "topic", "group"); lag != 1 {
		t.Errorf("lag %d, want 1", lag)
	}
}

func TestDrainTellsWhatCloseDropped(t *testing.T) {
	b := membus.Open(membus.Config{})
	defer b.Close(t.Context())
	publish(t, b, "topic", msg("a", "1"))
	sub, ch := subscribe(t, b, "group", "topic", direct)
	<-ch
	done := make(chan error, 1)
	go func() { done <- sub.Drain(t.Context()) }()
	for range ch { // until Drain has closed it
	}
	sub.Close()
	if err := <-done; !errors.Is(err, driver.ErrClosed) {
		t.Errorf("Drain: %v, want ErrClosed", err)
	}
}

// TestMembersComeAndGo: publishers, members that join, nack, close and drain, all
// at once: every message is handled, in the order of its key, none by two
// members at a time.
func TestMembersComeAndGo(t *testing.T) {
	const keys, perKey = 10, 200
	b := membus.Open(membus.Config{MaxBacklog: 300, Logger: slog.New(slog.DiscardHandler)})
	defer b.Close(t.Context())
	subscribe(t, b, "other group, never reads", "elsewhere", direct)

	var next [keys]atomic.Int64
	var busy [keys]atomic.Bool
	var left atomic.Int64
	left.Store(keys * perKey)
	finished := make(chan struct{})
	handle := func(m *message.Message, n int, opts driver.SubscriberOptions) {
		var k int
		var i int64
		if _, err := fmt.Sscan(string(m.Payload), &k, &i); err != nil {
			t.Error(err)
		}
		if busy[k].Swap(true) {
			t.Errorf("key %d: handled by two at a time", k)
		}
		due := next[k].Load()
		if i > due {
			t.Errorf("key %d: %d handled when %d was due", k, i, due)
		}
		ack := n%17 != 0
		last := false
		if ack && i == due {
			next[k].Add(1)
			last = left.Add(-1) == 0
		}
		busy[k].Store(false)
		switch {
		case opts.DirectSettle:
			driver.Settle(m, ack)
		case ack:
			m.Ack()
		default:
			m.Nack()
		}
		if last {
			close(finished)
		}
	}
	var wg sync.WaitGroup
	for k := range keys {
		wg.Go(func() {
			for i := range perKey {
				if err := b.Publish(t.Context(), "topic", msg(fmt.Sprint("key ", k), fmt.Sprint(k, " ", i))); err != nil {
					t.Error(err)
				}
			}
		})
	}
	for member := range 4 {
		wg.Go(func() {
			for round := 0; ; round++ {
				select {
				case <-finished:
					return
				default:
				}
				client := b.Connect()
				opts := driver.SubscriberOptions{DirectSettle: member%2 == 0, MaxInFlight: 1 + member*5}
				sub, ch := subscribe(t, client, "group", "topic", opts)
				for n := range 50 {
					select {
					case m := <-ch:
						handle(m, n+member, opts)
						continue
					case <-finished:
					}
					break
				}
				if round%2 == 0 {
					// What is still in the channel when Drain begins is ours.
					done := make(chan error, 1)
					go func() { done <- sub.Drain(t.Context()) }()
					for m := range ch {
						handle(m, 1, opts)
					}
					if err := <-done; err != nil {
						t.Error(err)
					}
				}
				client.Close(t.Context())
			}
		})
	}
	wg.Wait()
}
