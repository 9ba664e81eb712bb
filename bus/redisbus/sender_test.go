package redisbus

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/aura360/eventbus/bus/driver"
	"github.com/aura360/eventbus/events"
)

// badServer is a server in memory that takes entries, and now and then does what
// servers and networks do.
type badServer struct {
	mu      sync.Mutex
	rng     *rand.Rand
	evil    float64 // the chance of something bad at each command
	streams map[string][]string
	bare    bool // MULTI was refused, and so the server ran commands one by one
	serving sync.WaitGroup
}

// pipe is a connection to it.
type pipe struct{ net.Conn }

func (pipe) Timeouts() (read, write time.Duration) { return time.Second, time.Second }

func (s *badServer) chance(p float64) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.rng.Float64() < p
}

func (s *badServer) number(n int) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.rng.IntN(n)
}

func (s *badServer) dial(ctx context.Context) (connection, error) {
	if s.chance(s.evil) {
		return nil, errors.New("connection refused")
	}
	if s.chance(s.evil) {
		t := time.NewTimer(2 * time.Second)
		defer t.Stop()
		select {
		case <-t.C:
		case <-ctx.Done():
		}
		return nil, errors.New("nobody there")
	}
	here, there := net.Pipe()
	s.serving.Go(func() {
		defer there.Close()
		s.serve(there)
	})
	return pipe{here}, nil
}

// serve answers on a goroutine of its own, as a server does that has buffers.
func (s *badServer) serve(c net.Conn) {
	answers := make(chan string, 100_000)
	var answering sync.WaitGroup
	answering.Go(func() {
		for a := range answers {
			if _, err := io.WriteString(c, a); err != nil {
				_ = c.Close()
			}
		}
	})
	defer answering.Wait()
	defer close(answers)
	r := bufio.NewReader(c)
	var queued [][]string
	var inTx, dirty bool
	for {
		cmd, err := readRESP(r)
		if err != nil {
			return
		}
		switch {
		case s.chance(s.evil / 10): // hangs up
			return
		case s.chance(s.evil / 11): // hangs
			time.Sleep(time.Duration(s.number(3000)) * time.Millisecond)
		case s.chance(s.evil): // is slow
			time.Sleep(time.Duration(s.number(30)) * time.Millisecond)
		}
		refuse := ""
		if s.chance(s.evil / 5) {
			refuse = []string{"-OOM no memory\r\n", "-READONLY a replica\r\n", "-NOPERM no\r\n"}[s.number(3)]
		}
		switch cmd[0] {
		case "MULTI":
			if refuse != "" {
				s.mu.Lock()
				s.bare = true
				s.mu.Unlock()
				answers <- refuse
				continue
			}
			inTx, dirty, queued = true, false, nil
			answers <- "+OK\r\n"
		case "XADD":
			switch {
			case refuse != "":
				dirty = true
				answers <- refuse
			case inTx:
				queued = append(queued, cmd)
				answers <- "+QUEUED\r\n"
			default:
				answers <- s.xadd(cmd)
			}
		case "EXEC":
			switch {
			case !inTx:
				answers <- "-ERR EXEC without MULTI\r\n"
			case dirty:
				answers <- "-EXECABORT Transaction discarded because of previous errors.\r\n"
			default:
				var b strings.Builder
				fmt.Fprintf(&b, "*%d\r\n", len(queued))
				for _, q := range queued {
					b.WriteString(s.xadd(q))
				}
				answers <- b.String()
			}
			inTx = false
		}
		if s.chance(s.evil / 20) { // hangs up after it did as it was told
			return
		}
	}
}

func (s *badServer) xadd(cmd []string) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.streams[cmd[1]] = append(s.streams[cmd[1]], cmd[len(cmd)-1])
	return "$3\r\n1-1\r\n"
}

func readRESP(r *bufio.Reader) ([]string, error) {
	n, err := readNumber(r)
	if err != nil {
		return nil, err
	}
	cmd := make([]string, n)
	for i := range cmd {
		n, err := readNumber(r)
		if err != nil {
			return nil, err
		}
		b := make([]byte, n+2)
		if _, err := io.ReadFull(r, b); err != nil {
			return nil, err
		}
		cmd[i] = string(b[:n])
	}
	return cmd, nil
}

func readNumber(r *bufio.Reader) (int, error) {
	line, err := r.ReadString('\n')
	if err != nil {
		return 0, err
	}
	return strconv.Atoi(strings.TrimSpace(line[1:]))
}

