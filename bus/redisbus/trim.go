package redisbus

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/aura360/eventbus/bus/driver"
)

// A stream is trimmed of what every group has consumed: entries before the
// oldest that some group has not read or not acked. Groups are all that Redis
// knows, those of plain Watermill services too. A stream without any is left
// alone: a poison queue, or a topic that nobody reads yet. Positions only move
// on, so what several processes do here at once does no harm.

const (
	// trimEvery is how often the topics in use are trimmed.
	trimEvery = 10 * time.Second
	// trimSteps bounds how often in a row one stream is, by at most 10,000 entries
	// each (what XTRIM with ~ does at once, with Redis's default settings).
	trimSteps = 200
	// abandonedAfter is how long a group must have shown no sign of life, with an
	// entry as old to read, to be reported.
	abandonedAfter = 10 * time.Minute
	// farBehind is how many messages a group must hold that others are done with
	// to be reported although it is alive.
	farBehind = 100_000
)

// watchStorage trims the topics in use, again and again.
func (n *Native) watchStorage(ctx context.Context) {
	tick := time.NewTicker(trimEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if err := n.trim(ctx); err != nil && ctx.Err() == nil {
			n.cfg.Log.Debug("trimming failed", "backend", n.Name(), "error", err.Error())
		}
	}
}

// trim trims the topics in use once, and notes who stands in the way. A topic
// that fails keeps no other from being trimmed.
func (n *Native) trim(ctx context.Context) error {
	var held []driver.HeldBack
	var failed []error
	n.topics.Range(func(k, v any) bool {
		name, p := k.(string), v.(*topic).parts.Load()
		if p == nil {
			return true
		}
		ofTopic, err := n.trimTopic(ctx, name, p)
		if err != nil {
			failed = append(failed, err)
			ofTopic = slices.DeleteFunc(n.HeldBack(), func(h driver.HeldBack) bool { return h.Topic != name }) // as it was
		}
		held = append(held, ofTopic...)
		return ctx.Err() == nil
	})
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	slices.SortFunc(held, func(a, b driver.HeldBack) int {
		return cmp.Or(cmp.Compare(a.Topic, b.Topic), cmp.Compare(a.Group, b.Group))
	})
	n.held.Store(&held)
	return errors.Join(failed...)
}

func (n *Native) trimTopic(ctx context.Context, name string, p *partitioned) ([]driver.HeldBack, error) {
	var held []driver.HeldBack
	for _, stream := range p.streams {
		groups, err := n.trimStream(ctx, stream)
		if err != nil {
			return nil, fmt.Errorf("trim %s: %w", stream, err)
		}
		for _, g := range groups {
			g.Topic = name
			held = addHeld(held, g)
		}
	}
	return held, nil
}

// addHeld adds what is known of another partition of a topic.
func addHeld(held []driver.HeldBack, g driver.HeldBack) []driver.HeldBack {
	for i, h := range held {
		if h.Group == g.Group {
			held[i].Messages += g.Messages
			held[i].Abandoned = h.Abandoned || g.Abandoned
			if g.Since.Before(h.Since) {
				held[i].Since = g.Since
			}
			return held
		}
	}
	return append(held, g)
}

// HeldBack implements driver.StorageReporter: what the last round of trimming
// saw, at most some seconds ago.
func (n *Native) HeldBack() []driver.HeldBack {
	if held := n.held.Load(); held != nil {
		return slices.Clone(*held)
	}
	return nil
}

// position is where a group is in a stream.
type position struct {
	redis.XInfoGroup
	next   streamID // the first entry that it has not consumed, if there is one
	unread int64    // entries that it has not settled, at most
}

// trimStream trims a stream, and returns the groups that keep too much of it.
func (n *Native) trimStream(ctx context.Context, stream string) ([]driver.HeldBack, error) {
	positions, err := n.positions(ctx, stream)
	if err != nil || len(positions) == 0 {
		return nil, err
	}
	first := slices.MinFunc(positions, func(a, b position) int { return a.next.compare(b.next) })
	for range trimSteps {
		trimmed, err := n.admin.XTrimMinIDApprox(ctx, stream, first.next.String(), 0).Result()
		if err != nil {
			return nil, err
		}
		if trimmed == 0 {
			break
		}
	}
	return n.heldBack(ctx, stream, positions)
}

