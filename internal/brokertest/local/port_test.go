//go:build unix

package local_test

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"testing"

	"github.com/aura360/eventbus/internal/brokertest/local"
)

func TestNoTwoProcessesAreGivenTheSamePort(t *testing.T) {
	const marker, every = "EVENTBUS_TEST_CHILD", 100 // half of what a process can get
	if os.Getenv(marker) != "" {
		ports, err := local.Ports(every)
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range ports {
			fmt.Println(p)
		}
		_, _ = io.Copy(io.Discard, os.Stdin) // its ports are its own while it lives
		return
	}
	dir := t.TempDir()
	owner := map[int]int{}
	for i := range 4 {
		child := exec.Command(os.Args[0], "-test.run=^"+t.Name()+"$", "-test.timeout=60s")
		child.Env = append(os.Environ(), marker+"=1", "TMPDIR="+dir)
		stdin, err := child.StdinPipe()
		if err != nil {
			t.Fatal(err)
		}
		stdout, err := child.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := child.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			_ = child.Process.Kill()
			_ = child.Wait()
			_ = stdin.Close()
		})
		for range every {
			var port int
			if _, err := fmt.Fscan(stdout, &port); err != nil {
				t.Fatalf("process %d: %v", i, err)
			}
			if o, taken := owner[port]; taken {
				t.Fatalf("port %d was given to process %d and to process %d", port, o, i)
			}
			owner[port] = i
		}
	}
}
