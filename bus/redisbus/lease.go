package redisbus

import (
	"hash/fnv"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Who reads what. The members of a group on a topic count up, each in its own
// field of a hash; each looks at the others' counters from time to time. A
// counter that has not changed for the time of a lease belongs to a member that
// is dead. How long that is every member measures by itself, with its own
// monotonic clock: no clock has to agree with another, and none has to be right.
//
// Each partition has a key that names its owner. It is only ever changed by
// compare-and-set, and a member takes it only from nobody, from itself, or from
// a member that is dead. An owner whose own count has not reached the server for
// a little less than a lease stops delivering before anybody can think so. That
// is for order and against duplicates; that a former owner takes no entries is
// sure in any case, since reading is conditional on the key (see reader).
//
// What is here does no I/O and reads no clock.

const (
	// defaultLease is how long a member may be silent.
	defaultLease = 5 * time.Second
	// Beats and looks per lease.
	beatsPerLease = 5
	looksPerLease = 20
)

// roster is what a member knows of its group on a topic.
type roster struct {
	self  string
	lease time.Duration
	seen  map[string]*sighting // without self
	last  time.Time            // when the answer to the last look came
}

// sighting is what is known of one other member.
type sighting struct {
	count int64 // its counter, negative while it leaves, 0 when it is not in the hash
	// silent is for how long, at least, the counter has been the same. Only time
	// between two looks counts, and only so much of it as looks are usually apart:
	// after the server was away for long all members have the same chance to
	// count again before anybody thinks they are dead.
	silent time.Duration
	// alive is whether partitions are assigned to it: it counted, and did not leave,
	// and was not silent for a lease since.
	alive bool
}

func newRoster(self string, lease time.Duration) *roster {
	return &roster{self: self, lease: lease, seen: map[string]*sighting{}}
}

// observe takes the counters that were asked for at sent and came at received.
func (r *roster) observe(sent, received time.Time, counts map[string]int64) {
	var passed time.Duration
	if !r.last.IsZero() {
		passed = min(max(sent.Sub(r.last), 0), r.lease/beatsPerLease)
	}
	r.last = received
	for m, s := range r.seen {
		n := counts[m]
		if n != s.count {
			// One that vanishes without leaving was alive, for all we know, until
			// just now (FLUSHALL), and gets the time to appear again.
			s.count, s.silent = n, 0
			if n != 0 {
				s.alive = n > 0
			}
			continue
		}
		s.silent += passed
		if s.silent >= r.lease {
			s.alive = false
		}
		if n == 0 && s.silent >= 2*r.lease {
			delete(r.seen, m)
		}
	}
	for m, n := range counts {
		if m != r.self && r.seen[m] == nil {
			r.seen[m] = &sighting{count: n, alive: n > 0}
		}
	}
}

// forgotten returns the members that nobody needs to see in the hash any more.
// One that died stays for a while, so that all notice by its silence: one that is
// just not there must be waited for again.
func (r *roster) forgotten() []string {
	var out []string
	for m, s := range r.seen {
		if s.count != 0 && s.silent >= 3*r.lease {
			out = append(out, m)
		}
	}
	return out
}

// mention takes note of a member that an owner key names.
func (r *roster) mention(m string) {
	if m != "" && m != r.self && r.seen[m] == nil {
		r.seen[m] = &sighting{}
	}
}

// dead tells that a member was silent for longer than it keeps what it owns.
func (r *roster) dead(m string) bool {
	s := r.seen[m]
	return s != nil && s.silent >= r.lease
}

// living returns the members that partitions are assigned to, in order. They
// sort by when they joined, so that one that joins moves few.
func (r *roster) living(leaving bool) []string {
	var out []string
	if !leaving {
		out = append(out, r.self)
	}
	for m, s := range r.seen {
		if s.alive {
			out = append(out, m)
		}
	}
	slices.Sort(out)
	return out
}

// assignee returns whose the partition of a topic is, "" if nobody is there. All
// who see the same members say the same.
func assignee(topic string, partition int, living []string) string {
	if len(living) == 0 {
		return ""
	}
	h := fnv.New32a()
	_, _ = h.Write([]byte(topic))                                            // cannot fail
	return living[(uint64(h.Sum32())+uint64(partition))%uint64(len(living))] //nolint:gosec // partition is not negative
}

// trusted is how long after a count was sent the member may act as an owner: a
// fifth of a lease before others may think that it is dead.
func trusted(lease time.Duration) time.Duration { return lease - lease/beatsPerLease }

// owner is the value of an owner key.
type owner struct {
	member string // "" when it was given back
	gen    uint64 // counts the changes
}

// parseOwner reads "member generation". The zero owner is that of a key that is
// not there, or says something else.
func parseOwner(s string) owner {
	i := strings.LastIndexByte(s, ' ')
	if i < 0 {
		return owner{}
	}
	gen, err := strconv.ParseUint(s[i+1:], 10, 64)
	if err != nil {
		return owner{}
	}
	return owner{s[:i], gen}
}

func (o owner) String() string { return o.member + " " + strconv.FormatUint(o.gen, 10) }

// mayTake tells whether the member may make itself the owner in the place of o.
// before is what the key said at the look before the last.
func (r *roster) mayTake(o, before owner) bool {
	if o.member == "" || o.member == r.self {
		return true
	}
	// A member that comes back to life counts, and then changes the key. So where
	// the key has not changed since before we last looked at the counters, what
	// they say holds until the key is changed; and then the compare-and-set fails.
	return o == before && r.dead(o.member)
}
