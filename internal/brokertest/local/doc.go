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
	"fmt"
	"math/rand/v2"
	"net"
	"strconv"
)

// Loopback is the address every server listens on.
const Loopback = "127.0.0.1"

// Addr is the address of port on the loopback interface.
func Addr(port int) string { return net.JoinHostPort(Loopback, strconv.Itoa(port)) }

// Port returns preferred if nothing listens there, or else a free port. Zero
// means no preference.
//
// Free ports come from below the range that outgoing connections use: a
// connection of a parallel test cannot take one between here and the server's
// start, or while a killed server is away.
func Port(preferred int) (int, error) {
	if preferred != 0 && portFree(preferred) {
		return preferred, nil
	}
	for range 200 {
		if p := 20000 + rand.IntN(12000); portFree(p) {
			return p, nil
		}
	}
	return 0, fmt.Errorf("no free port on %s between 20000 and 31999", Loopback)
}

// Ports returns n distinct free ports.
func Ports(n int) ([]int, error) {
	seen := make(map[int]bool, n)
	ports := make([]int, 0, n)
	for len(ports) < n {
		p, err := Port(0)
		if err != nil {
			return nil, err
		}
		if !seen[p] {
			seen[p] = true
			ports = append(ports, p)
		}
	}
	return ports, nil
}

func portFree(port int) bool {
	l, err := net.Listen("tcp", net.JoinHostPort("", strconv.Itoa(port)))
	if err != nil {
		return false
	}
	return l.Close() == nil
}
