package redisbus

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
)

// membersKey is the hash in which the members of a group on a topic count.
func (c *consumer) membersKey() string {
	return c.n.cfg.Namespace + ":members:{" + hashTag(c.topic) + "}:" + c.group
}

// ownerKey names the owner of a stream within a group. It is in the stream's
// slot, since reading depends on both.
func (c *consumer) ownerKey(stream string) string {
	return c.n.cfg.Namespace + ":owner:{" + hashTag(stream) + "}:" + c.group
}

// hashTag is the part of a key that chooses its slot in a Cluster.
// https://redis.io/docs/latest/operate/oss_and_stack/reference/cluster-spec/#hash-tags
func hashTag(key string) string {
	if _, after, ok := strings.Cut(key, "{"); ok {
		if tag, _, ok := strings.Cut(after, "}"); ok && tag != "" {
			return tag
		}
	}
	return key
}

// inName is the name under which entries are read and pending, the same for all
// members: the partition's owner is the only one to use it, and what is pending
// under it is what the owner, or the one before, has not acked.
func (c *consumer) inName() string { return c.n.cfg.Namespace + "-native" }

// keeper is the state of the keeper's goroutine.
type keeper struct {
	c      *consumer
	roster *roster
	count  int64
	until  time.Time // until then what we own is ours, see trusted
	beat   time.Time // when the last count was sent that the server took
}

// keep is the keeper.
func (c *consumer) keep() {
	defer close(c.left)
	k := &keeper{c: c, roster: newRoster(c.member, c.ttl)}
	tick := time.NewTimer(0)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-c.poke:
		case <-c.ctx.Done():
			return
		}
		if k.look() {
			return
		}
		// A look that failed is repeated at the same pace.
		tick.Reset(c.ttl / looksPerLease)
	}
}

// look counts, looks at the others and at the partitions, and does what follows.
// It returns true when the consumer has left the group.
func (k *keeper) look() (left bool) {
	c := k.c
	// Nothing is waited for beyond the time that we may act as an owner.
	end := time.Now().Add(c.ttl / 4)
	if !k.expired() && k.until.Before(end) {
		end = k.until
	}
	ctx, cancel := context.WithDeadline(c.ctx, end)
	defer cancel()
	err := k.see(ctx)
	if err == nil {
		err = c.refreshTopic(ctx)
	}
	if err == nil {
		err = k.decide(ctx)
	}
	c.mu.Lock()
	c.status.looked = err == nil
	if c.ctx.Err() == nil {
		c.status.keeping = err
		c.noted(err)
	}
	done := c.leaving
	for _, p := range c.partitions {
		done = done && p.state == free
	}
	c.mu.Unlock()
	k.expired()
	if !done {
		return false
	}
	// The others see at their next look that we are gone, and wait for nothing of
	// ours. What fails is for them to notice.
	_ = c.n.admin.HDel(ctx, c.membersKey(), c.member).Err()
	return true
}

// expired tells whether the time is over in which what we own is surely ours, and
// has nothing delivered then.
func (k *keeper) expired() bool {
	if time.Now().After(k.until) {
		k.c.suspend()
		return true
	}
	return false
}

// see counts, if it is time, and reads the counters of all.
func (k *keeper) see(ctx context.Context) error {
	c := k.c
	key := c.membersKey()
	c.mu.Lock()
	leaving := c.leaving
	c.mu.Unlock()
	sent := time.Now()
	var all *redis.MapStringStringCmd
	count := sent.Sub(k.beat) >= c.ttl/beatsPerLease || leaving
	_, err := c.n.admin.Pipelined(ctx, func(p redis.Pipeliner) error {
		if count {
			k.count++ // a number that was never there before
			n := k.count
			if leaving {
				n = -n
			}
			p.HSet(ctx, key, c.member, n)
		}
		all = p.HGetAll(ctx, key)
		return nil
	})
	full := isFull(err)
	if err != nil && !full {
		return fmt.Errorf("read the group's members: %w", err)
	}
	received := time.Now()
	if full {
		// Memory is full. The server lets us read and ack, and consuming is what makes
		// room: so this counts as a count. Nobody can take a partition meanwhile, and
		// nobody who fares like us holds it against another that he is silent.
		c.mu.Lock()
		c.noted(err)
		c.mu.Unlock()
		k.roster.last = time.Time{}
	}
	counts := make(map[string]int64, len(all.Val()))
	for m, v := range all.Val() {
		counts[m], _ = strconv.ParseInt(v, 10, 64) // what is no number is a member that never counts
	}
	if count {
		k.expired() // while the answer was on its way: who owns what must be asked again
		k.beat, k.until = sent, sent.Add(trusted(c.ttl))
	}
	if _, there := counts[c.member]; !there {
		k.beat = time.Time{} // forgotten: count at the next look
	}
	k.roster.observe(sent, received, counts)
	if gone := k.roster.forgotten(); len(gone) > 0 {
		if err := c.n.admin.HDel(ctx, key, gone...).Err(); err != nil {
			return fmt.Errorf("remove members that died: %w", err)
		}
	}
	return nil
}

