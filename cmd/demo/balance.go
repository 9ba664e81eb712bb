package main

import (
	"cmp"
	"fmt"
	"slices"

	"github.com/aura360/eventbus/bus/driver"
)

// balance is the ledger, drawn up.
type balance struct {
	Accepted    int // events that the bus confirmed
	Unconfirmed int // events of which it could not tell
	Arrived     int // of those, how many times a group handled one
	Refused     int // events it did not accept
	Groups      []groupBalance
	Lost        []claim // confirmed, and never settled by a group that handles the type
	Doubled     []claim // settled more than once
	Ghosts      []claim // handled, though its publisher was told that it was not accepted
	Publish     histogram
	Copies      int
	Foreign     int
	Failed      int
}

type groupBalance struct {
	Name                                       string
	Expected, Handled, Poisoned, Lost, Doubled int
	Latency                                    histogram
}

// Holds reports that the bus kept its word.
func (b balance) Holds() bool { return len(b.Lost)+len(b.Doubled)+len(b.Ghosts) == 0 }

func (l *ledger) balance() balance {
	l.mu.Lock()
	defer l.mu.Unlock()
	b := balance{Publish: l.publish, Copies: l.copies, Foreign: l.foreign, Failed: l.failed}
	groups := map[string]*groupBalance{}
	for name, g := range l.byGroup {
		groups[name] = &groupBalance{Name: name, Latency: g.latency}
	}
	for id, e := range l.events {
		switch {
		case !e.known || e.outcome == driver.Unknown:
			b.Unconfirmed++
			continue
		case e.outcome == driver.Rejected:
			b.Refused++
			continue
		}
		b.Accepted++
		for _, g := range l.groups[e.typ] {
			groups[g].Expected++
			if l.claims[claim{g, id}] == nil {
				groups[g].Lost++
				b.Lost = append(b.Lost, claim{g, id})
			}
		}
	}
	for key, c := range l.claims {
		g, e := groups[key.group], l.events[key.id]
		switch {
		case !e.known || e.outcome == driver.Unknown:
			b.Arrived++
		case e.outcome == driver.Rejected:
			b.Ghosts = append(b.Ghosts, key)
		case c.handled > 0:
			g.Handled++
		default:
			g.Poisoned++
		}
		if c.handled+c.poisoned > 1 {
			g.Doubled++
			b.Doubled = append(b.Doubled, key)
		}
	}
	for _, name := range l.order {
		b.Groups = append(b.Groups, *groups[name])
	}
	for _, list := range [][]claim{b.Lost, b.Doubled, b.Ghosts} {
		slices.SortFunc(list, func(x, y claim) int { return cmp.Or(cmp.Compare(x.group, y.group), cmp.Compare(x.id, y.id)) })
	}
	return b
}

func (c claim) String() string { return fmt.Sprintf("%s %s", c.group, c.id) }
