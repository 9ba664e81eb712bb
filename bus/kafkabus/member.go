package kafkabus

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/aura360/eventbus/bus/driver"
	"github.com/aura360/eventbus/internal/delivery"
)

const (
	// maxPoll is how many records are taken from the client at a time.
	maxPoll = 1000
	// fetchBytes bounds one answer to a fetch, as it is on the wire: one batch may
	// be larger, and the client holds one answer per broker.
	fetchBytes = 2 << 20
	// fetchPartitionBytes is the same for each partition.
	fetchPartitionBytes = 1 << 20
)

// member is one member of a group: a client, which reads all topics, the offsets
// of the partitions it owns, and a stream for each topic.
//
// The group's life is the client's business. It calls back when partitions come
// and go, while the loop in run polls. So that no record is handed on for a
// partition that has gone, or has come again meanwhile, the loop holds polling
// while it polls and hands on, and claims change only in alone, which interrupts
// the poll and takes polling.
type member struct {
	n     *Native
	group string
	opts  driver.SubscriberOptions

	wire   *wire
	client *kgo.Client

	life    context.Context //nolint:containedctx // ends with close
	end     context.CancelFunc
	reading context.Context //nolint:containedctx // ends with stopPolling
	stop    context.CancelFunc
	wg      sync.WaitGroup

	polling   sync.Mutex
	waiting   atomic.Int32 // in alone
	interrupt atomic.Pointer[context.CancelFunc]

	mu      sync.Mutex // guards below
	session bool       // of the group
	asked   map[string]bool
	subs    map[string]*subscription
	changed chan struct{} // closed when subs change
	claims  map[partition]*claim
	restart map[partition]bool // of those just fetched: the commit is of a topic that was
	good    time.Time          // the last answer of a broker
	bad     time.Time          // the last failure to get one

	committing sync.Mutex    // held from reading offsets until they are committed
	dirty      chan struct{} // has room for one: there is something to commit
	look       chan struct{} // the same: look whether the topics are there
}

// partition of a topic.
type partition struct {
	topic  string
	number int32
}

// claim is a partition that this member owns.
type claim struct {
	partition
	sub *subscription
	id  topicID

	mu      sync.Mutex // guards below; the stream is never called with it
	offsets offsets
	epoch   int32 // the leader's, of the last record
	dirty   bool  // since the last commit
	bare    bool  // the broker takes no metadata as long as ours
}

// newMember returns a member that reads nothing yet.
func (n *Native) newMember(group string, opts driver.SubscriberOptions) (*member, error) {
	m := &member{
		n: n, group: group, opts: opts,
		subs: make(map[string]*subscription), changed: make(chan struct{}),
		claims: make(map[partition]*claim),
		dirty:  make(chan struct{}, 1), look: make(chan struct{}, 1),
	}
	m.life, m.end = context.WithCancel(context.Background())
	m.reading, m.stop = context.WithCancel(m.life)
	m.wire = newWire(m.life, n.cfg)
	var err error
	if m.client, err = kgo.NewClient(append(n.options(m.wire, opts.Instance), m.consuming()...)...); err != nil {
		m.end()
		return nil, err
	}
	m.wg.Go(m.run)
	m.wg.Go(m.commitLoop)
	m.wg.Go(m.watch)
	return m, nil
}

// consuming are the options of the client.
func (m *member) consuming() []kgo.Opt {
	c := m.n.cfg
	var balancers []kgo.GroupBalancer
	for _, name := range splitList(c.GroupStrategy) {
		balancers = append(balancers, balancer{kgoStrategies[name](), m})
	}
	return []kgo.Opt{
		kgo.ConsumerGroup(m.group),
		kgo.Balancers(balancers...),
		kgo.SessionTimeout(c.SessionTimeout),
		kgo.HeartbeatInterval(c.HeartbeatInterval),
		kgo.RebalanceTimeout(c.MaxPollInterval),
		// As often as time allows: what must not take for ever has a context.
		kgo.RequestRetries(1000),
		// A group that never read a partition reads what is there already, and one
		// whose place is gone what is left.
		kgo.ConsumeStartOffset(kgo.NewOffset().AtStart()),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()),
		// As Python's consumers: a message of an aborted transaction was never said.
		kgo.FetchIsolationLevel(kgo.ReadCommitted()),
		kgo.FetchMaxWait(500 * time.Millisecond),
		kgo.FetchMaxBytes(fetchBytes),
		kgo.FetchMaxPartitionBytes(fetchPartitionBytes),
		kgo.DisableAutoCommit(),
		kgo.OnOffsetsFetched(m.onFetched),
		kgo.AdjustFetchOffsetsFn(m.onAdjust),
		kgo.OnPartitionsAssigned(m.onAssigned),
		kgo.OnPartitionsRevoked(m.onRevoked),
		kgo.OnPartitionsLost(m.onLost),
		kgo.WithHooks(memberHooks{m}),
	}
}

