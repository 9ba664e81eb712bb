package main

import (
	"net"
	"os"
	"runtime"
	"slices"
	"testing"

	"golang.org/x/sys/unix"
)

func TestListenersFindsWhoListens(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if got := listeners(l.Addr().String()); !slices.Equal(got, []int{os.Getpid()}) {
		t.Errorf("listeners of our own port: %v, want this process %d", got, os.Getpid())
	}
	if got := listeners("192.0.2.1:6379"); got != nil {
		t.Errorf("listeners at another machine: %v, want none", got)
	}
}

func TestPlaceHoldsEveryThreadOnItsCoreAndLetsGo(t *testing.T) {
	if runtime.NumCPU() < 2 {
		t.Skip("one core")
	}
	procs := runtime.GOMAXPROCS(0)
	restore, err := place(twoCores, nil)
	if err != nil {
		t.Fatal(err)
	}
	var set unix.CPUSet
	onCore := make(chan int)
	go func() {
		runtime.LockOSThread()
		_ = unix.SchedGetaffinity(0, &set)
		onCore <- set.Count()
	}()
	if n := <-onCore; n != 1 || !set.IsSet(0) || runtime.GOMAXPROCS(0) != 1 {
		t.Errorf("a thread may run on %d cores, GOMAXPROCS %d, want core 0 alone and 1", n, runtime.GOMAXPROCS(0))
	}
	restore()
	if err := unix.SchedGetaffinity(0, &set); err != nil || set.Count() < 2 || runtime.GOMAXPROCS(0) != procs {
		t.Errorf("after restore: %d cores, %v, GOMAXPROCS %d, want all and %d", set.Count(), err, runtime.GOMAXPROCS(0), procs)
	}
}
