//go:build unix

package redisbus_test

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/aura360/eventbus/bus/driver"
	"github.com/aura360/eventbus/internal/brokertest"
)

const (
	memberURL   = "EVENTBUS_TEST_MEMBER_URL"
	memberTopic = "EVENTBUS_TEST_MEMBER_TOPIC"
)

// TestMemberProcess is no test, but the other process of the one below: a member
// that says what it gets. It acks all but what it is told to hold.
func TestMemberProcess(t *testing.T) {
	url, topic := os.Getenv(memberURL), os.Getenv(memberTopic)
	if url == "" {
		t.Skip("run by TestNativeOwnerThatWasStoppedTakesNothing")
	}
	n := native(t, url, 1)
	ch := subscribe(t, subscriber(t, n, "g"), topic)
	for m := range ch {
		fmt.Println("got", string(m.Payload))
		if string(m.Payload) != "held" {
			driver.Settle(m, true)
		}
	}
}

// A process that is stopped while it owns a partition, and goes on long after
// another has taken it over, gets nothing that the other got.
func TestNativeOwnerThatWasStoppedTakesNothing(t *testing.T) {
	r := brokertest.StartRedis(t, brokertest.RedisOptions{Fsync: "no"})
	n, topic := native(t, r.URL, 1), brokertest.Name(t, "topic")
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run", "^TestMemberProcess$", "-test.v")
	cmd.Env = append(os.Environ(), memberURL+"="+r.URL, memberTopic+"="+topic)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	said := make(chan string, 1000)
	read := make(chan struct{})
	go func() {
		defer close(read)
		for lines := bufio.NewScanner(out); lines.Scan(); {
			if what, ok := strings.CutPrefix(lines.Text(), "got "); ok {
				said <- what
			}
		}
	}()
	defer func() {
		_ = cmd.Process.Kill()
		<-read
		_ = cmd.Wait()
	}()
	hear := func(want string) {
		t.Helper()
		select {
		case got := <-said:
			if got != want {
				t.Fatalf("the other process got %q, want %q", got, want)
			}
		case <-time.After(wait):
			t.Fatalf("the other process did not get %q", want)
		}
	}

	publishKeyed(t, n, topic, keyed("a", "1"), keyed("b", "held"))
	hear("1")
	hear("held")
	untilPending(t, client(t, r.URL), topic, "g", 1)
	if err := cmd.Process.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	untilStopped(t, cmd.Process.Pid)
	publishKeyed(t, n, topic, keyed("a", "2"), keyed("b", "3"))
	s := subscriber(t, n, "g")
	ch := subscribe(t, s, topic)
	takeSet(t, ch, "2", "3", "held")
	held := keyed("c", "4")
	publishKeyed(t, n, topic, held, keyed("c", "5"))
	m := next(t, ch) // it stays here until the other has looked
	if err := cmd.Process.Signal(syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	// The other finds itself without the partition, and is then, as the one that
	// joined first, given it back, when nothing is in flight here.
	m.Ack()
	noted(t, m)
	publishKeyed(t, n, topic, keyed("d", "6"))
	got := map[string]int{}
	for len(got) < 2 {
		select {
		case m := <-ch:
			got[string(m.Payload)]++
			m.Ack()
		case what := <-said:
			got[what]++
		case <-time.After(wait):
			t.Fatalf("only %v", got)
		}
	}
	if got["5"] != 1 || got["6"] != 1 {
		t.Errorf("after the other went on: %v, want 5 and 6 once each", got)
	}
}

// untilStopped waits until every thread of a process has stopped: the signal only
// asks for it, and one that still runs may read and ack what is published next.
func untilStopped(t *testing.T, pid int) {
	t.Helper()
	until(t, func() error {
		threads, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", pid))
		if err != nil {
			return err
		}
		for _, stat := range threads {
			b, err := os.ReadFile(stat)
			if err != nil {
				return err
			}
			// The state follows the name, which is in parentheses: proc(5).
			if _, state, _ := strings.Cut(string(b), ") "); !strings.HasPrefix(state, "T") {
				return fmt.Errorf("a thread is in state %.1s", state)
			}
		}
		return nil
	})
}