var kgoStrategies = map[string]func() kgo.GroupBalancer{
	"cooperative-sticky": kgo.CooperativeStickyBalancer,
	"range":              kgo.RangeBalancer,
	"roundrobin":         kgo.RoundRobinBalancer,
	"sticky":             kgo.StickyBalancer,
}

// free tells whether the member does not read the topic and can.
func (m *member) free(topic string) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.subs[topic] == nil
}

// subscribe begins to read a topic, until ctx ends.
func (m *member) subscribe(ctx context.Context, topic string) *subscription {
	s := &subscription{m: m, topic: topic}
	s.stream = delivery.New(ctx, delivery.Options[*fetched]{
		MaxInFlight:  m.opts.MaxInFlight,
		DirectSettle: m.opts.DirectSettle,
		Message:      (*fetched).message,
		Acked:        func(f *fetched) { f.claim.done(f.offset) },
	})
	m.mu.Lock()
	m.subs[topic] = s
	m.subsChanged()
	m.mu.Unlock()
	m.wg.Go(func() {
		finding, cancel := context.WithCancel(m.reading)
		stop := context.AfterFunc(ctx, cancel)
		m.find(finding, s)
		stop()
		cancel()
		select {
		case <-ctx.Done():
			m.unsubscribe(s)
		case <-m.life.Done():
		}
	})
	return s
}

// subsChanged wakes who looks at subs.
func (m *member) subsChanged() {
	close(m.changed)
	m.changed = make(chan struct{})
}

// unsubscribe ends one topic as Close does, and keeps the others.
func (m *member) unsubscribe(s *subscription) {
	s.stream.Close()
	s.mu.Lock()
	s.ended = true
	s.mu.Unlock()
	ctx, cancel := context.WithTimeout(m.life, closeGrace)
	defer cancel()
	_ = m.flush(ctx) // else it is handled again
	m.alone(func() {
		m.mu.Lock()
		defer m.mu.Unlock()
		m.dropClaims(func(c *claim) bool { return c.sub == s })
	})
	m.client.PurgeTopicsFromConsuming(s.topic)
	m.client.ResumeFetchTopics(s.topic)
	m.mu.Lock()
	delete(m.subs, s.topic)
	m.subsChanged()
	m.mu.Unlock()
}

// run polls and hands on.
func (m *member) run() {
	for m.reading.Err() == nil {
		m.polling.Lock()
		ctx, cancel := context.WithCancel(m.reading)
		m.interrupt.Store(&cancel)
		if m.waiting.Load() > 0 {
			cancel()
		}
		fetches := m.client.PollRecords(ctx, maxPoll)
		cancel()
		m.hand(fetches)
		m.polling.Unlock()
		fetches.EachError(m.failed)
		m.awaitRoom()
	}
}

// alone runs f while nothing is polled or handed on.
func (m *member) alone(f func()) {
	m.waiting.Add(1)
	defer m.waiting.Add(-1)
	if cancel := m.interrupt.Load(); cancel != nil {
		(*cancel)()
	}
	m.polling.Lock()
	defer m.polling.Unlock()
	f()
}

// hand gives records to the streams.
func (m *member) hand(fetches kgo.Fetches) {
	var scratch []byte
	fetches.EachPartition(func(p kgo.FetchTopicPartition) {
		if len(p.Records) == 0 {
			return
		}
		m.mu.Lock()
		c := m.claims[partition{p.Topic, p.Partition}]
		if c != nil && c.rewound(p.Records[0].Offset) {
			// The log is not the one it was: what is in hand was in the other.
			m.dropClaims(func(other *claim) bool { return other == c })
			c = &claim{partition: c.partition, sub: c.sub, id: c.id, offsets: newOffsets(-1, nil)}
			m.claims[c.partition] = c
		}
		m.mu.Unlock()
		if c == nil {
			return // gone, or of a topic that is not wanted any more
		}
		fresh := c.add(p.Records)
		items := make([]delivery.Item[*fetched], 0, len(fresh))
		for _, r := range fresh {
			f := &fetched{claim: c, offset: r.Offset}
			f.fields, f.payload, scratch = readRecord(scratch, r)
			msg := f.message()
			items = append(items, delivery.Item[*fetched]{Key: driver.Key(msg), Value: f, Msg: msg, Bytes: len(f.payload) + len(f.fields)})
		}
		c.sub.stream.Add(items...)
		c.sub.well()
	})
}

