package redisbus

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/aura360/eventbus/bus/driver"
	"github.com/aura360/eventbus/internal/delivery"
)

const (
	// firstCount and maxCount bound how many entries of a partition are read at a
	// time. The number grows from the one to the other while they are small:
	// Redis counts entries, and what they weigh is known only afterwards.
	firstCount, maxCount = 4, 512
	// readBytes is how much one read of a partition should bring.
	readBytes = 1 << 20
	// recheck is how often a read is made though nothing seems to have come: it
	// notices when the group is gone or was set back.
	recheck = time.Second
	// First and longest pause before a reader connects again.
	minReconnect, maxReconnect = 50 * time.Millisecond, 2 * time.Second
)

// reader reads the partitions of a consumer that are on one server, on one
// connection of its own.
//
// Reading is conditional: the connection WATCHes the owner keys, asks what they
// say, and reads within a transaction, which is void when one of them has changed
// meanwhile. So a member that was stopped, or cut off, for so long that another
// has taken its partition gets nothing more, however late it goes on. The next
// WATCH goes out together with a read, so that this costs no round trip of its
// own. When there is nothing to read it waits with XREAD, which takes nothing.
type reader struct {
	c    *consumer
	only *lease // in a Cluster, else nil: all

	client *redis.Client // guarded by c.mu
	err    error         // why it does not read; guarded by c.mu

	conn    *redis.Conn
	timeout time.Duration // of reading from conn
	watched []watch       // what the connection watches and has found to be ours
	checked time.Time     // when something was read last
	full    time.Time     // when the server's memory was seen to be full
	buf     replyBuffer
}

// watch is an owner key with what it said.
type watch struct {
	p     *lease
	token owner
}

// reading is what is asked for one partition.
type reading struct {
	watch
	epoch  uint64
	claims []string
	after  string // ">" for what is new
	args   []any
	queued *redis.StatusCmd

	void  bool // it was not ours to read
	got   []delivery.Item[entry]
	n     int // entries, deleted ones included
	bytes int
	last  streamID
	gone  []streamID // deleted before they were acked
	err   error
}

// clustered tells that streams are on several servers.
func (n *Native) clustered() bool { return n.opts.Kind() == "cluster" }

// startReader starts a reader. c.mu is held.
func (c *consumer) startReader(only *lease) {
	r := &reader{c: c, only: only}
	c.readers[r] = struct{}{}
	c.work.Go(r.run)
}

// run reads until nothing more is to be fetched.
func (r *reader) run() {
	wait := minReconnect
	for {
		start := time.Now()
		err := r.connect()
		if err == nil {
			err = r.serve()
		}
		r.disconnect()
		if r.over() {
			return
		}
		r.broke(err)
		if time.Since(start) > maxReconnect {
			wait = minReconnect
		}
		t := time.NewTimer(wait)
		select {
		case <-t.C:
		case <-r.c.retired:
			t.Stop()
			return
		}
		wait = min(2*wait, maxReconnect)
	}
}

func (r *reader) over() bool {
	select {
	case <-r.c.retired:
		return true
	default:
		return false
	}
}

