package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"github.com/sandlot-dev/sandlot/test/chaos/check"
)

// member is a program of the cluster that dies and comes back, life after life.
type member struct {
	name string
	// command makes the next life; n counts from 1.
	command func(n int) *exec.Cmd
	logDir  string

	mu       sync.Mutex
	life     *life
	lives    []*life
	expected bool  // that the present life ends
	broken   error // a life that ended by itself
}

// life is one process.
type life struct {
	name string
	cmd  *exec.Cmd
	done chan struct{}

	mu     sync.Mutex
	err    error
	died   time.Time
	pauses []check.Pause
}

// start begins a life, unless one goes on.
func (m *member) start() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.life != nil && m.life.alive() {
		return nil
	}
	n := len(m.lives) + 1
	l := &life{name: fmt.Sprintf("%s.%d", m.name, n), cmd: m.command(n), done: make(chan struct{})}
	out, err := os.Create(filepath.Join(m.logDir, l.name+".log"))
	if err != nil {
		return err
	}
	defer out.Close()
	l.cmd.Stdout, l.cmd.Stderr = out, out
	// A group of its own, and no life longer than the driver's.
	l.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	if err := l.cmd.Start(); err != nil {
		return fmt.Errorf("start %s: %w", l.name, err)
	}
	m.life, m.expected = l, false
	m.lives = append(m.lives, l)
	go func() {
		err := l.cmd.Wait()
		l.mu.Lock()
		l.err, l.died = err, time.Now()
		l.mu.Unlock()
		m.mu.Lock()
		if m.life == l && !m.expected && m.broken == nil {
			m.broken = fmt.Errorf("%s ended by itself: %w", l.name, errors.Join(err, errors.New("see its log")))
		}
		m.mu.Unlock()
		close(l.done)
	}()
	return nil
}

func (l *life) alive() bool {
	select {
	case <-l.done:
		return false
	default:
		return true
	}
}

// signal sends a signal to the present life; ending says that it will end.
func (m *member) signal(s syscall.Signal, ending bool) *life {
	m.mu.Lock()
	l := m.life
	if l == nil {
		m.mu.Unlock()
		return nil
	}
	if ending {
		m.expected = true
	}
	m.mu.Unlock()
	_ = l.cmd.Process.Signal(s)
	return l
}

// kill ends the present life as the kernel would, and waits.
func (m *member) kill() {
	if l := m.signal(syscall.SIGKILL, true); l != nil {
		<-l.done
	}
}

// stop asks the present life to end, and kills it if it takes too long; it
// says whether it had to.
func (m *member) stop(patience time.Duration) (killed bool) {
	l := m.signal(syscall.SIGTERM, true)
	if l == nil {
		return false
	}
	select {
	case <-l.done:
		return false
	case <-time.After(patience):
		m.kill()
		return true
	}
}

// pause stops the present life where it is; resume lets it go on.
func (m *member) pause() {
	from := time.Now()
	if l := m.signal(syscall.SIGSTOP, false); l != nil {
		l.mu.Lock()
		l.pauses = append(l.pauses, check.Pause{From: from})
		l.mu.Unlock()
	}
}

func (m *member) resume() {
	if l := m.signal(syscall.SIGCONT, false); l != nil {
		l.mu.Lock()
		if n := len(l.pauses); n > 0 {
			l.pauses[n-1].To = time.Now()
		}
		l.mu.Unlock()
	}
}

// fault says which life ended although nobody wanted it to.
func (m *member) fault() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.broken
}

// processes are the lives as the checker wants them.
func (m *member) processes() []check.Process {
	m.mu.Lock()
	defer m.mu.Unlock()
	var all []check.Process
	for _, l := range m.lives {
		l.mu.Lock()
		all = append(all, check.Process{Name: l.name, Died: l.died, Pauses: append([]check.Pause(nil), l.pauses...)})
		l.mu.Unlock()
	}
	return all
}