// rewound tells whether the client has gone back, to an offset that was added
// already.
func (c *claim) rewound(offset int64) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return offset < c.offsets.next
}

// add notes what was fetched, and returns what is to be handled.
func (c *claim) add(records []*kgo.Record) []*kgo.Record {
	c.mu.Lock()
	defer c.mu.Unlock()
	fresh := records[:0]
	for _, r := range records {
		if c.offsets.add(r.Offset) {
			fresh = append(fresh, r)
		}
		c.epoch = r.LeaderEpoch
	}
	if len(fresh) < len(records) {
		c.soil()
	}
	return fresh
}

// done notes an ack.
func (c *claim) done(offset int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.offsets.done(offset)
	c.soil()
}

// soil asks for a commit.
func (c *claim) soil() {
	if !c.dirty {
		c.dirty = true
		signal(c.sub.m.dirty)
	}
}

func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// dropClaims forgets partitions, at once. It is called in alone or while polling,
// with mu.
func (m *member) dropClaims(match func(*claim) bool) {
	gone := make(map[*subscription]bool)
	for p, c := range m.claims {
		if match(c) {
			delete(m.claims, p)
			gone[c.sub] = true
		}
	}
	for s := range gone {
		s.stream.Drop(func(f *fetched) bool { return match(f.claim) })
	}
}

// awaitRoom waits while the consumer has enough. With several topics those that
// are full for longer are paused, so that they don't hold up the others.
func (m *member) awaitRoom() {
	m.mu.Lock()
	var full []*subscription
	for _, s := range m.subs {
		if s.stream.Full() {
			full = append(full, s)
		}
	}
	alone, changed := len(m.subs) == 1, m.changed
	m.mu.Unlock()
	if len(full) == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(m.reading, pauseAfter)
	if alone {
		cancel()
		ctx, cancel = context.WithCancel(m.reading)
	}
	defer cancel()
	stop := make(chan struct{})
	defer close(stop)
	go func() {
		select {
		case <-changed:
			cancel()
		case <-stop:
		}
	}()
	for _, s := range full {
		if s.stream.Room(ctx) == nil || m.reading.Err() != nil || !s.stream.Full() {
			continue
		}
		select {
		case <-changed:
			continue
		default:
		}
		m.client.PauseFetchTopics(s.topic)
		m.wg.Go(func() {
			if s.stream.Room(m.reading) == nil && sleep(m.reading, resumeAfter) {
				m.client.ResumeFetchTopics(s.topic)
			}
		})
	}
}

const (
	// pauseAfter is how long a topic may be full before it is paused, which makes
	// the client fetch again what it has fetched of it.
	pauseAfter = 20 * time.Millisecond
	// resumeAfter keeps a topic from being paused and resumed for each record.
	resumeAfter = 50 * time.Millisecond
)

// stopPolling ends run.
func (m *member) stopPolling() { m.stop() }

// close commits what is acked, leaves the group and lets go of the client.
func (m *member) close() error {
	m.stopPolling()
	ctx, cancel := context.WithTimeout(m.life, closeGrace)
	defer cancel()
	var err error
	if m.up(time.Now()) {
		err = m.flush(ctx)
	}
	m.mu.Lock()
	m.session = false
	clear(m.claims)
	subs := m.subs
	m.subs = nil
	m.mu.Unlock()
	for _, s := range subs {
		s.mu.Lock()
		s.ended = true
		s.mu.Unlock()
	}
	_ = m.client.LeaveGroupContext(ctx) // else the session times out
	m.end()
	m.wire.abort()
	m.client.CloseAllowingRebalance()
	m.wg.Wait()
	if err != nil {
		return fmt.Errorf("kafka: close: commit: %w", err)
	}
	return nil
}

// failed looks at an error of the client's poll.
func (m *member) failed(topic string, _ int32, err error) {
	var session *kgo.ErrGroupSession
	if errors.Is(err, context.Canceled) || errors.Is(err, kgo.ErrClientClosed) || errors.As(err, &session) {
		return
	}
	m.mu.Lock()
	s := m.subs[topic]
	m.mu.Unlock()
	if s == nil {
		return
	}
	var loss *kgo.ErrDataLoss
	if errors.As(err, &loss) { // the client goes on with what there is
		s.note(err)
		return
	}
	s.failed(err, false)
	if errors.Is(err, kerr.UnknownTopicOrPartition) || errors.Is(err, kerr.UnknownTopicID) {
		signal(m.look)
	}
}
