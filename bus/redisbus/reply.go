package redisbus

import (
	"errors"
	"fmt"
	"io"
	"strconv"

	"github.com/redis/go-redis/v9"
)

// Replies with entries are read as they come from the connection, and taken
// apart here: go-redis makes a map and a dozen values of each entry, which takes
// longer than all the rest of reading.

// replyBuffer takes a raw reply. It is an io.ReaderFrom, so that go-redis copies
// into it what it has read.
type replyBuffer struct{ b []byte }

// keptReplyBytes is the most room that is kept between replies.
const keptReplyBytes = 4 << 20

func (r *replyBuffer) reset() {
	if cap(r.b) > keptReplyBytes {
		r.b = nil
	}
	r.b = r.b[:0]
}

// Write implements io.Writer.
func (r *replyBuffer) Write(p []byte) (int, error) {
	r.b = append(r.b, p...)
	return len(p), nil
}

// ReadFrom implements io.ReaderFrom. go-redis limits src to one value.
func (r *replyBuffer) ReadFrom(src io.Reader) (int64, error) {
	limited, ok := src.(*io.LimitedReader)
	if !ok {
		n, err := io.Copy(writer{r}, src)
		return n, err
	}
	from, n := len(r.b), int(limited.N)
	if cap(r.b)-from < n {
		grown := make([]byte, from, max(2*cap(r.b), from+n))
		copy(grown, r.b)
		r.b = grown
	}
	got, err := io.ReadFull(limited.R, r.b[from:from+n])
	limited.N -= int64(got)
	r.b = r.b[:from+got]
	return int64(got), err
}

// writer hides ReadFrom.
type writer struct{ io.Writer }

var errReply = errors.New("the server's answer is not understood")

// replyError is an error that the server sent within a reply.
type replyError string

func (e replyError) Error() string { return string(e) }

// RedisError marks it as what the server said (redis.Error).
func (replyError) RedisError() {}

var _ redis.Error = replyError("")

// reply reads RESP2 values from the front of b.
type reply struct{ b []byte }

// line takes the next line: the kind of the value, and what stands behind it.
func (r *reply) line() (kind byte, rest []byte, err error) {
	for i := 1; i+1 < len(r.b); i++ {
		if r.b[i] == '\r' {
			kind, rest = r.b[0], r.b[1:i]
			r.b = r.b[i+2:]
			return kind, rest, nil
		}
	}
	return 0, nil, errReply
}

// array takes the head of an array. n is -1 for null, of whatever kind; an error
// of the server is returned as such.
func (r *reply) array() (n int, err error) {
	kind, rest, err := r.line()
	if err != nil {
		return 0, err
	}
	switch kind {
	case '*':
	case '$':
		if string(rest) != "-1" {
			return 0, fmt.Errorf("%w: a string instead of an array", errReply)
		}
	case '-':
		return 0, replyError(rest)
	default:
		return 0, fmt.Errorf("%w: %q instead of an array", errReply, kind)
	}
	if n, err = strconv.Atoi(string(rest)); err != nil || n < -1 {
		return 0, errReply
	}
	return n, nil
}

// bulk takes a string, which is part of the buffer.
func (r *reply) bulk() ([]byte, error) {
	kind, rest, err := r.line()
	if err != nil {
		return nil, err
	}
	if kind != '$' {
		return nil, fmt.Errorf("%w: %q instead of a string", errReply, kind)
	}
	n := 0
	for _, c := range rest {
		if c < '0' || c > '9' || n > len(r.b) {
			return nil, errReply
		}
		n = n*10 + int(c-'0')
	}
	if len(r.b) < n+2 {
		return nil, errReply
	}
	b := r.b[:n:n]
	r.b = r.b[n+2:]
	return b, nil
}

// entries takes an array of entries. each is called with the fields of one, nil
// when it was deleted; they are parts of the buffer.
func (r *reply) entries(each func(id streamID, fields [][]byte)) error {
	n, err := r.array()
	if err != nil {
		return err
	}
	var fields [][]byte
	for range n {
		parts, err := r.array()
		if err != nil {
			return err
		}
		if parts == -1 { // XCLAIM before Redis 7, of one that was deleted
			continue
		}
		if parts != 2 {
			return errReply
		}
		b, err := r.bulk()
		if err != nil {
			return err
		}
		id, ok := parseID(b)
		if !ok {
			return errReply
		}
		values, err := r.array()
		if err != nil {
			return err
		}
		if values == -1 {
			each(id, nil)
			continue
		}
		if fields = fields[:0]; fields == nil {
			fields = make([][]byte, 0, 8)
		}
		for range values {
			b, err := r.bulk()
			if err != nil {
				return err
			}
			fields = append(fields, b)
		}
		each(id, fields)
	}
	return nil
}

// streams takes what XREAD and XREADGROUP answer: null, or a list of streams with
// their entries. each takes the entries.
func (r *reply) streams(each func(stream string) error) error {
	n, err := r.array()
	if err != nil {
		return err
	}
	for range n {
		if parts, err := r.array(); err != nil || parts != 2 {
			return errors.Join(errReply, err)
		}
		name, err := r.bulk()
		if err != nil {
			return err
		}
		if err := each(string(name)); err != nil {
			return err
		}
	}
	return nil
}
