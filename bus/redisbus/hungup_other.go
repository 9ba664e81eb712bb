//go:build !unix

package redisbus

import (
	"net"
	"syscall"
)

// rawConn returns nil: here a connection cannot be looked at without waiting.
func rawConn(net.Conn) syscall.RawConn { return nil }

func hungUp(syscall.RawConn) bool { return false }
