package main

import (
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"charm.land/lipgloss/v2"

	"github.com/aura360/eventbus/bus"
)

// frame is what there is to show at one moment.
type frame struct {
	pulse
	elapsed  time.Duration // since the traffic began, 0 before
	phase    string
	window   time.Duration // what rates and recent latencies are about
	before   pulse         // at its beginning
	planned  int64
	waiting  int64
	bad      int64 // input lines
	stored   int
	asked    int
	answered int
	question string
	reply    string
	troubles int
	trouble  string // the newest
}

// sampler makes frames, and remembers some seconds of them.
type sampler struct {
	d     *demo
	span  time.Duration
	past  []pulse
	times []time.Time
}

func (s *sampler) take(now time.Time) frame {
	d := s.d
	f := frame{pulse: d.ledger.pulse(), phase: *d.phase.Load(), stored: d.store.size()}
	if t := d.started.Load(); t != nil {
		f.elapsed = now.Sub(*t)
	}
	f.planned, f.waiting = d.traffic.planned.Load(), d.traffic.waiting.Load()
	if d.input != nil {
		f.bad = d.input.bad.Load()
	}
	d.talk.mu.Lock()
	f.asked, f.answered, f.question, f.reply = d.talk.asked, d.talk.answered, d.talk.question, d.talk.reply
	d.talk.mu.Unlock()
	f.troubles, f.trouble = d.journal.last()

	s.past, s.times = append(s.past, f.pulse), append(s.times, now)
	for len(s.times) > 2 && now.Sub(s.times[1]) >= s.span {
		s.past, s.times = s.past[1:], s.times[1:]
	}
	f.before, f.window = s.past[0], now.Sub(s.times[0])
	return f
}

// rate is how many there were per second, lately.
func (f frame) rate(now, before int) float64 {
	if f.window < 100*time.Millisecond {
		return 0
	}
	return float64(now-before) / f.window.Seconds()
}

// showPlain writes a line per second until the run is over.
func showPlain(d *demo, out io.Writer) error {
	fmt.Fprintf(out, "%s\n", d.headline())
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	s := sampler{d: d, span: 950 * time.Millisecond}
	s.take(time.Now())
	noted := false
	note := func() {
		if !noted && d.started.Load() != nil {
			noted = true
			fmt.Fprintln(out, d.note())
		}
	}
	for {
		select {
		case <-d.done:
			note()
			return nil
		case now := <-tick.C:
			note()
			fmt.Fprintln(out, s.take(now).line())
		}
	}
}

// headline says what runs where, and note what not to expect of it.
func (d *demo) headline() string {
	s := "AURA360 on " + d.where()
	if d.listen != nil {
		s += "  http://" + d.listen.Addr().String()
	}
	return s
}

func (d *demo) note() string {
	switch {
	case d.unset:
		return "in memory, as MESSAGING_BACKEND is not set: nothing survives this process"
	case d.cfg.Backend == bus.Memory:
		return "in memory: nothing survives this process"
	}
	if n := d.backlog.Load(); n > 0 {
		return fmt.Sprintf("catching up with %s earlier messages first: handled, but not counted", number(int(n)))
	}
	return "on the platform's own topics: what earlier runs left is handled, not counted"
}

// line is a frame in one line of at most 80 columns, as long as numbers stay
// below a million.
func (f frame) line() string {
	if f.phase == "connecting" {
		return "connecting"
	}
	published, handled, poisoned := f.total()
	publishedBefore, handledBefore, _ := f.before.total()
	recent := f.handle.since(f.before.handle)
	var s strings.Builder
	fmt.Fprintf(&s, "%4s  published %7s %6s/s  handled %7s %6s/s", clock(f.elapsed),
		number(published), number(int(f.rate(published, publishedBefore))),
		number(handled), number(int(f.rate(handled, handledBefore))))
	if recent.n > 0 {
		fmt.Fprintf(&s, "  p99 %s", short(recent.quantile(0.99)))
	}
	for _, x := range []struct {
		name string
		n    int
	}{
		{"open", f.open},
		{"waiting", int(f.waiting)},
		{"poison", poisoned},
		{"failed", f.failed},
		{"unacked", f.unacked},
		{"not confirmed", f.refused},
		{"bad lines", int(f.bad)},
	} {
		if x.n > 0 {
			fmt.Fprintf(&s, "  %s %s", x.name, number(x.n))
		}
	}
	if f.phase != "running" {
		s.WriteString("  " + f.phase)
	}
	return s.String()
}