// connect makes a client of the server, for one connection.
func (r *reader) connect() error {
	c := r.c
	var client *redis.Client
	switch u := c.n.opts.New().(type) {
	case *redis.Client:
		client = u
	case *redis.ClusterClient:
		defer u.Close()
		ctx, cancel := context.WithTimeout(c.ctx, c.n.cfg.DialTimeout+c.n.cfg.Timeout)
		defer cancel()
		master, err := u.MasterForKey(ctx, r.only.stream)
		if err != nil {
			return err
		}
		o := *master.Options()
		client = redis.NewClient(&o)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	r.client = client
	if c.leaving {
		return errStopped
	}
	r.conn, r.timeout = client.Conn(), client.Options().ReadTimeout
	r.watched, r.checked = nil, time.Time{}
	return nil
}

func (r *reader) disconnect() {
	r.c.mu.Lock()
	client := r.client
	r.client = nil
	r.c.mu.Unlock()
	if r.conn != nil {
		_ = r.conn.Close()
		r.conn = nil
	}
	if client != nil {
		_ = client.Close()
	}
}

// cut ends what the reader waits for.
func (r *reader) cut() {
	r.c.mu.Lock()
	defer r.c.mu.Unlock()
	if r.client != nil {
		_ = r.client.Close()
	}
}

// broke takes note that the connection is gone, and that what the server was
// asked for may have been delivered all the same.
func (r *reader) broke(err error) {
	c := r.c
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, p := range c.partitions {
		if r.only == nil || r.only == p {
			p.history, p.claimed, p.drained, p.known = true, len(p.claims) > 0, false, false
		}
	}
	r.err = err
	c.noted(err)
}

// serve reads until something fails.
func (r *reader) serve() error {
	for {
		rs, wait, err := r.next()
		if err != nil {
			return err
		}
		if wait {
			err = r.await(rs)
		} else if err = r.c.stream.Room(r.c.ctx); err == nil {
			err = r.read(rs)
		}
		if err != nil {
			return err
		}
		if r.err != nil { // only this goroutine writes it
			r.c.mu.Lock()
			r.err = nil
			r.c.noted(nil)
			r.c.mu.Unlock()
		}
	}
}

// next waits until there is a partition to be read, and returns what to ask of
// each. wait tells that in none of them more is known to be.
func (r *reader) next() (rs []*reading, wait bool, err error) {
	c := r.c
	for {
		c.mu.Lock()
		wait = time.Since(r.checked) < recheck
		for _, p := range c.partitions {
			if p.state != held || r.only != nil && r.only != p {
				continue
			}
			rs = append(rs, &reading{watch: watch{p, p.token}, epoch: p.epoch})
			wait = wait && p.drained
		}
		changed := c.changed
		c.mu.Unlock()
		if len(rs) > 0 {
			return rs, wait, nil
		}
		select {
		case <-changed:
		case <-c.retired:
			return nil, false, errStopped
		}
	}
}

// prepare says what to ask for a partition. c.mu is held.
func (r *reader) prepare(q *reading) {
	c, p := r.c, q.p
	q.last = p.last
	switch {
	case len(p.claims) > 0:
		q.claims = p.claims[:min(len(p.claims), p.count)]
		idle := c.n.cfg.ClaimAfter.Milliseconds()
		if p.claimed {
			idle = 0
		}
		q.args = append(q.args, "XCLAIM", p.stream, c.group, c.inName(), idle)
		for _, id := range q.claims {
			q.args = append(q.args, id)
		}
		return
	case p.history:
		q.after = p.last.String()
	default:
		q.after = ">"
	}
	q.args = append(q.args, "XREADGROUP", "GROUP", c.group, c.inName(), "COUNT", p.count, "STREAMS", p.stream, q.after)
}

// read makes one conditional read.
func (r *reader) read(rs []*reading) error {
	c := r.c
	ctx := context.Background()
	watches := make([]watch, len(rs))
	c.mu.Lock()
	for i, q := range rs {
		r.prepare(q)
		watches[i] = q.watch
	}
	c.mu.Unlock()
	if !slices.Equal(watches, r.watched) {
		pipe := r.conn.Pipeline()
		pipe.Do(ctx, "UNWATCH")
		check := r.watch(ctx, pipe, watches)
		if _, err := pipe.Exec(ctx); err != nil && !errors.Is(err, redis.Nil) {
			return fmt.Errorf("watch the owners: %w", err)
		}
		if !check() {
			return nil
		}
	}
	r.watched = nil
	if time.Since(r.full) < recheck {
		return r.readByScript(ctx, rs)
	}
	pipe := r.conn.Pipeline()
	multi := pipe.Do(ctx, "MULTI")
	for _, q := range rs {
		q.queued = redis.NewStatusCmd(ctx, q.args...)
		_ = pipe.Process(ctx, q.queued)
	}
	r.buf.reset()
	exec := redis.NewRawWriteToCmd(ctx, &r.buf, "EXEC")
	_ = pipe.Process(ctx, exec)
	check := r.watch(ctx, pipe, watches)
	_, err := pipe.Exec(ctx)
	for _, q := range rs { // says more than that the transaction was void
		if err := cmp.Or(multi.Err(), q.queued.Err()); isFull(err) {
			r.full = time.Now()
			return nil
		} else if err != nil {
			return fmt.Errorf("read %s: %w", q.p.stream, err)
		}
	}
	if err == nil || errors.Is(err, redis.Nil) {
		err = exec.Err()
	}
	if err != nil {
		return fmt.Errorf("read: %w", err)
	}
	all := reply{r.buf.b}
	n, err := all.array()
	if err != nil {
		return fmt.Errorf("read: %w", err)
	}
	switch n {
	case -1: // void: one of the keys has changed
		check()
		return nil
	case len(rs):
	default:
		return errReply
	}
	for _, q := range rs {
		if err := r.parse(&all, q); err != nil {
			return fmt.Errorf("read %s: %w", q.p.stream, err)
		}
	}
	r.take(rs)
	r.checked = time.Now()
	check()
	return nil
}

// conditional is a read on the condition that the owner key says what it should.
const conditional = "if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end return redis.call(unpack(ARGV, 2))"

// readByScript is read for a server whose memory is full. It queues nothing for a
// transaction then, while a script may read; that costs the server three times as
// much.
func (r *reader) readByScript(ctx context.Context, rs []*reading) error {
	r.buf.reset()
	pipe := r.conn.Pipeline()
	for _, q := range rs {
		args := append([]any{"EVAL", conditional, 2, q.p.key, q.p.stream, q.token.String()}, q.args...)
		_ = pipe.Process(ctx, redis.NewRawWriteToCmd(ctx, &r.buf, args...))
	}
	if _, err := pipe.Exec(ctx); err != nil {
		return fmt.Errorf("read: %w", err)
	}
	all := reply{r.buf.b}
	for _, q := range rs {
		if len(all.b) > 0 && all.b[0] == ':' {
			_, _, _ = all.line() // it is 0
			q.void = true
			r.c.doubt(q.watch)
			continue
		}
		if err := r.parse(&all, q); err != nil {
			return fmt.Errorf("read %s: %w", q.p.stream, err)
		}
	}
	r.take(rs)
	r.checked = time.Now()
	return nil
}

// isFull tells that the server's memory is full.
func isFull(err error) bool {
	return err != nil && isReply(err) && strings.HasPrefix(err.Error(), "OOM")
}

// watch adds to pipe that the connection watches the keys and asks what they say.
// The function that it returns, for after pipe has run, tells whether they all
// still name us; where one does not the keeper looks into it.
func (r *reader) watch(ctx context.Context, pipe redis.Pipeliner, watches []watch) (ours func() bool) {
	args := make([]any, 1, 1+len(watches))
	args[0] = "WATCH"
	values := make([]*redis.StringCmd, len(watches))
	for _, w := range watches {
		args = append(args, w.p.key)
	}
	pipe.Do(ctx, args...)
	for i, w := range watches {
		values[i] = pipe.Get(ctx, w.p.key)
	}
	return func() bool {
		all := true
		for i, w := range watches {
			if values[i].Val() != w.token.String() {
				r.c.doubt(w)
				all = false
			}
		}
		if all {
			r.watched = watches
		}
		return all
	}
}

// doubt has the keeper look whether a partition is still ours. Until then it is
// not read.
func (c *consumer) doubt(w watch) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if w.p.state == held && w.p.token == w.token {
		w.p.state = doubted
		c.nudge()
	}
}

