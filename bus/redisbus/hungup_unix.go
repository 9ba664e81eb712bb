//go:build unix

package redisbus

import (
	"errors"
	"net"
	"os"
	"syscall"
)

// rawConn returns what hungUp needs, nil where there is none.
func rawConn(c net.Conn) syscall.RawConn {
	if u, ok := c.(interface{ NetConn() net.Conn }); ok { // our own wrapper
		c = u.NetConn()
	}
	sc, ok := c.(syscall.Conn)
	if !ok { // TLS, where bytes that wait may be of the protocol itself
		return nil
	}
	raw, err := sc.SyscallConn()
	if err != nil {
		return nil
	}
	return raw
}

// hungUp tells that the other side closed the connection, or sent what nobody
// asked for. It does not wait.
func hungUp(raw syscall.RawConn) bool {
	var up bool
	err := raw.Read(func(fd uintptr) bool {
		var b [1]byte
		_, _, err := syscall.Recvfrom(int(fd), b[:], syscall.MSG_PEEK|syscall.MSG_DONTWAIT)
		up = err == syscall.EAGAIN || err == syscall.EWOULDBLOCK
		return true
	})
	if errors.Is(err, os.ErrDeadlineExceeded) { // this goroutine was held up for long
		return false
	}
	return err != nil || !up
}
