package membus

import (
	"cmp"
	"context"
	"fmt"
	"hash/crc32"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/aura360/eventbus/bus/driver"
)

const maxPartitions = 1000

// broker is what the clients share.
type broker struct {
	cfg Config

	mu     sync.RWMutex
	topics map[string]*topic // guarded by mu
}

// topic returns the topic, creating it if it is missing.
func (br *broker) topic(name string) (*topic, error) {
	br.mu.RLock()
	t := br.topics[name]
	br.mu.RUnlock()
	if t != nil {
		return t, nil
	}
	return br.create(name, br.cfg.Partitions)
}

// create makes a topic, or returns the one there is.
func (br *broker) create(name string, partitions int) (*topic, error) {
	if name == "" {
		return nil, fmt.Errorf("%w: a topic needs a name", driver.ErrPermanent)
	}
	br.mu.Lock()
	defer br.mu.Unlock()
	t := br.topics[name]
	if t == nil {
		t = &topic{
			broker: br,
			name:   name,
			counts: make([]uint64, partitions),
			groups: make(map[string]*group),
		}
		br.topics[name] = t
	}
	return t, nil
}

// record is a message as the broker keeps it. Any number of deliveries may be
// made from it.
type record struct {
	seq     uint64           // in the topic
	ready   *message.Message // for the first delivery; guarded by the topic's mu
	uuid    string
	key     string
	payload message.Payload
	headers []header // a slice is smaller and quicker to copy from than a map
}

type header struct{ name, value string }

// record copies what the publisher may change after Publish. Where a delivery
// can be expected at once it makes that as well, outside of the topic's lock.
func (t *topic) record(msg *message.Message) (*record, error) {
	r := &record{uuid: msg.UUID, key: driver.Key(msg), payload: msg.Payload}
	size := len(msg.UUID) + len(msg.Payload)
	if len(msg.Metadata) > 0 {
		r.headers = make([]header, 0, len(msg.Metadata))
		for k, v := range msg.Metadata {
			r.headers = append(r.headers, header{k, v})
			size += len(k) + len(v)
		}
	}
	if limit := t.broker.cfg.MaxMessageBytes; limit > 0 && size > limit {
		return nil, fmt.Errorf("%w: message of %d bytes, the limit is %d", driver.ErrPermanent, size, limit)
	}
	if t.prompt.Load() {
		r.ready = r.message()
	}
	return r, nil
}

// topic is a topic's messages and its groups.
//
// There is no log with positions in it. Every group has a window with what it
// has not settled, and recent has the newest messages for groups to come; what
// is in none of them is garbage. So one message that can't be handled holds on
// to itself, and to nothing that was published after it.
type topic struct {
	broker *broker
	name   string

	// prompt: what is published now is delivered soon, as far as one can tell.
	// A message made ahead is larger than its record, so not for a backlog.
	prompt atomic.Bool

	mu      sync.Mutex // guards everything below, groups and subscriptions included
	seq     uint64     // of the last message
	counts  []uint64   // messages published, by partition
	keyless uint32     // partition of the next message without a key
	recent  ring       // Retain without groups, Keep with
	dropped uint64     // that no group has read
	groups  map[string]*group
	space   chan struct{} // not nil while publishers wait; closed when a group settles
	warned  bool          // that publishers wait
}

// publish appends records until all are taken, or a group is full and ctx or
// closing ends. It returns how many were taken and why not the rest.
func (t *topic) publish(ctx context.Context, closing <-chan struct{}, records []*record) (taken int, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for {
		for taken < len(records) && !t.full() {
			t.append(records[taken])
			taken++
		}
		prompt := false
		for _, g := range t.groups {
			g.dispatch()
			prompt = prompt || g.free > 0 || g.window.Ready() < 64
		}
		if t.prompt.Load() != prompt {
			t.prompt.Store(prompt)
		}
		if taken == len(records) {
			return taken, nil
		}
		if !t.warned {
			t.warned = true
			t.broker.cfg.Logger.Warn("publishing waits: a group has too much to settle",
				"backend", Name, "topic", t.name, "max_backlog", t.broker.cfg.MaxBacklog)
		}
		if t.space == nil {
			t.space = make(chan struct{})
		}
		space := t.space
		t.mu.Unlock()
		select {
		case <-space:
		case <-closing:
			err = driver.ErrClosed
		case <-ctx.Done():
			err = fmt.Errorf("a group is %d messages behind: %w", t.broker.cfg.MaxBacklog, context.Cause(ctx))
		}
		t.mu.Lock()
		if err != nil {
			return taken, err
		}
	}
}

