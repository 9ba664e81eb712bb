package main

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	tea "charm.land/bubbletea/v2"
	"charm.land/lipgloss/v2"

	"github.com/aura360/eventbus/events/aura360"
)

// showLive draws the run in the terminal until it is over; q and ctrl-c end it
// early.
func showLive(d *demo, out io.Writer) error {
	program := tea.NewProgram(
		&view{d: d, sampler: sampler{d: d, span: 2 * time.Second}, width: 80},
		tea.WithOutput(out), tea.WithoutSignalHandler(),
	)
	_, err := program.Run()
	if err != nil {
		d.stop() // nobody could any more
		err = errors.Join(err, showPlain(d, out))
	}
	return err
}

const perFrame = 100 * time.Millisecond

// view is the program's model: a frame, and how the last minute went.
type view struct {
	d       *demo
	sampler sampler
	frame   frame
	width   int
	height  int
	speeds  []float64 // handled per second, one for each second
}

type tick time.Time

func nextTick() tea.Cmd { return tea.Tick(perFrame, func(t time.Time) tea.Msg { return tick(t) }) }

func (v *view) Init() tea.Cmd {
	v.frame = v.sampler.take(time.Now())
	return nextTick()
}

func (v *view) Update(msg tea.Msg) (tea.Model, tea.Cmd) {
	switch msg := msg.(type) {
	case tea.WindowSizeMsg:
		v.width, v.height = msg.Width, msg.Height
	case tea.KeyPressMsg:
		if s := msg.String(); s == "q" || s == "ctrl+c" {
			v.d.stop()
		}
	case tick:
		select {
		case <-v.d.done:
			return v, tea.Quit
		default:
		}
		v.frame = v.sampler.take(time.Time(msg))
		if int(v.frame.elapsed.Seconds()) > len(v.speeds) {
			_, handled, _ := v.frame.total()
			_, before, _ := v.frame.before.total()
			v.speeds = append(v.speeds, v.frame.rate(handled, before))
		}
		return v, nextTick()
	}
	return v, nil
}

var (
	faint  = lipgloss.NewStyle().Faint(true)
	accent = lipgloss.NewStyle().Foreground(lipgloss.Color("6"))
	title  = lipgloss.NewStyle().Bold(true).Foreground(lipgloss.Color("6"))
	alarm  = lipgloss.NewStyle().Bold(true).Foreground(lipgloss.Color("1"))
)

func (v *view) View() tea.View {
	screen := tea.NewView(v.text())
	screen.AltScreen = true
	screen.WindowTitle = "AURA360"
	return screen
}

func (v *view) text() string {
	f, width := v.frame, max(min(v.width, 100), 60)
	var s strings.Builder
	tight := v.height < 31 // no room for empty lines
	p := func(format string, a ...any) {
		if format == "" && tight {
			return
		}
		s.WriteString(lipgloss.NewStyle().MaxWidth(v.width).Render(" "+fmt.Sprintf(format, a...)) + "\n")
	}
	p("%s", apart(title.Render("AURA360")+strings.TrimPrefix(v.d.headline(), "AURA360"), v.status(), width-2))
	p("%s", faint.Render(v.d.note()))
	p("")
	v.types(p, f)
	p("")
	v.groups(p, f)
	p("")
	recent, sent := f.handle.since(f.before.handle), f.publish.since(f.before.publish)
	_, _, poisoned := f.total()
	p("%s p50 %-6s p99 %-6s  %s p50 %-6s p99 %-6s", faint.Render("publish"), short(sent.quantile(0.5)), short(sent.quantile(0.99)),
		faint.Render("to handled"), short(recent.quantile(0.5)), short(recent.quantile(0.99)))
	p("%s %s  %s %s  %s %s  %s %s  %s %s", faint.Render("in handlers"), number(f.inFlight), faint.Render("queued to publish"), number(int(f.waiting)),
		faint.Render("poison"), warn(poisoned), faint.Render("failed tries"), warn(f.failed), faint.Render("not confirmed"), warn(f.refused))
	p("%s %s", faint.Render("handled/s"), accent.Render(sparkline(v.speeds, width-13)))
	if f.asked > 0 {
		p("")
		p("%s %s of %s answered  %s", faint.Render("guardians"), number(f.answered), number(f.asked), accent.Render(f.question))
		p("%s", faint.Render(clip(f.reply, width-2)))
	}
	if f.trouble != "" {
		p("")
		p("%s %s", alarm.Render(number(f.troubles)+" problems, the newest:"), clip(f.trouble, width-26))
	}
	p("")
	help := "q or ctrl-c ends it early, with the ledger"
	if f.phase != "running" && f.phase != "connecting" {
		help = "waiting for consumers; q or ctrl-c again gives up"
	}
	s.WriteString(" " + faint.Render(help))
	return s.String()
}