// printLedger writes what became of everything.
func printLedger(out io.Writer, d *demo) {
	b := d.ledger.balance()
	bold, dim := lipgloss.NewStyle().Bold(true), lipgloss.NewStyle().Faint(true)
	good, bad := lipgloss.NewStyle().Bold(true).Foreground(lipgloss.Color("2")), lipgloss.NewStyle().Bold(true).Foreground(lipgloss.Color("1"))
	var s strings.Builder
	p := func(format string, a ...any) { fmt.Fprintf(&s, format+"\n", a...) }

	p("\n%s  %s", bold.Render("LEDGER"), dim.Render(d.durability()))
	p("")
	p("  accepted     %9s   events that the bus confirmed, handlers' own included", number(b.Accepted))
	p("  unconfirmed  %9s   may or may not have got to the broker%s", number(b.Unconfirmed), arrived(b))
	p("  refused      %9s   not accepted, and the publisher was told", number(b.Refused))
	p("")
	p("  %s", dim.Render(fmt.Sprintf("%-27s%9s%9s%9s%6s%8s%8s", "group", "expected", "handled", "poisoned", "lost", "doubled", "p99")))
	var t groupBalance
	for _, g := range b.Groups {
		p("  %s%8s", g.row(), short(g.Latency.quantile(0.99)))
		t.Expected, t.Handled, t.Poisoned = t.Expected+g.Expected, t.Handled+g.Handled, t.Poisoned+g.Poisoned
		t.Lost, t.Doubled = t.Lost+g.Lost, t.Doubled+g.Doubled
	}
	t.Name = "all"
	p("  %s", bold.Render(t.row()))
	p("")
	p("  publish      p50 %s, p99 %s", short(b.Publish.quantile(0.5)), short(b.Publish.quantile(0.99)))
	all := d.ledger.pulse().handle
	p("  to handled   p50 %s, p99 %s after the publish began", short(all.quantile(0.5)), short(all.quantile(0.99)))
	if d.talk.asked > 0 {
		p("  guardians    %s asked, %s answered, p50 %s, p99 %s", number(d.talk.asked), number(d.talk.answered),
			short(d.talk.took.quantile(0.5)), short(d.talk.took.quantile(0.99)))
	}
	for _, x := range []struct {
		n    int
		what string
	}{
		{b.Copies, "copies dropped before a handler saw them"},
		{b.Failed, "tries of handlers that failed"},
		{b.Foreign, "events of other runs or programs, handled but not counted above"},
		{int(d.traffic.dropped.Load()), "planned events never sent: the run was stopped"},
	} {
		if x.n > 0 {
			p("  %-12s %s", number(x.n), x.what)
		}
	}
	if d.input != nil {
		p("  input        %s lines published, %s skipped as wrong", number(int(d.traffic.planned.Load())), number(int(d.input.bad.Load())))
	}
	p("")
	for _, list := range []struct {
		name   string
		claims []claim
	}{{"lost", b.Lost}, {"doubled", b.Doubled}, {"handled, though refused", b.Ghosts}} {
		for i, c := range list.claims {
			if i == 5 {
				p("  and %s more %s", number(len(list.claims)-i), list.name)
				break
			}
			p("  %s: %v", list.name, c)
		}
	}
	if d.gaveUp != "" {
		p("  Waiting for consumers ended because %s: what was open then counts as lost.", d.gaveUp)
	}
	if b.Holds() {
		p("  %s", good.Render("It holds: every accepted event was dealt with once by every group it is for."))
	} else {
		p("  %s", bad.Render(fmt.Sprintf("It does not hold: %d lost, %d doubled, %d handled though refused.",
			len(b.Lost), len(b.Doubled), len(b.Ghosts))))
	}
	// Without colours where there is no terminal, or NO_COLOR is set.
	_, _ = lipgloss.Fprint(out, s.String())
}

// row is a line of the ledger's table, but for its latency.
func (g groupBalance) row() string {
	return fmt.Sprintf("%-27s%9s%9s%9s%6s%8s", g.Name,
		number(g.Expected), number(g.Handled), number(g.Poisoned), number(g.Lost), number(g.Doubled))
}

func (d *demo) durability() string {
	switch {
	case d.cfg.Backend == bus.Memory:
		return "memory: accepted until this process ends, then gone"
	case d.audit != nil && !d.audit.Durable:
		return d.where() + ": a crash of the server can lose what it confirmed"
	}
	return d.where()
}

func arrived(b balance) string {
	if b.Arrived == 0 {
		return ""
	}
	return fmt.Sprintf("; handled %s times", number(b.Arrived))
}

// number writes n with commas.
func number(n int) string {
	s := strconv.Itoa(n)
	for i := len(s) - 3; i > 0 && s[i-1] != '-'; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}

// short writes d with two digits and its unit: 85µs, 1.2ms, 30s.
func short(d time.Duration) string {
	for _, u := range []struct {
		unit time.Duration
		name string
	}{{time.Second, "s"}, {time.Millisecond, "ms"}} {
		if d < u.unit {
			continue
		}
		x := float64(d) / float64(u.unit)
		if x < 10 {
			return fmt.Sprintf("%.1f%s", x, u.name)
		}
		return fmt.Sprintf("%.0f%s", x, u.name)
	}
	if d == 0 {
		return "-"
	}
	return fmt.Sprintf("%dµs", d.Microseconds())
}

// clock writes minutes and seconds.
func clock(d time.Duration) string {
	s := int(d.Round(time.Second).Seconds())
	return fmt.Sprintf("%d:%02d", s/60, s%60)
}