// refreshTopic takes note of partitions that are new.
func (c *consumer) refreshTopic(ctx context.Context) error {
	topic, err := c.n.topic(ctx, c.topic)
	if err != nil {
		return err
	}
	streams := topic.streams
	c.mu.Lock()
	defer c.mu.Unlock()
	for i := len(c.partitions); i < len(streams); i++ {
		p := &lease{index: i, stream: streams[i], key: c.ownerKey(streams[i])}
		c.partitions = append(c.partitions, p)
		if c.n.clustered() {
			c.startReader(p)
		}
	}
	return nil
}

// decide compares what the owner keys say with what should be, and acts.
func (k *keeper) decide(ctx context.Context) error {
	c := k.c
	c.mu.Lock()
	living := k.roster.living(c.leaving)
	var ask []*lease
	for _, p := range c.partitions {
		if p.state != free || assignee(c.topic, p.index, living) == c.member {
			ask = append(ask, p)
		}
	}
	c.mu.Unlock()
	if len(ask) == 0 {
		return nil
	}
	values := make([]*redis.StringCmd, len(ask))
	_, err := c.n.admin.Pipelined(ctx, func(pipe redis.Pipeliner) error {
		for i, p := range ask {
			values[i] = pipe.Get(ctx, p.key)
		}
		return nil
	})
	if err != nil && !errors.Is(err, redis.Nil) {
		return fmt.Errorf("read the owners: %w", err)
	}
	for i, p := range ask {
		value, err := values[i].Result()
		if err != nil && !errors.Is(err, redis.Nil) {
			return fmt.Errorf("read the owner of %s: %w", p.stream, err)
		}
		mine := assignee(c.topic, p.index, living) == c.member
		if err := k.step(ctx, p, value, err == nil, mine); err != nil {
			return err
		}
	}
	return nil
}

// step does for one partition what is next. value is what its owner key says,
// there whether it is there.
func (k *keeper) step(ctx context.Context, p *lease, value string, there, mine bool) error {
	c := k.c
	c.mu.Lock()
	state, token, stale := p.state, p.token, p.stale
	c.mu.Unlock()
	now := parseOwner(value)
	switch {
	case state == free && mine:
		k.roster.mention(now.member)
		before := p.others
		p.others = now
		if !k.roster.mayTake(now, before) || time.Now().After(k.until) {
			return nil
		}
		next := owner{c.member, now.gen + 1}
		if ok, err := c.swap(ctx, p, value, there, next); err != nil || !ok {
			return err
		}
		c.took(p, next)
		return c.open(ctx, p)
	case state == free:
		return nil
	case !there:
		// FLUSHALL, or the like: nobody has it. What we hold may go on.
		ok, err := c.swap(ctx, p, value, there, token)
		if err != nil {
			return err
		}
		if !ok {
			c.lose(p)
			return nil
		}
		value, there = token.String(), true
	case now != token:
		c.lose(p)
		return nil
	}
	switch state {
	case doubted:
		c.mu.Lock()
		if p.state == doubted {
			p.state, p.history, p.drained = held, true, false
			c.wakeReaders()
		}
		c.mu.Unlock()
	case owned:
		if time.Now().After(k.until) {
			return nil
		}
		if !mine {
			c.giveBack(p, true)
			return nil
		}
		if stale {
			// Somebody may have seen that we are dead and be about to take it. With
			// another value he fails, or we do.
			next := owner{c.member, token.gen + 1}
			if ok, err := c.swap(ctx, p, value, there, next); err != nil {
				return err
			} else if !ok {
				c.lose(p)
				return nil
			}
			c.took(p, next)
		}
		return c.open(ctx, p)
	case held:
		if !mine {
			c.giveBack(p, true)
		}
	}
	return nil
}

