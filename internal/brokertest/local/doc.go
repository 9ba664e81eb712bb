//go:build unix

// Package local runs real Kafka and Redis servers as processes of this machine.
//
// It writes their configuration, starts them, waits until they answer, and
// stops them. It installs nothing: redis-server must be on the PATH, Kafka's
// jars in the cache (see [KafkaLibs]); scripts/brokers puts both there. Servers
// listen on 127.0.0.1 only.
//
// A server is started in one of two ways. A detached one outlives the program
// that started it and is found again by its process id (scripts/brokers up).
// Any other dies with the program, however that ends (throw-away servers of a
// test).
package local

import (
	"net"
	"strconv"
)

// Loopback is the address every server listens on.
const Loopback = "127.0.0.1"

// Addr is the address of port on the loopback interface.
func Addr(port int) string { return net.JoinHostPort(Loopback, strconv.Itoa(port)) }
