//go:build unix

package brokertest_test

import (
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"runtime"
	"testing"
	"time"

	"github.com/aura360/eventbus/internal/brokertest"
)

func TestThrowAwayServerDiesWithTheTestProgram(t *testing.T) {
	const marker = "EVENTBUS_TEST_CHILD"
	if os.Getenv(marker) != "" {
		// The child: start a server, tell its address, wait to be killed.
		fmt.Printf("%s\n", brokertest.StartRedis(t, brokertest.RedisOptions{}).Addr)
		_, _ = io.Copy(io.Discard, os.Stdin)
		return
	}
	if runtime.GOOS != "linux" {
		t.Skip("only Linux ties a child to its parent")
	}
	brokertest.StartRedis(t, brokertest.RedisOptions{}).Stop() // skips where there is none

	child := exec.Command(os.Args[0], "-test.run=^"+t.Name()+"$", "-test.timeout=60s")
	child.Env = append(os.Environ(), marker+"=1", "TMPDIR="+t.TempDir()) // it is killed before it tidies up
	stdin, err := child.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	defer stdin.Close()
	stdout, err := child.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	var addr string
	_, err = fmt.Fscanln(stdout, &addr)
	_ = child.Process.Kill()
	_ = child.Wait()
	if err != nil {
		t.Fatalf("the child did not tell an address: %v", err)
	}
	// Nothing tells when another process has ended: look again and again.
	deadline := time.Now().Add(60 * time.Second)
	for range time.Tick(10 * time.Millisecond) {
		conn, err := net.DialTimeout("tcp", addr, time.Second)
		if err != nil {
			return
		}
		_ = conn.Close()
		if time.Now().After(deadline) {
			t.Fatalf("the server at %s outlived the program that started it", addr)
		}
	}
}
