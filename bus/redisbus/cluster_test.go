package redisbus_test

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/aura360/eventbus/bus/driver"
)

// hangsUp is a Cluster of one node that hangs up when it has read an XADD or an
// XREADGROUP, as a node does that crashes before it answers.
type hangsUp struct {
	listener net.Listener
	xadds    atomic.Int64
	readers  chan string // consumer of each XREADGROUP
	serving  sync.WaitGroup
}

func startHangsUp(t *testing.T) *hangsUp {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	h := &hangsUp{listener: l, readers: make(chan string, 100)}
	h.serving.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			h.serving.Go(func() { h.serve(c) })
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
		h.serving.Wait()
	})
	return h
}

func (h *hangsUp) serve(c net.Conn) {
	defer c.Close()
	r := bufio.NewReader(c)
	for {
		cmd, err := readCommand(r)
		if err != nil {
			return
		}
		reply := "+OK\r\n"
		switch strings.ToUpper(cmd[0]) {
		case "XADD":
			h.xadds.Add(1)
			return
		case "XREADGROUP": // GROUP group consumer ...
			select {
			case h.readers <- cmd[3]:
			default:
			}
			return
		case "TYPE":
			reply = "+stream\r\n"
		case "XPENDING":
			reply = "*0\r\n"
		case "HELLO":
			reply = "-ERR unknown command\r\n"
		case "CLUSTER":
			reply = fmt.Sprintf("*1\r\n*3\r\n:0\r\n:16383\r\n*3\r\n$9\r\n127.0.0.1\r\n:%d\r\n$2\r\nid\r\n", h.listener.Addr().(*net.TCPAddr).Port)
		}
		if _, err := io.WriteString(c, reply); err != nil {
			return
		}
	}
}

// readCommand reads an array of bulk strings.
func readCommand(r *bufio.Reader) ([]string, error) {
	n, err := readLength(r)
	if err != nil {
		return nil, err
	}
	cmd := make([]string, n)
	for i := range cmd {
		n, err := readLength(r)
		if err != nil {
			return nil, err
		}
		b := make([]byte, n+2)
		if _, err := io.ReadFull(r, b); err != nil {
			return nil, err
		}
		cmd[i] = string(b[:n])
	}
	return cmd, nil
}

func readLength(r *bufio.Reader) (int, error) {
	line, err := r.ReadString('\n')
	if err != nil {
		return 0, err
	}
	return strconv.Atoi(strings.TrimSpace(line[1:]))
}

// go-redis's Cluster client sends a command again, on its own, when the
// connection fails after it was sent.
func TestTheClusterClientSendsNothingTwice(t *testing.T) {
	h := startHangsUp(t)
	b := open(t, creating("redis+cluster://"+h.listener.Addr().String()))
	if got := outcome(t, b.Publish(t.Context(), "topic", one())); got.Outcome != driver.Unknown {
		t.Errorf("got %v %v, want unknown", got.Outcome, got.Err)
	}
	if n := h.xadds.Load(); n != 1 {
		t.Errorf("the node read %d XADD, want 1", n)
	}
}

// An entry whose delivery was lost is pending for the consumer that asked. Were
// that one to read on, nobody would ever get it.
func TestAReadThatTheClusterClientLostIsNotRepeatedUnderTheSameName(t *testing.T) {
	h := startHangsUp(t)
	b := open(t, creating("redis+cluster://"+h.listener.Addr().String()))
	subscribe(t, subscriber(t, b, "g"), "topic")
	seen := map[string]bool{}
	for range 3 {
		select {
		case name := <-h.readers:
			if seen[name] {
				t.Fatalf("%s read again", name)
			}
			seen[name] = true
		case <-time.After(wait):
			t.Fatal("no XREADGROUP")
		}
	}
}