// parse takes one partition's part of the answer.
func (r *reader) parse(all *reply, q *reading) error {
	var items func() error
	each := func(id streamID, fields [][]byte) {
		q.n++
		if q.last.compare(id) < 0 {
			q.last = id
		}
		if fields == nil {
			q.gone = append(q.gone, id)
			return
		}
		e, msg := decode(q.p, id, fields)
		size := len(e.uuid) + len(e.metadata) + len(e.payload)
		for _, f := range fields {
			if e.values != nil {
				size += len(f)
			}
		}
		q.bytes += size
		q.got = append(q.got, delivery.Item[entry]{Key: driver.Key(msg), Value: e, Msg: msg, Bytes: size + entryOverhead})
	}
	items = func() error { return all.entries(each) }
	var err error
	if q.claims != nil {
		err = items()
	} else {
		err = all.streams(func(string) error { return items() })
	}
	var said replyError
	if errors.As(err, &said) { // for this partition alone
		q.err, err = said, nil
	}
	return err
}

// take hands over what was read, as far as it is still ours.
func (r *reader) take(rs []*reading) {
	c := r.c
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, q := range rs {
		p := q.p
		if q.void || p.epoch != q.epoch || p.state != held && p.state != doubted {
			continue // it is pending, and the next owner reads it
		}
		if q.err != nil {
			// NOGROUP, or no stream at all, or it is something else by now.
			p.state, p.err = owned, q.err
			c.noted(q.err)
			c.nudge()
			continue
		}
		if p.err != nil {
			p.err = nil
			c.noted(nil)
		}
		if q.claims != nil {
			p.claims, p.claimed = p.claims[len(q.claims):], false
			// What is later than last comes with the history, in its place.
			all := len(q.got)
			q.got = slices.DeleteFunc(q.got, func(it delivery.Item[entry]) bool { return p.last.compare(it.Value.id) < 0 })
			p.history = p.history || len(q.got) < all
		}
		c.stream.Add(q.got...)
		for _, id := range q.gone {
			c.acks.add(p, id)
		}
		if n := int64(len(q.gone)); n > 0 {
			c.lost += n
			c.n.cfg.Log.Warn("entries were trimmed or deleted before they were acknowledged", "backend", name,
				"topic", c.topic, "group", c.group, "partition", p.index, "entries", n, "all", c.lost)
		}
		full := q.n >= p.count
		if q.n > 0 { // as many as weigh readBytes, twice as many as now at most
			p.count = max(1, min(maxCount, 2*p.count, readBytes/max(1, q.bytes/q.n)))
		}
		switch {
		case q.claims != nil:
		case q.after != ">":
			p.last, p.history = q.last, q.n > 0
		case q.n > 0:
			p.last = q.last
			p.seen, p.known, p.drained = q.last, true, !full
		default:
			// Nothing, though there seemed to be something: others read here, too.
			p.known = p.known && !p.woken
			p.drained = true
		}
		if q.after == ">" {
			p.woken = false
		}
	}
}