// full reports whether a group has as much to settle as it may have.
func (t *topic) full() bool {
	for _, g := range t.groups {
		if g.window.Len() >= t.broker.cfg.MaxBacklog {
			return true
		}
	}
	return false
}

// append gives r its place and hands it to the groups.
func (t *topic) append(r *record) {
	t.seq++
	r.seq = t.seq
	t.counts[t.partition(r.key)]++
	for _, g := range t.groups {
		g.window.Add(r.key, r)
	}
	limit := t.broker.cfg.Keep
	if len(t.groups) == 0 {
		limit = t.broker.cfg.Retain
	}
	if limit > 0 {
		t.recent.push(r)
	}
	t.trim(limit)
}

// trim cuts recent down to limit.
func (t *topic) trim(limit int) {
	for t.recent.n > limit {
		t.recent.pop()
		if len(t.groups) > 0 {
			continue
		}
		if t.dropped == 0 {
			t.broker.cfg.Logger.Warn("topic is full and no group reads it: dropping the oldest messages",
				"backend", Name, "topic", t.name, "retain", limit)
		}
		t.dropped++
	}
}

// partition chooses as librdkafka's consistent partitioner does, and takes turns
// for messages without a key.
func (t *topic) partition(key string) uint32 {
	n := uint32(len(t.counts))
	if key == "" {
		t.keyless++
		return t.keyless % n
	}
	return crc32.ChecksumIEEE([]byte(key)) % n
}

// group returns the group, creating it at the oldest message there is.
func (t *topic) group(name string) *group {
	if g := t.groups[name]; g != nil {
		return g
	}
	// What is there: the newest ones, and what other groups have not settled.
	var backlog []*record
	for r := range t.recent.all() {
		backlog = append(backlog, r)
	}
	for _, other := range t.groups {
		for r := range other.window.All() {
			backlog = append(backlog, r)
		}
	}
	slices.SortFunc(backlog, func(a, b *record) int { return cmp.Compare(a.seq, b.seq) })
	backlog = slices.CompactFunc(backlog, func(a, b *record) bool { return a == b })

	g := newGroup(t, name)
	for _, r := range backlog {
		g.window.Add(r.key, r)
	}
	t.groups[name] = g
	t.trim(t.broker.cfg.Keep)
	return g
}

// settled wakes publishers that wait for space.
func (t *topic) settled() {
	if t.space != nil {
		close(t.space)
		t.space = nil
	}
}

// ring is a queue of records.
type ring struct {
	buf   []*record
	first int
	n     int
}

func (q *ring) push(r *record) {
	if q.n == len(q.buf) {
		buf := make([]*record, max(16, 2*q.n))
		for i := range q.n {
			buf[i] = q.buf[(q.first+i)%len(q.buf)]
		}
		q.buf, q.first = buf, 0
	}
	q.buf[(q.first+q.n)%len(q.buf)] = r
	q.n++
}

func (q *ring) pop() {
	q.buf[q.first] = nil
	q.first = (q.first + 1) % len(q.buf)
	q.n--
	if q.n == 0 {
		q.buf, q.first = nil, 0
	}
}

func (q *ring) all() func(yield func(*record) bool) {
	return func(yield func(*record) bool) {
		for i := range q.n {
			if !yield(q.buf[(q.first+i)%len(q.buf)]) {
				return
			}
		}
	}
}
