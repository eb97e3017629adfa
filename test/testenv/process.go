package testenv

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"sync"
	"syscall"
	"testing"
	"time"
)

// mark is the variable by which processes of a test are known again, whoever
// their parent is by then.
const mark = "SANDLOT_TEST_MARK"

// Process is a program that a test runs as a user would.
type Process struct {
	Name string
	// Mark stands in the environment of the process and of its children.
	Mark string

	cmd  *exec.Cmd
	out  *log
	done chan struct{} // closed when the process has ended
	err  error         // of cmd.Wait; valid after done
}

// Command describes a process.
type Command struct {
	// Name is for the test's log. The base name of Path by default.
	Name string
	Path string
	Args []string
	// Env is added to the test's own environment.
	Env []string
	Dir string
}

// Start runs the command. It is killed at the test's end at the latest, and
// its output is shown when the test has failed.
func Start(t testing.TB, c Command) *Process {
	t.Helper()
	if c.Name == "" {
		c.Name = filepath.Base(c.Path)
	}
	p := &Process{
		Name: c.Name, Mark: fmt.Sprintf("%d-%d", os.Getpid(), time.Now().UnixNano()),
		cmd: exec.Command(c.Path, c.Args...), out: &log{}, done: make(chan struct{}),
	}
	p.cmd.Env = append(append(os.Environ(), mark+"="+p.Mark), c.Env...)
	p.cmd.Dir = c.Dir
	p.cmd.Stdout, p.cmd.Stderr = p.out, p.out
	// A group of its own: an interrupt of the test is not one of the process.
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	// Children that outlive a killed process may hold its output open.
	p.cmd.WaitDelay = time.Second
	started := make(chan error)
	go onThread(func() {
		err := p.cmd.Start()
		started <- err
		if err == nil {
			p.err = p.cmd.Wait()
			close(p.done)
		}
	})
	if err := <-started; err != nil {
		t.Fatalf("start %s: %v", c.Name, err)
	}
	t.Cleanup(func() {
		p.Kill(t)
		if t.Failed() {
			t.Logf("output of %s (pid %d):\n%s", p.Name, p.PID(), p.out.tail(16<<10))
		}
	})
	return p
}

// onThread runs f on a thread of its own. A process that asks for a signal at
// its parent's death gets it when the thread that started it ends, so that
// thread must last as long as the process.
func onThread(f func()) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	f()
}

// PID is that of the process.
func (p *Process) PID() int { return p.cmd.Process.Pid }

// Output is what the process has written so far.
func (p *Process) Output() string { return p.out.tail(1 << 20) }

// Done is closed when the process has ended.
func (p *Process) Done() <-chan struct{} { return p.done }

// Alive stops the test if the process has ended.
func (p *Process) Alive(t testing.TB) bool {
	t.Helper()
	select {
	case <-p.done:
		t.Fatalf("%s has ended: %v", p.Name, p.err)
	default:
	}
	return true
}

// Kill ends the process as the kernel would, with no chance to say good-bye,
// and waits for its end.
func (p *Process) Kill(t testing.TB) {
	t.Helper()
	if err := p.cmd.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		t.Errorf("kill %s: %v", p.Name, err)
	}
	p.Wait(t, 10*time.Second)
}

// Signal sends a signal.
func (p *Process) Signal(t testing.TB, s os.Signal) {
	t.Helper()
	if err := p.cmd.Process.Signal(s); err != nil {
		t.Errorf("signal %v to %s: %v", s, p.Name, err)
	}
}

// Terminate asks the process to end, waits for it and returns how long that
// took. The test fails when it takes longer than patience or when the process
// does not exit with 0.
func (p *Process) Terminate(t testing.TB, patience time.Duration) time.Duration {
	t.Helper()
	begun := time.Now()
	p.Signal(t, syscall.SIGTERM)
	if err := p.Wait(t, patience); err != nil {
		t.Errorf("%s ended with %v", p.Name, err)
	}
	return time.Since(begun)
}

// Wait waits for the end of the process and returns what exec.Cmd.Wait says.
func (p *Process) Wait(t testing.TB, patience time.Duration) error {
	t.Helper()
	timer := time.NewTimer(patience)
	defer timer.Stop()
	select {
	case <-p.done:
		return p.err
	case <-timer.C:
		t.Errorf("%s did not end within %v", p.Name, patience)
		return context.DeadlineExceeded
	}
}

// log is the output of a process.
type log struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (l *log) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *log) tail(n int) string {
	l.mu.Lock()
	defer l.mu.Unlock()
	b := l.text.Bytes()
	return string(b[max(0, len(b)-n):])
}

// Eventually asks again and again until the condition holds. The test fails
// when it does not within patience; what says what was waited for. It is for
// facts of the host that send no signal.
func Eventually(t testing.TB, patience time.Duration, what string, holds func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for !holds() {
		select {
		case <-ctx.Done():
			t.Fatalf("not within %v: %s", patience, what)
		case <-tick.C:
		}
	}
}
