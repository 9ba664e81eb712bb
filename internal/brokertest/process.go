//go:build unix

package brokertest

import (
	"syscall"
	"testing"
	"time"

	"github.com/aura360/eventbus/internal/brokertest/local"
)

// Process is a throw-away server of one test, stopped when the test ends and
// killed when the test program does. Its methods fail the test when they cannot
// do what they say; they are for one goroutine at a time.
type Process struct {
	Addr string // host:port; the same after a restart

	t      testing.TB
	name   string
	server local.Server
	proc   *local.Process
}

func startProcess(t testing.TB, name, addr string, server local.Server) *Process {
	t.Helper()
	p := &Process{Addr: addr, t: t, name: name, server: server}
	t.Cleanup(func() {
		if p.proc != nil {
			_ = p.proc.Kill()
		}
	})
	p.Start()
	return p
}

// Start starts the server again, on the same port and with the same data, and
// waits until it is ready. It does nothing if the server runs.
func (p *Process) Start() {
	p.t.Helper()
	if p.proc != nil && p.proc.Alive() {
		return
	}
	proc, err := p.server.Start(startContext(p.t), false)
	check(p.t, p.name, err)
	p.proc = proc
}

// Stop ends the server in order.
func (p *Process) Stop() {
	p.t.Helper()
	if err := p.proc.Stop(20 * time.Second); err != nil {
		p.t.Fatalf("stop %s: %v", p.server.Name, err)
	}
}

// Kill ends the server as a crash would. What it had not written is lost.
func (p *Process) Kill() {
	p.t.Helper()
	if err := p.proc.Kill(); err != nil {
		p.t.Fatalf("kill %s: %v", p.server.Name, err)
	}
}

// Restart is Stop and Start.
func (p *Process) Restart() {
	p.t.Helper()
	p.Stop()
	p.Start()
}

// Freeze makes the server hang: connections stay open, nothing answers.
func (p *Process) Freeze() { p.Signal(syscall.SIGSTOP) }

// Thaw ends a Freeze.
func (p *Process) Thaw() { p.Signal(syscall.SIGCONT) }

// Signal sends sig to the server.
func (p *Process) Signal(sig syscall.Signal) {
	p.t.Helper()
	if err := p.proc.Signal(sig); err != nil {
		p.t.Fatalf("signal %s: %v", p.server.Name, err)
	}
}

// PID is the server's process id.
func (p *Process) PID() int { return p.proc.PID }

// Dir is the server's folder, with its data, configuration and log.
func (p *Process) Dir() string { return p.server.Dir }
