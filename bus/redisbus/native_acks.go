package redisbus

import (
	"context"
	"strings"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/aura360/eventbus/bus/driver"
)

const (
	// ackBatch is the most entries that one XACK names.
	ackBatch = 1000
	// ackLinger is the least time between two rounds of acks, unless a batch is full:
	// under load a round trip for each handful would cost more than the reading.
	ackLinger = time.Millisecond
)

// settlements sends the acks of one subscription, those that gather while others
// are on their way together. It tries for ever: an ack is only given up when the
// subscription closes.
type settlements struct {
	c *consumer

	wake chan struct{} // has one element when something is owed
	stop chan struct{}
	sent sync.WaitGroup

	mu      sync.Mutex
	owed    map[*lease][]streamID
	count   int            // in owed
	unsent  map[*lease]int // owed or on their way
	changed chan struct{}  // closed when unsent has become less; nil when nobody waits
	urgent  int            // who waits
}

func newSettlements(c *consumer) *settlements {
	s := &settlements{
		c: c, wake: make(chan struct{}, 1), stop: make(chan struct{}),
		owed: map[*lease][]streamID{}, unsent: map[*lease]int{},
	}
	s.sent.Go(s.run)
	return s
}

// add owes an ack. It never blocks.
func (s *settlements) add(p *lease, id streamID) {
	s.mu.Lock()
	s.owed[p] = append(s.owed[p], id)
	s.unsent[p]++
	s.count++
	wake := s.count == 1 || s.count == ackBatch
	s.mu.Unlock()
	if wake {
		s.poke()
	}
}

func (s *settlements) poke() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// flush waits until the server has taken the acks of p, of all partitions when p
// is nil, or ctx ends.
func (s *settlements) flush(ctx context.Context, p *lease) error {
	s.mu.Lock()
	s.urgent++
	defer func() {
		s.urgent--
		s.mu.Unlock()
	}()
	for {
		left := s.unsent[p]
		if p == nil {
			for _, n := range s.unsent {
				left += n
			}
		}
		if left == 0 {
			return nil
		}
		if s.changed == nil {
			s.changed = make(chan struct{})
		}
		changed := s.changed
		s.mu.Unlock()
		s.poke()
		var err error
		select {
		case <-changed:
		case <-s.stop:
			err = driver.ErrClosed
		case <-ctx.Done():
			err = context.Cause(ctx)
		}
		s.mu.Lock()
		if err != nil {
			return err
		}
	}
}

// end ends run, after the round that is on its way.
func (s *settlements) end() {
	close(s.stop)
	s.sent.Wait()
}

func (s *settlements) run() {
	pause := time.NewTimer(0)
	defer pause.Stop()
	failing := false
	for {
		select {
		case <-s.wake:
		case <-s.stop:
			return
		}
		for {
			wait := ackLinger
			err := s.pay()
			if (err != nil) != failing {
				failing = err != nil
				s.c.acking(err)
			}
			if failing {
				wait = ackRetry
			}
			s.mu.Lock()
			idle := s.count == 0
			if wait == ackLinger && (s.urgent > 0 || s.count >= ackBatch) {
				wait = 0
			}
			s.mu.Unlock()
			if idle {
				break
			}
			if wait == 0 {
				continue
			}
			pause.Reset(wait)
			select {
			case <-pause.C:
			case <-s.wake:
				if wait == ackRetry { // trying sooner does not help
					select {
					case <-pause.C:
					case <-s.stop:
						return
					}
				}
			case <-s.stop:
				return
			}
		}
	}
}

// pay sends what is owed, and owes again what the server did not take.
func (s *settlements) pay() error {
	s.mu.Lock()
	owed := s.owed
	s.owed, s.count = make(map[*lease][]streamID, len(owed)), 0
	s.mu.Unlock()

	type round struct {
		p   *lease
		ids []streamID
		cmd *redis.IntCmd
	}
	ctx := context.Background()
	pipe := s.c.n.admin.Pipeline()
	var rounds []round
	for p, ids := range owed {
		for len(ids) > 0 {
			part := ids[:min(len(ids), ackBatch)]
			ids = ids[len(part):]
			names := make([]string, len(part))
			for i, id := range part {
				names[i] = id.String()
			}
			rounds = append(rounds, round{p, part, pipe.XAck(ctx, p.stream, s.c.group, names...)})
		}
	}
	_, err := pipe.Exec(ctx)
	s.mu.Lock()
	defer s.mu.Unlock()
	var failed error
	for _, r := range rounds {
		e := r.cmd.Err()
		if e == nil && err != nil && !isReply(err) {
			e = err
		}
		// What was acked is not a stream any more.
		if e != nil && !(isReply(e) && strings.HasPrefix(e.Error(), "WRONGTYPE")) {
			s.owed[r.p] = append(s.owed[r.p], r.ids...)
			s.count += len(r.ids)
			failed = e
			continue
		}
		if s.unsent[r.p] -= len(r.ids); s.unsent[r.p] == 0 {
			delete(s.unsent, r.p)
		}
	}
	if s.changed != nil {
		close(s.changed)
		s.changed = nil
	}
	return failed
}
