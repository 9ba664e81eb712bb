package drivertest

import (
	"fmt"
	"runtime"
	"sync"
	"testing"
)

// recorder is a testing.TB that notes failures instead of failing.
type recorder struct {
	testing.TB

	mu       sync.Mutex
	failures []string
	failed   bool
	cleanups []func()
}

// expectFailure runs f and returns how it failed.
func expectFailure(t testing.TB, f func(testing.TB)) []string {
	r := &recorder{TB: t}
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer r.cleanup()
		f(r)
	}()
	<-done
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.failed && len(r.failures) == 0 {
		return []string{"without a word"}
	}
	return r.failures
}

func (r *recorder) fail(s string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.failed = true
	if s != "" {
		r.failures = append(r.failures, s)
	}
}

func (r *recorder) cleanup() {
	for {
		r.mu.Lock()
		n := len(r.cleanups) - 1
		if n < 0 {
			r.mu.Unlock()
			return
		}
		f := r.cleanups[n]
		r.cleanups = r.cleanups[:n]
		r.mu.Unlock()
		f()
	}
}

// Cleanup implements testing.TB, to run when the case has failed.
func (r *recorder) Cleanup(f func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.cleanups = append(r.cleanups, f)
}

// Error implements testing.TB.
func (r *recorder) Error(args ...any) { r.fail(fmt.Sprint(args...)) }

// Errorf implements testing.TB.
func (r *recorder) Errorf(format string, args ...any) { r.fail(fmt.Sprintf(format, args...)) }

// Fail implements testing.TB.
func (r *recorder) Fail() { r.fail("") }

// FailNow implements testing.TB.
func (r *recorder) FailNow() {
	r.fail("")
	runtime.Goexit()
}

// Fatal implements testing.TB.
func (r *recorder) Fatal(args ...any) {
	r.fail(fmt.Sprint(args...))
	runtime.Goexit()
}

// Fatalf implements testing.TB.
func (r *recorder) Fatalf(format string, args ...any) {
	r.fail(fmt.Sprintf(format, args...))
	runtime.Goexit()
}

// Failed implements testing.TB.
func (r *recorder) Failed() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.failed
}
