package main

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"sync/atomic"
	"time"

	"github.com/aura360/eventbus/events"
)

// input reads mood entries as JSON Lines, in the fields of POST /mood-entries,
// instead of the generator.
type input struct {
	lines  *bufio.Reader
	name   string
	rate   float64
	report func(string)

	line int
	good int
	bad  atomic.Int64
}

const maxLine = 1 << 20

// next returns the next good line, rate of them per second. A bad one is
// reported, counted and skipped.
func (in *input) next() (planned, bool) {
	for {
		text, err := in.readLine()
		switch {
		case errors.Is(err, io.EOF):
			return planned{}, false
		case err == nil && len(bytes.TrimSpace(text)) == 0:
			continue
		case err != nil && !errors.Is(err, errLongLine):
			in.complain(err)
			return planned{}, false
		}
		var e events.Event
		if err == nil {
			e, err = moodLine(text)
		}
		if err != nil {
			in.complain(err)
			continue
		}
		in.good++
		return planned{time.Duration(float64(in.good-1) / in.rate * float64(time.Second)), e}, true
	}
}

func moodLine(text []byte) (events.Event, error) {
	m, err := decodeJSON[moodEntry](bytes.NewReader(text))
	if err != nil {
		return nil, err
	}
	return m.event()
}

var errLongLine = fmt.Errorf("line: want at most %d bytes", maxLine)

// readLine returns the next line. One that is too long is read to its end, and
// is an error.
func (in *input) readLine() ([]byte, error) {
	in.line++
	var line []byte
	long := false
	for {
		part, more, err := in.lines.ReadLine()
		if err != nil {
			return nil, err
		}
		if long = long || len(line)+len(part) > maxLine; !long {
			line = append(line, part...)
		}
		if more {
			continue
		}
		if long {
			return nil, errLongLine
		}
		return line, nil
	}
}

func (in *input) complain(err error) {
	in.bad.Add(1)
	in.report(fmt.Sprintf("%s:%d: %v", in.name, in.line, err))
}
