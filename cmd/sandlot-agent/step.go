package main

import (
	"errors"
	"fmt"
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sandlot-dev/sandlot/pkg/frame"
)

// step is a program under way.
type step struct {
	spec  *frame.StepStart
	feed  *feed
	pumps []*pump

	mu      sync.Mutex
	pid     int // 0 before the start and after the end
	ended   bool
	pending *frame.Signal // came before the program was there
}

// startStep returns at once; the step reports by frames.
func (a *agent) startStep(f *frame.StepStart) error {
	if f.Step <= a.lastStep {
		return fmt.Errorf("step %d after step %d", f.Step, a.lastStep)
	}
	s := &step{spec: f, feed: newFeed(f.Step, f.Stdin)}
	a.setBusy(s)
	go a.runStep(s)
	return nil
}

func (a *agent) runStep(s *step) {
	last := a.executeStep(s)
	a.setIdle()
	a.send(last)
}

// executeStep takes a step from pipes to its last frame, which it returns.
func (a *agent) executeStep(s *step) frame.Frame {
	pid, err := a.launchStep(s)
	var none *notRun
	if err != nil && !errors.As(err, &none) {
		s.feed.stop()
		s.closePumps()
		return &frame.Error{Code: frame.CodeLaunch, Text: err.Error()}
	}
	started := time.Now()
	a.send(&frame.StepStarted{Step: s.spec.Step})
	exit := &frame.StepExit{Step: s.spec.Step}
	if none != nil {
		exit.Code = none.code
		s.pumps[1].add([]byte("sandlot: " + none.text + "\n"))
	}
	for _, p := range s.pumps {
		p.start(a)
	}
	s.feed.start(a)
	if none == nil {
		s.begun(pid)
		s.reap(pid, exit, started)
	}
	s.feed.stop()
	for _, p := range s.pumps {
		p.finish()
	}
	exit.DiskFree, exit.Disk = diskUse()
	return exit
}

// launchStep makes the pipes and starts the program on the launch thread.
func (a *agent) launchStep(s *step) (pid int, err error) {
	stdin, err := s.feed.open()
	if err != nil {
		return 0, err
	}
	stdio := []*os.File{stdin}
	defer func() {
		for _, f := range stdio {
			f.Close() //nolint:errcheck // the program has its own
		}
	}()
	for _, stream := range []frame.Stream{frame.Stdout, frame.Stderr} {
		r, w, err := os.Pipe()
		if err != nil {
			return 0, fmt.Errorf("make pipe: %w", err)
		}
		stdio = append(stdio, w)
		s.pumps = append(s.pumps, newPump(s.spec.Step, stream, r, int(a.settings.Buffer)))
	}
	a.launch.do(func() { pid, err = start(s.spec, stdio) })
	return pid, err
}

func (s *step) closePumps() {
	for _, p := range s.pumps {
		p.file.Close() //nolint:errcheck // only read from
	}
}

// begun makes the program known to signal, and delivers what came too early.
func (s *step) begun(pid int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.pid = pid
	if s.pending != nil {
		s.deliver(s.pending)
	}
}

func (s *step) signal(f *frame.Signal) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.ended:
	case s.pid != 0:
		s.deliver(f)
	case s.pending == nil || f.Tree:
		s.pending = f
	}
	return nil
}

// deliver needs the mutex.
func (s *step) deliver(f *frame.Signal) {
	if f.Tree {
		killAll()
		return
	}
	unix.Kill(-s.pid, syscall.Signal(f.Number)) //nolint:errcheck // no such group: it has ended
}

// killAll ends every process but this one. A process that is being forked just now may survive it.
func killAll() {
	unix.Kill(-1, unix.SIGKILL) //nolint:errcheck // nobody left
}

// reap waits for the program, then ends all that it left behind, until no process but the agent is there. Every child
// that is reaped causes one more killAll: one that slipped through was forked before its parent was reaped.
func (s *step) reap(pid int, exit *frame.StepExit, started time.Time) {
	over := make(chan struct{})
	var sweeping sync.WaitGroup
	defer func() {
		close(over)
		sweeping.Wait()
	}()
	ended := false
	for {
		var status unix.WaitStatus
		var usage unix.Rusage
		got, err := unix.Wait4(-1, &status, 0, &usage)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return // ECHILD
		}
		count(exit, &usage)
		switch {
		case got == pid:
			ended = true
			exit.WallUS = time.Since(started).Microseconds()
			s.end()
			setStatus(exit, status)
			sweeping.Go(func() { sweep(over) })
		case ended:
			exit.Left++
		}
		if ended {
			killAll()
		}
	}
}

// end makes signals come too late from now on.
func (s *step) end() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.pid, s.ended = 0, true
}

// sweep repeats killAll in case that something is waited for which the last one did not reach.
func sweep(over <-chan struct{}) {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-over:
			return
		case <-tick.C:
			killAll()
		}
	}
}

func setStatus(exit *frame.StepExit, status unix.WaitStatus) {
	if status.Signaled() {
		exit.Signal = uint8(status.Signal())
		return
	}
	exit.Code = uint8(status.ExitStatus())
}

func count(exit *frame.StepExit, usage *unix.Rusage) {
	exit.UserUS += usage.Utime.Sec*1e6 + usage.Utime.Usec
	exit.SystemUS += usage.Stime.Sec*1e6 + usage.Stime.Usec
	exit.MaxRSS = max(exit.MaxRSS, usage.Maxrss<<10)
}
