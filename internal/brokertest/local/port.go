//go:build unix

package local

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
)

// Free ports come from below the range that outgoing connections use: a
// connection of a parallel test cannot take one between the choice and the
// server's start, or while a killed server is away. For the same reason each
// process has a block of them to itself. It gives its ports out in turn, so that
// one comes again only after all others.
const (
	firstPort = 20000
	blockSize = 200
	blocks    = 60
)

// own is the block of this process.
var own struct {
	sync.Mutex
	file *os.File // holds the lock; nil until a port is asked for
	base int      // the block's first port
	next int      // how many ports were tried, plus where in the block it began
}

// Port returns preferred if nothing listens there, or else a free port that no
// other process of this user is given while this one lives. Zero means no
// preference.
func Port(preferred int) (int, error) {
	if preferred != 0 && portFree(preferred) {
		return preferred, nil
	}
	own.Lock()
	defer own.Unlock()
	if own.file == nil {
		if err := takeBlock(); err != nil {
			return 0, err
		}
	}
	for range blockSize {
		p := own.base + own.next%blockSize
		own.next++
		if portFree(p) {
			return p, nil
		}
	}
	return 0, fmt.Errorf("no free port on %s between %d and %d", Loopback, own.base, own.base+blockSize-1)
}

// takeBlock takes the first block that no other process has: byte n of a file is
// locked by the owner of block n, until it ends, however that happens. The lock
// is of the process (fcntl): servers started by it do not inherit it.
func takeBlock() error {
	name := filepath.Join(os.TempDir(), fmt.Sprintf("eventbus-ports-%d", os.Getuid()))
	f, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return fmt.Errorf("reserve ports: %w", err)
	}
	for n := range blocks {
		lock := syscall.Flock_t{Type: syscall.F_WRLCK, Start: int64(n), Len: 1}
		err := syscall.FcntlFlock(f.Fd(), syscall.F_SETLK, &lock)
		if err == nil {
			own.file, own.base, own.next = f, firstPort+n*blockSize, rand.IntN(blockSize)
			return nil
		}
		if !errors.Is(err, syscall.EAGAIN) && !errors.Is(err, syscall.EACCES) {
			return errors.Join(fmt.Errorf("reserve ports in %s: %w", name, err), f.Close())
		}
	}
	return errors.Join(fmt.Errorf("all %d blocks of ports are taken by other processes, see %s", blocks, name), f.Close())
}

// Ports returns n free ports, all different, up to 200.
func Ports(n int) ([]int, error) {
	ports := make([]int, n)
	for i := range ports {
		var err error
		if ports[i], err = Port(0); err != nil {
			return nil, err
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
