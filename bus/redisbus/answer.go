package redisbus

import (
	"bytes"
	"errors"
	"io"
	"strconv"
)

// answer is one reply of the server, or the head of an array, whose elements are
// the answers that follow.
type answer struct {
	kind byte   // '+', '-', ':', '$' or '*', as in RESP
	n    int    // length of a string or an array, -1 for null; the value of ':'
	text string // of an error
}

const (
	answerBuffer  = 16 << 10
	longestAnswer = 1 << 20
)

var errGarbled = errors.New("the server's answer is not RESP2")

// answerReader reads answers. A read that fails loses nothing: the next goes on
// where it was, so that a deadline is no end.
type answerReader struct {
	src  io.Reader
	buf  []byte
	r, w int // what was read and not taken is buf[r:w]
}

// next returns the next answer and waits for it.
func (a *answerReader) next() (answer, error) {
	for {
		ans, size, err := parseAnswer(a.buf[a.r:a.w])
		if err != nil {
			return answer{}, err
		}
		if size > 0 {
			a.r += size
			return ans, nil
		}
		if err := a.fill(); err != nil {
			return answer{}, err
		}
	}
}

// buffered tells that there is something to take without waiting.
func (a *answerReader) buffered() bool { return a.r < a.w }

func (a *answerReader) fill() error {
	switch {
	case a.r == a.w:
		a.r, a.w = 0, 0
	case a.w == len(a.buf) && a.r > 0:
		a.w = copy(a.buf, a.buf[a.r:a.w])
		a.r = 0
	case a.w == len(a.buf) && a.w >= longestAnswer:
		return errGarbled
	}
	if a.w == len(a.buf) {
		a.buf = append(a.buf, make([]byte, max(answerBuffer, len(a.buf)))...)
	}
	n, err := a.src.Read(a.buf[a.w:])
	a.w += n
	if n > 0 {
		return nil
	}
	return err
}

// parseAnswer reads the answer that b begins with. Its size is 0 when b does not
// hold the whole of it.
func parseAnswer(b []byte) (a answer, size int, err error) {
	end := bytes.IndexByte(b, '\n')
	if end < 0 {
		return answer{}, 0, nil
	}
	if end < 2 || b[end-1] != '\r' {
		return answer{}, 0, errGarbled
	}
	a.kind = b[0]
	line, size := b[1:end-1], end+1
	switch a.kind {
	case '+':
		return a, size, nil
	case '-':
		a.text = string(line)
		return a, size, nil
	case ':', '$', '*':
		if a.n, err = strconv.Atoi(string(line)); err != nil {
			return answer{}, 0, errGarbled
		}
	default:
		return answer{}, 0, errGarbled
	}
	if a.kind == '$' && a.n >= 0 {
		if size += a.n + 2; size > len(b) {
			return answer{}, 0, nil
		}
	}
	return a, size, nil
}