// swap changes an owner key from what it was seen to say. It returns false when
// it says something else by now.
func (c *consumer) swap(ctx context.Context, p *lease, was string, there bool, to owner) (bool, error) {
	same := true
	err := c.n.admin.Watch(ctx, func(tx *redis.Tx) error {
		now, err := tx.Get(ctx, p.key).Result()
		if err != nil && !errors.Is(err, redis.Nil) {
			return err
		}
		if same = now == was && (err == nil) == there; !same {
			return nil
		}
		_, err = tx.TxPipelined(ctx, func(pipe redis.Pipeliner) error {
			pipe.Set(ctx, p.key, to.String(), 0)
			return nil
		})
		return err
	}, p.key)
	if errors.Is(err, redis.TxFailedErr) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("change the owner of %s: %w", p.stream, err)
	}
	return same, nil
}

// took takes note that a partition is ours.
func (c *consumer) took(p *lease, token owner) {
	c.mu.Lock()
	defer c.mu.Unlock()
	p.state, p.token, p.stale = owned, token, false
	p.epoch++
	p.last = streamID{}
}

// open makes a partition that is ours ready to be read.
func (c *consumer) open(ctx context.Context, p *lease) error {
	created, err := c.createGroup(ctx, p)
	var claims []string
	if err == nil {
		claims, err = c.abandoned(ctx, p)
	}
	if err == nil && created {
		// The record of the topic may have gone with the group.
		_, err = c.n.refreshPartitions(ctx, c.topic)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	p.err = err
	c.noted(err)
	if err != nil {
		if isReply(err) || errors.Is(err, errNoStream) {
			return nil // the other partitions are none the worse
		}
		return err
	}
	if p.state != owned {
		return nil
	}
	if created { // a group starts at the oldest entry, and has nothing pending
		p.last = streamID{}
	}
	p.state, p.history, p.claims, p.claimed = held, true, claims, false
	p.known, p.drained, p.woken = false, false, false
	if p.count == 0 {
		p.count = firstCount
	}
	c.wakeReaders()
	return nil
}

// createGroup creates the group on a stream, and the stream if that is allowed.
// It tells whether the group was not there.
func (c *consumer) createGroup(ctx context.Context, p *lease) (bool, error) {
	var err error
	if c.n.cfg.Provision.Create {
		err = c.n.admin.XGroupCreateMkStream(ctx, p.stream, c.group, "0").Err()
	} else {
		err = c.n.admin.XGroupCreate(ctx, p.stream, c.group, "0").Err()
	}
	switch {
	case err == nil:
		return true, nil
	case isReply(err) && strings.HasPrefix(err.Error(), "BUSYGROUP"):
		return false, nil
	case isReply(err) && strings.Contains(err.Error(), "requires the key to exist"):
		return false, errNoStream
	}
	return false, fmt.Errorf("create group on %s: %w", p.stream, err)
}

// maxClaims is the most abandoned entries that are looked up at a time.
const maxClaims = 10 * claimBatch

// abandoned returns what members that are no native ones have had in their hands
// for longer than ClaimAfter. Native ones show signs of life, see tidy.
func (c *consumer) abandoned(ctx context.Context, p *lease) ([]string, error) {
	all, err := c.n.admin.XPending(ctx, p.stream, c.group).Result()
	if err != nil {
		return nil, fmt.Errorf("look for abandoned entries of %s: %w", p.stream, err)
	}
	var ids []string
	for other := range all.Consumers {
		if other == c.inName() {
			continue
		}
		for start := "-"; len(ids) < maxClaims; {
			list, err := c.n.admin.XPendingExt(ctx, &redis.XPendingExtArgs{
				Stream: p.stream, Group: c.group, Consumer: other, Idle: c.n.cfg.ClaimAfter,
				Start: start, End: "+", Count: claimBatch,
			}).Result()
			if err != nil {
				return nil, fmt.Errorf("look for abandoned entries of %s: %w", p.stream, err)
			}
			for _, e := range list {
				ids = append(ids, e.ID)
			}
			if len(list) < claimBatch {
				break
			}
			start = "(" + list[len(list)-1].ID
		}
	}
	return ids, nil
}

// tend tidies the partitions that are read, from time to time.
func (c *consumer) tend() {
	tick := time.NewTicker(c.n.cfg.ClaimAfter / 4)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-c.ctx.Done():
			return
		case <-c.left:
			return
		}
		c.mu.Lock()
		var all []*lease
		for _, p := range c.partitions {
			if p.state == held || p.state == recalling {
				all = append(all, p)
			}
		}
		c.mu.Unlock()
		for _, p := range all {
			if err := c.tidy(p); err != nil && c.ctx.Err() == nil {
				c.n.cfg.Log.Debug("showing a sign of life failed", "backend", name, "topic", c.topic,
					"group", c.group, "partition", p.index, "error", err.Error())
			}
		}
	}
}

