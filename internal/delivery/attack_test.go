package delivery

import (
	"context"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/aura360/eventbus/bus/driver"
)

// attackEntry is entry n of a key of a partition, in its gen-th ownership.
type attackEntry struct{ partition, gen, key, n int }

// TestStreamUnderAttack moves partitions away and back (recalled, dropped) while
// handlers ack, nack and defer at random, and checks what the stream promises:
// one of a key at a time, in order, every ack heard once, and nothing of a
// partition delivered or heard after it was taken away.
func TestStreamUnderAttack(t *testing.T) {
	const partitions, keys, entries = 3, 5, 40
	var mu sync.Mutex // the driver's: guards what follows
	var owned [partitions]int
	next := map[[2]int]int{} // by partition and key: the first entry not acked

	s := New(context.Background(), Options[attackEntry]{
		MaxInFlight: 7, MaxBuffered: 64, DirectSettle: true,
		Message: newAttackMessage,
		Acked: func(e attackEntry) {
			mu.Lock()
			defer mu.Unlock()
			if owned[e.partition] != e.gen {
				t.Errorf("ack of %+v heard, the partition is at %d", e, owned[e.partition])
			}
			k := [2]int{e.partition, e.key}
			if next[k] != e.n {
				t.Errorf("ack of %+v, %d was next", e, next[k])
			}
			next[k]++
		},
	})
	// fill adds what is not acked of a partition.
	fill := func(p int) {
		mu.Lock()
		gen := owned[p]
		var items []Item[attackEntry]
		for n := range entries {
			for k := range keys {
				if e := (attackEntry{p, gen, k, n}); n >= next[[2]int{p, k}] {
					items = append(items, Item[attackEntry]{Key: string(rune('a'+p)) + string(rune('a'+k)), Value: e, Msg: newAttackMessage(e), Bytes: 10})
				}
			}
		}
		mu.Unlock()
		s.Add(items...)
	}
	for p := range partitions {
		fill(p)
	}
	var wg sync.WaitGroup
	for range 7 {
		wg.Go(func() {
			for m := range s.Messages() {
				e := m.Context().(*delivered[attackEntry]).entry.value
				mu.Lock()
				if at := next[[2]int{e.partition, e.key}]; owned[e.partition] == e.gen && at != e.n {
					t.Errorf("%+v delivered, %d is next", e, at)
				}
				mu.Unlock()
				switch rand.N(8) {
				case 0:
					driver.Settle(m, false)
				case 1:
					driver.SettleLater(m, time.Duration(rand.N(3))*time.Millisecond)
				default:
					driver.Settle(m, true)
				}
			}
		})
	}
	for range 60 {
		p := rand.N(partitions)
		mine := func(e attackEntry) bool { return e.partition == p }
		if rand.N(2) == 0 {
			if err := s.Recall(t.Context(), mine); err != nil {
				t.Error(err)
			}
		} else {
			s.Drop(mine)
		}
		mu.Lock()
		owned[p]++
		mu.Unlock()
		fill(p)
	}
	deadline := time.After(30 * time.Second)
	for {
		mu.Lock()
		left := 0
		for p := range partitions {
			for k := range keys {
				left += entries - next[[2]int{p, k}]
			}
		}
		mu.Unlock()
		if left == 0 {
			break
		}
		select {
		case <-deadline:
			t.Fatalf("%d entries were never acked; %v", left, s)
		case <-time.After(time.Millisecond):
		}
	}
	if n := s.Close(); n != 0 {
		t.Errorf("%d given up", n)
	}
	wg.Wait()
	if s.bytes != 0 {
		t.Errorf("%d bytes are left", s.bytes)
	}
}

func newAttackMessage(e attackEntry) *message.Message {
	return message.NewMessage("", message.Payload{byte(e.partition), byte(e.key), byte(e.n)})
}

func BenchmarkStream(b *testing.B) {
	s := New(context.Background(), Options[int]{
		DirectSettle: true,
		Message:      func(int) *message.Message { return message.NewMessage("", nil) },
		Acked:        func(int) {},
	})
	defer s.Close()
	msg := message.NewMessage("", nil)
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		s.Add(Item[int]{Key: "user-1", Value: i, Msg: msg, Bytes: 10})
		m := <-s.Messages()
		m.Context().Value(0)
		m.Context().(*delivered[int]).Settled(true)
	}
}