// publishing is a Native without a server to ask.
func publishing(s *sender, partitions int) *Native {
	n := &Native{server: &server{cfg: Config{MaxMessageBytes: 1 << 20}}, sender: s}
	p := &partitioned{streams: streamsOf("t", partitions)}
	for _, stream := range p.streams {
		p.prefixes = append(p.prefixes, xaddPrefix(stream, true))
	}
	known := &topic{}
	known.parts.Store(p)
	n.topics.Store("t", known)
	return n
}

// Every message of every caller has one outcome, it is the truth, callers leave
// when their contexts end, and what is confirmed of a key is in order, whatever
// the server does and whoever gives up.
func TestOutcomesAreTrueWhateverHappens(t *testing.T) {
	runs := 150
	if testing.Short() {
		runs = 30
	}
	for seed := range uint64(runs) {
		ok := t.Run(fmt.Sprint(seed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { attack(t, seed) })
		})
		if !ok {
			return
		}
	}
}

func attack(t *testing.T, seed uint64) {
	rng := rand.New(rand.NewPCG(seed, 1))                                                                                         //nolint:gosec // a test's
	srv := &badServer{rng: rand.New(rand.NewPCG(seed, 2)), evil: []float64{0, 0.02, 0.2}[seed%3], streams: map[string][]string{}} //nolint:gosec // a test's
	s := newSender(srv.dial)
	n := publishing(s, 3)
	publishers, calls := 1+rng.IntN(12), 20
	outcomes := map[string]driver.Outcome{}
	batches := [][]string{} // that must be together, by partition
	var mu sync.Mutex
	var wg sync.WaitGroup
	for p := range publishers {
		rng := rand.New(rand.NewPCG(seed, uint64(10+p))) //nolint:gosec // a test's
		wg.Go(func() {
			seq := 0
			for range calls {
				size := 1
				if rng.IntN(3) == 0 {
					size += rng.IntN(5)
				}
				if seed%7 == 0 && rng.IntN(5) == 0 {
					size = overlapFrom
				}
				msgs, byKey := []*message.Message{}, map[string][]string{}
				for range size {
					key := fmt.Sprintf("%d/%d", p, rng.IntN(2))
					m := message.NewMessage("u", fmt.Appendf(nil, "%s %06d", key, seq))
					m.Metadata.Set(events.HeaderKey, key)
					byKey[key] = append(byKey[key], string(m.Payload))
					msgs = append(msgs, m)
					seq++
				}
				ctx, cancel := context.Background(), context.CancelFunc(func() {})
				patience := 20 * time.Second
				switch rng.IntN(3) {
				case 0:
					patience = time.Duration(rng.IntN(100)) * time.Millisecond
					ctx, cancel = context.WithTimeout(ctx, patience)
				case 1:
					patience = time.Duration(rng.IntN(100)) * time.Millisecond
					ctx, cancel = context.WithCancel(ctx)
					time.AfterFunc(patience, cancel)
				}
				start := time.Now()
				results := driver.Results(n.Publish(ctx, "t", msgs...), size)
				cancel()
				if d := time.Since(start); d > patience {
					t.Errorf("Publish took %v with a patience of %v", d, patience)
				}
				mu.Lock()
				for i, res := range results {
					if (res.Outcome == driver.Confirmed) != (res.Err == nil) {
						t.Errorf("%s: %+v", msgs[i].Payload, res)
					}
					outcomes[string(msgs[i].Payload)] = res.Outcome
				}
				for _, together := range byKey {
					batches = append(batches, together)
				}
				mu.Unlock()
				time.Sleep(time.Duration(rng.IntN(3)) * time.Millisecond)
			}
		})
	}
	wg.Wait()
	if seed%2 == 0 { // what was left behind may still arrive
		time.Sleep(time.Minute)
	}
	s.close()
	srv.serving.Wait()

	count, place := map[string]int{}, map[string]int{}
	last := map[string]string{}
	for _, stream := range srv.streams {
		for i, m := range stream {
			count[m]++
			place[m] = i
			key, _, _ := strings.Cut(m, " ")
			if outcomes[m] == driver.Confirmed {
				if m < last[key] {
					t.Errorf("%q is behind %q", m, last[key])
				}
				last[key] = m
			}
		}
	}
	for m, o := range outcomes {
		if c := count[m]; c > 1 || o == driver.Confirmed && c != 1 || o == driver.Rejected && c != 0 {
			t.Errorf("%q is %v and %d times there", m, o, c)
		}
	}
	for _, b := range batches {
		there := count[b[0]]
		if !srv.bare && slices.ContainsFunc(b, func(m string) bool { return count[m] != there }) {
			t.Errorf("of %q some are there", b)
		}
	}
	if t.Failed() {
		t.Logf("seed %d, evil %v", seed, srv.evil)
	}
}