// tidy starts the idle time of what is held here anew, so that no stock member
// of the group takes it for abandoned, and looks for what others abandoned.
func (c *consumer) tidy(p *lease) error {
	ctx, cancel := context.WithTimeout(c.ctx, c.n.cfg.ClaimAfter/4)
	defer cancel()
	c.mu.Lock()
	last := p.last
	c.mu.Unlock()
	end := last.String()
	if last == (streamID{}) {
		end = "+"
	}
	if err := c.n.refresh(ctx, p.stream, c.group, c.inName(), end, c.n.cfg.ClaimAfter/4); err != nil {
		return err
	}
	claims, err := c.abandoned(ctx, p)
	if err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if p.state == held && len(p.claims) == 0 && len(claims) > 0 {
		p.claims, p.claimed, p.drained = claims, false, false
		c.wakeReaders()
	}
	return nil
}

// lose takes note that a partition is another's.
func (c *consumer) lose(p *lease) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if p.state == free {
		return
	}
	if p.stop != nil {
		p.stop()
		p.stop = nil
	}
	p.state, p.err = free, nil
	p.epoch++
	c.stream.Drop(func(e entry) bool { return e.p == p })
	c.status.resubscribed++
	c.status.lastErr = errAway.Error()
	c.n.cfg.Log.Warn("partition lost", "backend", name, "topic", c.topic, "group", c.group, "partition", p.index)
}

// suspend stops delivering: for all we know others think that we are dead.
func (c *consumer) suspend() {
	c.mu.Lock()
	var all []*lease
	for _, p := range c.partitions {
		if p.state == held || p.state == doubted {
			all = append(all, p)
		}
	}
	c.mu.Unlock()
	for _, p := range all {
		c.giveBack(p, false)
	}
}

// giveBack ends delivering of a partition, waits for what the consumer has in
// his hands and for its acks, and then, with release, makes the partition
// nobody's. Else it is to be opened again.
func (c *consumer) giveBack(p *lease, release bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if p.state == free || p.state == recalling {
		return
	}
	ctx, stop := context.WithCancel(c.ctx)
	p.state, p.stop = recalling, stop
	p.epoch++
	epoch, token := p.epoch, p.token
	c.work.Go(func() {
		defer stop()
		_ = c.stream.Recall(ctx, func(e entry) bool { return e.p == p }) // what ctx ends is dropped
		err := c.acks.flush(ctx, p)
		for err == nil && release {
			_, err = c.swap(ctx, p, token.String(), true, owner{gen: token.gen})
			if err == nil || isFull(err) {
				break
			}
			err = pause(ctx, ackRetry)
		}
		c.mu.Lock()
		defer c.mu.Unlock()
		if p.epoch != epoch {
			return
		}
		p.stop = nil
		p.state, p.last, p.stale = owned, streamID{}, true
		// A member that leaves a server that is full leaves the key behind.
		if release && (err == nil || c.leaving && isFull(err)) {
			p.state, p.err = free, nil
		}
		c.nudge()
	})
}

// pause waits for d, or returns why ctx ended.
func pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