// positions are those of a stream's groups, none if there is no stream.
func (n *Native) positions(ctx context.Context, stream string) ([]position, error) {
	groups, err := n.admin.XInfoGroups(ctx, stream).Result()
	if isNoKey(err) || err == nil && len(groups) == 0 {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	out := make([]position, len(groups))
	for i, g := range groups {
		last, err := parseStreamID(g.LastDeliveredID)
		if err != nil {
			return nil, err
		}
		out[i] = position{XInfoGroup: g, next: last.after()}
		if g.Pending == 0 {
			continue
		}
		// Asked later, so what was acked in between is not in it any more, and what
		// was read in between is behind last.
		pending, err := n.admin.XPending(ctx, stream, g.Name).Result()
		if err != nil {
			return nil, err
		}
		if pending.Count == 0 {
			continue
		}
		lowest, err := parseStreamID(pending.Lower)
		if err != nil {
			return nil, err
		}
		if lowest.compare(out[i].next) < 0 {
			out[i].next = lowest
		}
	}
	return out, nil
}

// heldBack returns the groups that nobody reads for any more, and those that are
// far behind others. Only for groups that are not done is more asked.
func (n *Native) heldBack(ctx context.Context, stream string, positions []position) ([]driver.HeldBack, error) {
	var now time.Time
	var held []driver.HeldBack
	for i := range positions {
		p := &positions[i]
		oldest, err := n.admin.XRangeN(ctx, stream, p.next.String(), "+", 1).Result()
		if err != nil {
			return nil, err
		}
		if len(oldest) == 0 {
			continue
		}
		p.unread = p.Lag + p.Pending
		if p.Lag < 0 || p.Lag == 0 && p.EntriesRead == 0 { // the server does not know: at most all
			if p.unread, err = n.admin.XLen(ctx, stream).Result(); err != nil {
				return nil, err
			}
		}
		if now.IsZero() {
			if now, err = n.admin.Time(ctx).Result(); err != nil {
				return nil, err
			}
		}
		id, err := parseStreamID(oldest[0].ID)
		if err != nil {
			return nil, err
		}
		since := time.UnixMilli(int64(id.ms)) //nolint:gosec // a time of the server
		abandoned := false
		if now.Sub(since) >= abandonedAfter {
			if abandoned, err = n.abandoned(ctx, stream, p.Name); err != nil {
				return nil, err
			}
		}
		if abandoned || p.unread >= farBehind {
			held = append(held, driver.HeldBack{Group: p.Name, Messages: p.unread, Since: since, Abandoned: abandoned})
		}
	}
	// One that is alive holds up nobody but itself, unless others are ahead.
	return slices.DeleteFunc(held, func(h driver.HeldBack) bool {
		return !h.Abandoned && !slices.ContainsFunc(positions, func(p position) bool { return p.unread < h.Messages/2 })
	}), nil
}

// abandoned tells that no member of a group has asked for anything for long.
func (n *Native) abandoned(ctx context.Context, stream, group string) (bool, error) {
	consumers, err := n.admin.XInfoConsumers(ctx, stream, group).Result()
	if err != nil {
		return false, err
	}
	return !slices.ContainsFunc(consumers, func(c redis.XInfoConsumer) bool { return c.Idle < abandonedAfter }), nil
}

// heldText is what an audit says of a group.
func heldText(h driver.HeldBack) string {
	what := fmt.Sprintf("group %s is far behind on %s: %d messages, the oldest of %s, are kept for it alone",
		h.Group, h.Topic, h.Messages, h.Since.UTC().Format(time.RFC3339))
	if h.Abandoned {
		what = fmt.Sprintf("group %s has no active member on %s: %d messages, the oldest of %s, are kept for it, and memory grows; "+
			"start its consumers, or remove it from each partition (XGROUP DESTROY)",
			h.Group, h.Topic, h.Messages, h.Since.UTC().Format(time.RFC3339))
	}
	return what
}

// streamID is the id of an entry.
type streamID struct{ ms, seq uint64 }

func parseStreamID(s string) (streamID, error) {
	ms, seq, _ := strings.Cut(s, "-")
	var id streamID
	var err error
	if id.ms, err = strconv.ParseUint(ms, 10, 64); err == nil {
		id.seq, err = strconv.ParseUint(cmp.Or(seq, "0"), 10, 64)
	}
	if err != nil {
		return streamID{}, fmt.Errorf("the id of an entry is %.50q", s)
	}
	return id, nil
}

func (id streamID) String() string {
	return strconv.FormatUint(id.ms, 10) + "-" + strconv.FormatUint(id.seq, 10)
}

func (id streamID) compare(other streamID) int {
	return cmp.Or(cmp.Compare(id.ms, other.ms), cmp.Compare(id.seq, other.seq))
}

// after is the lowest id above id.
func (id streamID) after() streamID {
	if id.seq++; id.seq == 0 {
		id.ms++
	}
	return id
}
