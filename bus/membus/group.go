package membus

import (
	"time"

	"github.com/aura360/eventbus/internal/inflight"
)

// group is a consumer group's view of one topic: what it has not settled, and
// the subscriptions that share it. Everything is guarded by the topic's mu.
type group struct {
	topic   *topic
	name    string
	window  *inflight.Window[*record]
	members []*subscription
	turn    int         // the member whose turn it is
	free    int         // messages that the members can take now
	timer   *time.Timer // set while a nacked message pauses
	wake    time.Time   // when the timer fires
}

func newGroup(t *topic, name string) *group {
	return &group{topic: t, name: name, window: inflight.New[*record](inflight.Options{})}
}

// dispatch delivers what may be delivered. It never blocks: a subscription's
// channel has room for all that it may have in flight.
func (g *group) dispatch() {
	for g.free > 0 {
		r, ticket, ok := g.window.Next()
		if !ok {
			return
		}
		g.next().deliver(r, ticket)
	}
}

// next returns the member that gets the next message: they take turns, those
// with their hands full are passed over. The caller knows that one is free.
func (g *group) next() *subscription {
	for {
		g.turn++
		if g.turn >= len(g.members) {
			g.turn = 0
		}
		if m := g.members[g.turn]; m.free > 0 {
			return m
		}
	}
}

func (g *group) join(s *subscription) {
	g.members = append(g.members, s)
	g.free += s.free
	g.tick()
}

// leave takes s out; it gets no more messages.
func (g *group) leave(s *subscription) {
	for i, m := range g.members {
		if m == s {
			g.members = append(g.members[:i], g.members[i+1:]...)
			g.free -= s.free
			break
		}
	}
	if len(g.members) == 0 && g.timer != nil {
		g.timer.Stop()
		g.wake = time.Time{}
	}
}

// tick ends pauses that are over, delivers, and sees to it that it is called
// again when the next one ends.
func (g *group) tick() {
	g.alarm(g.window.Tick(time.Now()))
	g.dispatch()
}

// alarm has tick called at the time given, unless it will be called earlier.
func (g *group) alarm(at time.Time) {
	if at.IsZero() || len(g.members) == 0 || !g.wake.IsZero() && !g.wake.After(at) {
		return
	}
	g.wake = at
	if g.timer == nil {
		g.timer = time.AfterFunc(time.Until(at), func() {
			g.topic.mu.Lock()
			defer g.topic.mu.Unlock()
			g.wake = time.Time{}
			if len(g.members) > 0 {
				g.tick()
			}
		})
		return
	}
	g.timer.Reset(time.Until(at))
}
