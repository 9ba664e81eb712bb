//go:build unix

package local

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"
)

// Server says how to start one server and how to tell that it is ready.
type Server struct {
	Name string   // for messages
	Argv []string // program and arguments
	Dir  string   // its folder: data, configuration and log
	Log  string   // file its output is appended to

	// Ready returns nil once the server answers. It is called again and again
	// until then, each time with a context that ends soon.
	Ready func(context.Context) error
}

// Process is a running server.
type Process struct {
	PID   int    // process id
	Birth string // tells the process from a later one with the same id

	server Server
	exited chan struct{} // closed when the process was reaped; nil for one of another program
}

// Start starts s and waits until it is ready or ctx ends. Detached, it outlives
// this program; otherwise it is killed when this program ends.
func (s Server) Start(ctx context.Context, detached bool) (*Process, error) {
	log, err := os.OpenFile(s.Log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", s.Name, err)
	}
	defer log.Close()
	cmd := exec.Command(s.Argv[0], s.Argv[1:]...)
	cmd.Dir, cmd.Stdout, cmd.Stderr = s.Dir, log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if !detached {
		dieWithParent(cmd.SysProcAttr)
	}

	p := &Process{server: s, exited: make(chan struct{})}
	started := make(chan error)
	go func() {
		// The kernel ties "die with the parent" to the thread that started the
		// child, so that thread must live as long as the child does.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		started <- err
		if err == nil {
			_ = cmd.Wait()
		}
		close(p.exited)
	}()
	if err := <-started; err != nil {
		return nil, fmt.Errorf("start %s: %w", s.Name, err)
	}
	p.PID = cmd.Process.Pid
	p.Birth = birth(p.PID)
	if err := p.WaitReady(ctx); err != nil {
		_ = p.Kill()
		return nil, err
	}
	return p, nil
}

// Attach returns the process with the given id, or nil if it is gone.
func Attach(pid int, born string) *Process {
	p := &Process{PID: pid, Birth: born}
	if pid <= 0 || !p.Alive() {
		return nil
	}
	return p
}

// WaitReady waits until the server answers, exits, or ctx ends.
func (p *Process) WaitReady(ctx context.Context) error {
	s := p.server
	var last error
	for {
		try, cancel := context.WithTimeout(ctx, 3*time.Second)
		err := s.Ready(try)
		cancel()
		if err == nil {
			return nil
		}
		if ctx.Err() == nil || last == nil {
			last = err
		}
		select {
		case <-p.exited:
			return fmt.Errorf("%s exited while starting:\n%s", s.Name, tail(s.Log))
		case <-ctx.Done():
			return fmt.Errorf("%s not ready in time (%w); its log ends:\n%s", s.Name, last, tail(s.Log))
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// Alive tells whether the process still runs.
func (p *Process) Alive() bool {
	if p.exited != nil {
		select {
		case <-p.exited:
			return false
		default:
			return true
		}
	}
	return syscall.Kill(p.PID, 0) == nil && birth(p.PID) == p.Birth
}

// Signal sends sig; SIGSTOP freezes the server, SIGCONT thaws it.
func (p *Process) Signal(sig syscall.Signal) error {
	if !p.Alive() {
		return os.ErrProcessDone
	}
	return syscall.Kill(p.PID, sig)
}

// Stop asks the server to end, and kills it if it has not after patience.
func (p *Process) Stop(patience time.Duration) error {
	if err := p.Signal(syscall.SIGTERM); err != nil {
		return ignoreDone(err)
	}
	_ = p.Signal(syscall.SIGCONT) // a frozen one would not see the request
	if p.wait(patience) {
		return nil
	}
	return p.Kill()
}

// Kill ends the server at once, as a crash would, and waits until it is gone.
func (p *Process) Kill() error {
	if err := p.Signal(syscall.SIGKILL); err != nil {
		return ignoreDone(err)
	}
	if !p.wait(10 * time.Second) {
		return fmt.Errorf("process %d did not end in 10s after SIGKILL", p.PID)
	}
	return nil
}

func (p *Process) wait(d time.Duration) bool {
	for deadline := time.Now().Add(d); p.Alive(); {
		if time.Now().After(deadline) {
			return false
		}
		time.Sleep(10 * time.Millisecond)
	}
	return true
}

func ignoreDone(err error) error {
	if errors.Is(err, os.ErrProcessDone) || errors.Is(err, syscall.ESRCH) {
		return nil
	}
	return err
}

// birth tells one process from another that got the same id later: its start
// time, or nothing if it is gone or a zombie.
func birth(pid int) string {
	if stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid)); err == nil {
		// The second field is the command in parentheses and may hold spaces.
		_, rest, _ := bytes.Cut(stat, []byte(") "))
		if f := strings.Fields(string(rest)); len(f) > 19 && f[0] != "Z" {
			return f[19]
		}
		return ""
	}
	out, err := exec.Command("ps", "-o", "lstart=", "-p", fmt.Sprint(pid)).Output()
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(out))
}

// tail returns the end of a log file.
func tail(file string) string {
	b, err := os.ReadFile(file)
	if err != nil {
		return err.Error()
	}
	lines := strings.Split(strings.TrimSpace(string(b)), "\n")
	return fmt.Sprintf("%s\n(%s)", strings.Join(lines[max(0, len(lines)-15):], "\n"), filepath.Clean(file))
}
