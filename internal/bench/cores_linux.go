package main

import (
	"bufio"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// pin keeps every thread of a process (0: this one) on one core; -1 lets it run
// on all. Threads that are made later inherit it from the thread that makes them.
func pin(pid, core int) error {
	var set unix.CPUSet
	set.Zero()
	if core >= 0 {
		set.Set(core)
	} else {
		set.Fill()
	}
	dir := "/proc/self/task"
	if pid != 0 {
		dir = fmt.Sprintf("/proc/%d/task", pid)
	}
	done := map[string]bool{}
	for more := true; more; { // until no thread is new
		more = false
		threads, err := os.ReadDir(dir)
		if err != nil {
			return err
		}
		for _, t := range threads {
			if done[t.Name()] {
				continue
			}
			done[t.Name()], more = true, true
			tid, err := strconv.Atoi(t.Name())
			if err != nil {
				return err
			}
			if err := unix.SchedSetaffinity(tid, &set); err != nil && !errors.Is(err, unix.ESRCH) {
				return fmt.Errorf("keep thread %d of process %d on core %d: %w", tid, pid, core, err)
			}
		}
	}
	return nil
}

// listeners returns the processes of this machine that listen at addr's port;
// none when the address is another machine's.
func listeners(addr string) (pids []int) {
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return nil
	}
	if ip := net.ParseIP(host); host != "localhost" && !ip.IsLoopback() {
		return nil
	}
	n, err := strconv.Atoi(port)
	if err != nil {
		return nil
	}
	sockets := map[string]bool{}
	for _, table := range []string{"/proc/net/tcp", "/proc/net/tcp6"} {
		f, err := os.Open(table)
		if err != nil {
			continue
		}
		for lines := bufio.NewScanner(f); lines.Scan(); {
			// sl local_address rem_address st ... uid timeout inode: proc(5)
			field := strings.Fields(lines.Text())
			if len(field) > 9 && field[3] == "0A" && strings.HasSuffix(field[1], fmt.Sprintf(":%04X", n)) {
				sockets["socket:["+field[9]+"]"] = true
			}
		}
		_ = f.Close()
	}
	open, _ := filepath.Glob("/proc/[0-9]*/fd/*")
	for _, fd := range open {
		if to, err := os.Readlink(fd); err != nil || !sockets[to] {
			continue
		}
		if pid, err := strconv.Atoi(strings.Split(fd, "/")[2]); err == nil && !slices.Contains(pids, pid) {
			pids = append(pids, pid)
		}
	}
	return pids
}