// await waits until one of the streams has more than the group was given.
func (r *reader) await(rs []*reading) error {
	c := r.c
	ctx := context.Background()
	block := min(c.n.cfg.BlockTime, r.timeout/2)
	args := []any{"XREAD", "COUNT", 1, "BLOCK", max(1, block.Milliseconds()), "STREAMS"}
	for _, q := range rs {
		args = append(args, q.p.stream)
	}
	for _, q := range rs {
		seen, err := c.given(ctx, q)
		if err != nil {
			return err
		}
		args = append(args, seen.String())
	}
	r.buf.reset()
	cmd := redis.NewRawWriteToCmd(ctx, &r.buf, args...)
	if err := r.conn.Process(ctx, cmd); err != nil {
		return fmt.Errorf("wait for entries: %w", err)
	}
	all := reply{r.buf.b}
	return all.streams(func(stream string) error {
		c.mu.Lock()
		for _, q := range rs {
			if q.p.stream == stream {
				q.p.drained, q.p.woken = false, true
			}
		}
		c.mu.Unlock()
		return all.entries(func(streamID, [][]byte) {})
	})
}

// given returns the last id that the group was given of a stream.
func (c *consumer) given(ctx context.Context, q *reading) (streamID, error) {
	c.mu.Lock()
	seen, known := q.p.seen, q.p.known
	c.mu.Unlock()
	if known {
		return seen, nil
	}
	groups, err := c.n.admin.XInfoGroups(ctx, q.p.stream).Result()
	if err != nil && !(isReply(err) && strings.Contains(err.Error(), "no such key")) {
		return seen, fmt.Errorf("ask for the group's position: %w", err)
	}
	for _, g := range groups {
		if g.Name == c.group {
			seen, _ = parseID([]byte(g.LastDeliveredID))
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	q.p.seen, q.p.known = seen, true
	return seen, nil
}

// entryOverhead is what an entry takes in memory beside its bytes, about.
const entryOverhead = 600

var _ io.ReaderFrom = (*replyBuffer)(nil)