// status says where the run is.
func (v *view) status() string {
	switch f := v.frame; {
	case f.phase == "running" && v.d.opts.length > 0:
		return fmt.Sprintf("%s of %s", clock(f.elapsed), clock(v.d.opts.length))
	case f.phase == "running":
		return clock(f.elapsed)
	case f.phase == "settling":
		return fmt.Sprintf("settling: %s open", number(f.open))
	default:
		return f.phase
	}
}

// shown are the types that the demo's parts publish, in the order of the flows.
var shown = []string{
	aura360.TypeMoodCreated, aura360.TypeActivityCreated, aura360.TypeIkigaiUpdated, aura360.TypeProfileUpdated,
	aura360.TypeContextAggregated, aura360.TypeContextVectorized,
	aura360.TypeGuardianRequest, aura360.TypeGuardianResponse, aura360.TypeGuardianResponseChunk,
}

func (v *view) types(p func(string, ...any), f frame) {
	p("%s", faint.Render(fmt.Sprintf("%-28s%11s%8s%11s%8s", "EVENT", "PUBLISHED", "/S", "HANDLED", "/S")))
	for _, t := range shown {
		c, before := f.types[t], f.before.types[t]
		handled := fmt.Sprintf("%11s%8.0f", number(c.handled), f.rate(c.handled, before.handled))
		if len(f.handlers[t]) == 0 {
			handled = faint.Render(fmt.Sprintf("%19s", "nobody handles it"))
		}
		p("%-28s%11s%8.0f%s", t, number(c.published), f.rate(c.published, before.published), handled)
	}
}

func (v *view) groups(p func(string, ...any), f frame) {
	p("%s", faint.Render(fmt.Sprintf("%-28s%11s%8s%9s%9s%9s", "GROUP", "HANDLED", "/S", "P50", "P99", "POISON")))
	for _, name := range f.order {
		c, before := f.groups[name], f.before.groups[name]
		recent := c.latency.since(before.latency)
		p("%-28s%11s%8.0f%9s%9s%9s", name, number(c.handled), f.rate(c.handled, before.handled),
			short(recent.quantile(0.5)), short(recent.quantile(0.99)), number(c.poisoned))
	}
}

// warn writes a number that should be 0.
func warn(n int) string {
	if n == 0 {
		return "0"
	}
	return alarm.Render(number(n))
}

// apart puts two texts to the ends of a line.
func apart(left, right string, width int) string {
	return left + strings.Repeat(" ", max(1, width-lipgloss.Width(left)-lipgloss.Width(right))) + right
}

// clip cuts s to a width in columns.
func clip(s string, width int) string {
	if lipgloss.Width(s) <= width {
		return s
	}
	for r := []rune(s); len(r) > 0; r = r[:len(r)-1] {
		if lipgloss.Width(string(r))+1 <= width {
			return string(r) + "…"
		}
	}
	return ""
}

// sparkline draws the newest values as bars.
func sparkline(values []float64, width int) string {
	bars := []rune("▁▂▃▄▅▆▇█")
	values = values[max(0, len(values)-width):]
	if len(values) == 0 {
		return ""
	}
	top := max(slices.Max(values), 1)
	var s strings.Builder
	for _, x := range values {
		s.WriteRune(bars[int(x/top*float64(len(bars)-1)+0.5)])
	}
	return s.String()
}
