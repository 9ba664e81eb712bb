package redisbus

import (
	"context"
	"errors"
	"fmt"
	"net"
	"syscall"
	"time"

	"github.com/aura360/eventbus/bus/driver"
)

// connection is what a line needs of one; *redisclient.Conn is it.
type connection interface {
	net.Conn
	Timeouts() (read, write time.Duration)
}

// line is a connection on which one batch at a time is sent and answered. It is
// used by one goroutine at a time: the publisher that found it free, or a worker.
type line struct {
	conn        connection // nil while there is none. Set under sender.mu
	read, write time.Duration
	raw         syscall.RawConn // nil where the connection cannot be looked at

	in    answerReader
	out   []byte     // requests put together
	spare []*request // a batch, for the next one
	reckoning
}

// connected begins to use a connection.
func (l *line) connected(c connection) {
	l.conn = c
	l.read, l.write = c.Timeouts()
	l.raw = rawConn(c)
	l.in.src, l.in.r, l.in.w = c, 0, 0
}

// send writes a batch whose requests are marked as sent. After an error every
// request is settled and the connection of no use.
func (l *line) send(batch []*request) error {
	l.reckoning = reckoning{batch: batch}
	bytes := batch[0].buf
	if len(batch) > 1 {
		l.out = l.out[:0]
		for _, r := range batch {
			l.out = append(l.out, r.buf...)
		}
		bytes = l.out
	}
	n, err := 0, l.conn.SetWriteDeadline(time.Now().Add(l.write))
	if err == nil {
		n, err = l.conn.Write(bytes)
	}
	if err == nil {
		return nil
	}
	l.fail(n, err)
	return err
}

// fail settles what has no answer: the first n bytes of the batch were written.
func (l *line) fail(n int, err error) {
	unknown := driver.Result{Outcome: driver.Unknown, Err: fmt.Errorf("the answer was lost: %w", err)}
	rejected := driver.Result{Outcome: driver.Rejected, Err: fmt.Errorf("%w: %w", driver.ErrUnavailable, err)}
	l.rest(func(bytes int) driver.Result {
		if bytes <= n {
			return unknown
		}
		return rejected
	})
}

// receive takes the answers to the batch until the connection's read deadline,
// or as long as they keep coming when it is patient. After an error that is a
// timeout it can be called again; after another the connection is of no use.
func (l *line) receive(patient bool) error {
	for !l.over() {
		if patient && !l.in.buffered() {
			if err := l.conn.SetReadDeadline(time.Now().Add(l.read)); err != nil {
				return err
			}
		}
		a, err := l.in.next()
		if err == nil {
			err = l.take(a)
		}
		if err != nil {
			return err
		}
	}
	l.reconnect = l.reconnect || l.in.buffered() // an answer to nothing
	return nil
}

// alive looks whether the server has closed the connection while it was idle, and
// sets its read deadline. What is written to such a connection is lost, and
// nobody could say so.
func (l *line) alive(deadline time.Time) bool {
	return l.conn.SetReadDeadline(deadline) == nil && (l.raw == nil || !hungUp(l.raw))
}

// interrupt ends the receive that waits, from any goroutine.
func (l *line) interrupt() { _ = l.conn.SetReadDeadline(time.Unix(1, 0)) }

// stopped is why a publisher leaves whose context ended, or is about to: its
// deadline may be noticed here first.
func stopped(ctx context.Context) error {
	if err := context.Cause(ctx); err != nil {
		return err
	}
	return context.DeadlineExceeded
}

func isTimeout(err error) bool {
	var ne net.Error
	return errors.As(err, &ne) && ne.Timeout()
}
