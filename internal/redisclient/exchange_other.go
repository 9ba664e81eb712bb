//go:build !unix

package redisclient

import "net"

// Exchange returns conn: what it spares elsewhere is not to be had here.
func Exchange(conn net.Conn) net.Conn { return conn }
