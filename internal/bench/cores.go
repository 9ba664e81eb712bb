package main

import "runtime"

// cores says which of the machine's cores a comparison runs on. With a broker on
// the same machine the kernel runs client and server on one core or on two, and
// changes its mind, which changes a round trip by a factor of two from one moment
// to the next. So both are measured, each held fixed for both sides, with one
// core for the client in either.
type cores int

const (
	anyCore  cores = iota // as the kernel likes
	oneCore               // client and server share one
	twoCores              // one for each, as on two machines
)

func (c cores) String() string {
	return [...]string{"any core", "one core", "two cores"}[c]
}

// place moves this process and servers to c, until restore is called.
func place(c cores, servers []int) (restore func(), err error) {
	if c == anyCore {
		return func() {}, nil
	}
	client, server := 0, 0
	if c == twoCores {
		server = 1
	}
	// Not runtime.SetDefaultGOMAXPROCS, which the next change of affinity undoes.
	procs := runtime.GOMAXPROCS(1)
	restore = func() {
		for _, pid := range servers {
			_ = pin(pid, -1)
		}
		_ = pin(0, -1)
		runtime.GOMAXPROCS(procs)
	}
	for _, pid := range servers {
		if err := pin(pid, server); err != nil {
			restore()
			return nil, err
		}
	}
	if err := pin(0, client); err != nil {
		restore()
		return nil, err
	}
	return restore, nil
}

// canPlace tells whether place can hold apart what listens at addr and this
// process, and returns the processes that listen.
func canPlace(addr string) (servers []int, ok bool) {
	if runtime.NumCPU() < 2 {
		return nil, false
	}
	servers = listeners(addr)
	return servers, len(servers) > 0
}
