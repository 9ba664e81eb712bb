//go:build unix

package redisclient

import (
	"errors"
	"io"
	"net"
	"os"
	"syscall"
	"time"
)

// maxHeldBack bounds what Exchange holds back: a larger write goes out at once.
const maxHeldBack = 64 << 10

// freshFor is how long after an answer a connection passes for alive. Whoever
// asks later looks.
const freshFor = time.Millisecond

// Exchange returns conn as one on which every write is followed by a read of its
// answer, by one goroutine at a time: then half of the system's calls can be
// spared. conn itself is returned when it is not a plain TCP or Unix connection.
//
//   - A write is held back until the read that follows it. Reading first, as
//     package net does, never finds the answer: it cannot be there yet. Here the
//     read begins with the write, and the first look is when the kernel says that
//     there is something.
//   - A deadline that moves on is not set again each time, only after the one that
//     is set has passed.
//   - go-redis looks at the socket before each command, to find out that the
//     server has closed it; here not when an answer came within the last millisecond.
func Exchange(conn net.Conn) net.Conn {
	switch conn.(type) {
	case *net.TCPConn, *net.UnixConn:
	default:
		return conn
	}
	raw, err := conn.(syscall.Conn).SyscallConn()
	if err != nil {
		return conn
	}
	c := &exchange{Conn: conn, raw: raw, fresh: alive{raw}}
	c.step = c.exchange
	return c
}

type exchange struct {
	net.Conn
	raw   syscall.RawConn
	fresh syscall.RawConn       // raw, without looking
	step  func(fd uintptr) bool // c.exchange, bound once

	out      []byte    // held back
	answered time.Time // when something was read last

	// What the caller set, and what the connection has: the same or earlier.
	read, write deadline

	// One exchange, between Read and step.
	in   []byte
	n    int
	sent int
	err  error
	half bool // the kernel took a part of out only
}

// deadline is one direction's.
type deadline struct{ want, set time.Time }

// move takes the caller's deadline, and tells whether the connection must have it
// at once.
func (d *deadline) move(t time.Time) bool {
	d.want = t
	if d.set.IsZero() && t.IsZero() || !d.set.IsZero() && (t.IsZero() || !t.Before(d.set)) {
		return false
	}
	d.set = t
	return true
}

// early tells that err comes from a deadline that the caller has moved since.
func (d *deadline) early(err error) bool {
	return errors.Is(err, os.ErrDeadlineExceeded) && d.set != d.want && (d.want.IsZero() || time.Now().Before(d.want))
}

func (c *exchange) SetReadDeadline(t time.Time) error {
	if c.read.move(t) {
		return c.Conn.SetReadDeadline(t)
	}
	return nil
}

func (c *exchange) SetWriteDeadline(t time.Time) error {
	if c.write.move(t) {
		return c.Conn.SetWriteDeadline(t)
	}
	return nil
}

func (c *exchange) SetDeadline(t time.Time) error {
	return errors.Join(c.SetReadDeadline(t), c.SetWriteDeadline(t))
}

// Write holds b back, or sends it after what was held back.
func (c *exchange) Write(b []byte) (int, error) {
	if len(c.out)+len(b) <= maxHeldBack {
		c.out = append(c.out, b...)
		return len(b), nil
	}
	if err := c.flush(0); err != nil {
		return 0, err
	}
	return c.send(b)
}

// flush sends what was held back, from byte number from.
func (c *exchange) flush(from int) error {
	b := c.out[from:]
	c.out = c.out[:0]
	if len(b) == 0 {
		return nil
	}
	_, err := c.send(b)
	return err
}

func (c *exchange) send(b []byte) (sent int, err error) {
	for {
		n, err := c.Conn.Write(b[sent:])
		if sent += n; err == nil || !c.write.early(err) {
			return sent, err
		}
		c.write.set = c.write.want
		if err := c.Conn.SetWriteDeadline(c.write.want); err != nil {
			return sent, err
		}
	}
}

// Read sends what was held back and waits for the answer.
func (c *exchange) Read(b []byte) (int, error) {
	if len(b) == 0 {
		return 0, nil
	}
	c.in, c.n, c.sent, c.err, c.half = b, 0, 0, nil, false
	for {
		err := c.raw.Read(c.step)
		switch {
		case err != nil && c.read.early(err):
			c.read.set = c.read.want
			if err = c.Conn.SetReadDeadline(c.read.want); err == nil {
				continue
			}
		case err == nil && c.half: // package net knows how to wait for room
			c.half = false
			if err = c.flush(c.sent); err == nil {
				continue
			}
		}
		c.in, c.out = nil, c.out[:0]
		if err == nil {
			err = c.err
		}
		if err == nil && c.n == 0 {
			err = io.EOF
		}
		c.answered = time.Now()
		return c.n, err
	}
}

// exchange is called by the runtime until it returns true: at once, and again
// whenever there may be something to read. It does not block.
func (c *exchange) exchange(fd uintptr) bool {
	if c.sent < len(c.out) {
		for {
			n, err := syscall.Write(int(fd), c.out[c.sent:])
			if err == syscall.EINTR {
				continue
			}
			if n > 0 {
				c.sent += n
			}
			if err != nil && err != syscall.EAGAIN {
				c.err = os.NewSyscallError("write", err)
				return true
			}
			c.half = c.sent < len(c.out)
			return c.half
		}
	}
	for {
		n, err := syscall.Read(int(fd), c.in)
		switch err {
		case syscall.EINTR:
			continue
		case syscall.EAGAIN:
			return false
		case nil:
			c.n = n
		default:
			c.err = os.NewSyscallError("read", err)
		}
		return true
	}
}

// SyscallConn is what go-redis looks through.
func (c *exchange) SyscallConn() (syscall.RawConn, error) {
	if time.Since(c.answered) < freshFor {
		return c.fresh, nil
	}
	if !c.read.set.IsZero() { // it may have passed, and then nobody may look
		c.read.set = time.Time{}
		if err := c.Conn.SetReadDeadline(time.Time{}); err != nil {
			return nil, err
		}
	}
	return c.raw, nil
}

// alive is a connection that nobody looks at.
type alive struct{ syscall.RawConn }

func (alive) Read(func(fd uintptr) bool) error { return nil }
