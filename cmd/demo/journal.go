package main

import (
	"fmt"
	"io"
	"log/slog"
	"strings"
	"sync"
	"time"
)

// journal takes what goes wrong: the bus's log from warnings up, publishes that
// failed, lines that could not be read. It writes it at once or, under the live
// view, keeps the newest for the end. A broker that is down makes a line for
// every event: more than a few per second are only counted.
type journal struct {
	out  io.Writer
	live bool

	mu      sync.Mutex
	lines   []string // newest last
	count   int
	second  time.Time
	written int // in that second
	skipped int
}

const (
	journalKeeps     = 5
	journalPerSecond = 5
)

func newJournal(out io.Writer, live bool) *journal { return &journal{out: out, live: live} }

// logger returns a logger that writes here.
func (j *journal) logger() *slog.Logger {
	return slog.New(slog.NewTextHandler(j, &slog.HandlerOptions{
		Level: slog.LevelWarn,
		ReplaceAttr: func(groups []string, a slog.Attr) slog.Attr {
			if len(groups) == 0 && a.Key == slog.TimeKey {
				return slog.Attr{}
			}
			if err, ok := a.Value.Any().(error); ok { // some print a stack, asked for all they have
				return slog.String(a.Key, err.Error())
			}
			return a
		},
	}))
}

// Write takes one line of the log.
func (j *journal) Write(p []byte) (int, error) {
	j.note(strings.TrimSpace(string(p)))
	return len(p), nil
}

func (j *journal) note(line string) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.count++
	j.lines = append(j.lines, strings.ReplaceAll(line, "\n", " "))
	j.lines = j.lines[max(0, len(j.lines)-journalKeeps):]
	if j.live {
		return
	}
	if now := time.Now().Truncate(time.Second); now != j.second {
		j.second, j.written = now, 0
	}
	if j.written++; j.written > journalPerSecond {
		j.skipped++
		return
	}
	j.write()
}

// write writes the newest line. The caller holds the lock.
func (j *journal) write() {
	if j.skipped > 0 {
		fmt.Fprintf(j.out, "demo: %d more like these\n", j.skipped)
		j.skipped = 0
	}
	fmt.Fprintf(j.out, "demo: %s\n", j.lines[len(j.lines)-1])
}

// last returns how many lines there were, and the newest.
func (j *journal) last() (int, string) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.count == 0 {
		return 0, ""
	}
	return j.count, j.lines[len(j.lines)-1]
}

// flush writes what was kept back.
func (j *journal) flush() {
	j.mu.Lock()
	defer j.mu.Unlock()
	switch {
	case j.live && j.count > 0:
		if j.count > len(j.lines) {
			fmt.Fprintf(j.out, "demo: the last %d of %d messages:\n", len(j.lines), j.count)
		}
		for _, line := range j.lines {
			fmt.Fprintf(j.out, "demo: %s\n", line)
		}
	case j.skipped > 0:
		j.write()
	}
}
