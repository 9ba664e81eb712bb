package middleware

import (
	"context"
	"sync"
	"time"
)

// MemoryMarksConfig bounds a MemoryMarks.
type MemoryMarksConfig struct {
	// MaxEntries is the most marks kept, about 50 bytes each. Defaults to
	// 1,000,000. At least half of it is always remembered.
	MaxEntries int
	// TTL is how long a mark is kept at least, while there is room; it may be
	// twice as long. Defaults to 1 h.
	TTL time.Duration
}

// markShards spread the lock; a power of two.
const markShards = 64

// MemoryMarks is a Marks for one process. Its claims have no lease: they live
// and die with the process that holds them.
//
// Marks are kept in two generations. A full or old one becomes the older, and
// the older is forgotten whole: no list to maintain, and no allocation once the
// maps have grown.
type MemoryMarks struct {
	ttl    time.Duration
	most   int // marks in one generation of one shard
	shards [markShards]markShard
}

type markShard struct {
	mu        sync.Mutex
	live      []liveClaim        // few: what is in flight, spread over the shards
	new, old  map[MarkKey]uint64 // key -> body
	since     time.Time          // when new was begun
	lastToken uint64
	forgotten uint64 // marks dropped before their TTL
	_         [64]byte
}

type liveClaim struct {
	key         MarkKey
	body, token uint64
	settled     chan struct{} // closed at the end; nil until somebody waits
}

// NewMemoryMarks returns an empty store.
func NewMemoryMarks(cfg MemoryMarksConfig) *MemoryMarks {
	if cfg.MaxEntries <= 0 {
		cfg.MaxEntries = 1_000_000
	}
	if cfg.TTL <= 0 {
		cfg.TTL = time.Hour
	}
	m := &MemoryMarks{ttl: cfg.TTL, most: max(cfg.MaxEntries/(2*markShards), 1)}
	now := time.Now()
	for i := range m.shards {
		s := &m.shards[i]
		s.new, s.old = map[MarkKey]uint64{}, map[MarkKey]uint64{}
		s.since = now
	}
	return m
}

func (m *MemoryMarks) shard(k MarkKey) *markShard { return &m.shards[k[0]%markShards] }

// Claim implements Marks. Its error is the cause of ctx's end.
func (m *MemoryMarks) Claim(ctx context.Context, key MarkKey, body uint64) (Claim, error) {
	s := m.shard(key)
	for {
		c, settled := s.claim(key, body)
		if settled == nil {
			return c, nil
		}
		select {
		case <-settled:
		case <-ctx.Done():
			return Claim{}, context.Cause(ctx)
		}
	}
}

// claim returns the claim, or what to wait for.
func (s *markShard) claim(key MarkKey, body uint64) (Claim, <-chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if c := s.claimed(key); c != nil {
		// Also for another body: were that one's claim released after this one went
		// its own way, the key would be free and this event be handled again.
		if c.settled == nil {
			c.settled = make(chan struct{})
		}
		return Claim{}, c.settled
	}
	done, ok := s.new[key]
	if !ok {
		done, ok = s.old[key]
	}
	switch {
	case !ok:
		s.lastToken++
		s.live = append(s.live, liveClaim{key: key, body: body, token: s.lastToken})
		return Claim{State: Claimed, Token: s.lastToken}, nil
	case done != body:
		return Claim{State: OtherBody}, nil
	}
	return Claim{State: AlreadyDone}, nil
}

// Renew implements Marks.
func (m *MemoryMarks) Renew(_ context.Context, key MarkKey, token uint64) error {
	s := m.shard(key)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.held(key, token) == nil {
		return ErrClaimLost
	}
	return nil
}

// Done implements Marks. It never fails for the claim's holder.
func (m *MemoryMarks) Done(_ context.Context, key MarkKey, token uint64) error {
	s := m.shard(key)
	s.mu.Lock()
	defer s.mu.Unlock()
	c := s.held(key, token)
	if c == nil {
		return ErrClaimLost
	}
	if age := time.Since(s.since); age >= m.ttl || len(s.new) >= m.most {
		if age < m.ttl {
			s.forgotten += uint64(len(s.old))
		}
		s.new, s.old = s.old, s.new
		clear(s.new)
		s.since = time.Now()
	}
	// Marked before the claim ends: in between a copy would find neither.
	s.new[key] = c.body
	s.end(c)
	return nil
}

// Release implements Marks.
func (m *MemoryMarks) Release(_ context.Context, key MarkKey, token uint64) error {
	s := m.shard(key)
	s.mu.Lock()
	defer s.mu.Unlock()
	if c := s.held(key, token); c != nil {
		s.end(c)
	}
	return nil
}

// claimed returns the live claim on key, nil when there is none. Looking at each
// is quicker than keeping a map.
func (s *markShard) claimed(key MarkKey) *liveClaim {
	for i := range s.live {
		if s.live[i].key == key {
			return &s.live[i]
		}
	}
	return nil
}

// held returns the live claim that token stands for.
func (s *markShard) held(key MarkKey, token uint64) *liveClaim {
	if c := s.claimed(key); c != nil && c.token == token {
		return c
	}
	return nil
}

// end takes a claim, which is one of live, out.
func (s *markShard) end(c *liveClaim) {
	if c.settled != nil {
		close(c.settled)
	}
	last := len(s.live) - 1
	*c, s.live[last] = s.live[last], liveClaim{}
	s.live = s.live[:last]
}

// Lease implements Marks: claims live until they are settled.
func (m *MemoryMarks) Lease() time.Duration { return 0 }

// MarksStats counts what a MemoryMarks holds.
type MarksStats struct {
	Marks     int    // events remembered
	Claims    int    // events being handled
	Forgotten uint64 // marks dropped before their TTL, for lack of room
}

// Stats returns the store's numbers. It takes every lock for a moment, one after
// the other.
func (m *MemoryMarks) Stats() MarksStats {
	var out MarksStats
	for i := range m.shards {
		s := &m.shards[i]
		s.mu.Lock()
		out.Marks += len(s.new) + len(s.old)
		out.Claims += len(s.live)
		out.Forgotten += s.forgotten
		s.mu.Unlock()
	}
	return out
}
