package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"github.com/sandlot-dev/sandlot/pkg/frame"
)

// agent is one end of the channel and what the worker has asked for.
type agent struct {
	in       *frame.Reader
	out      *frame.Writer
	settings *frame.Settings

	launch *thread
	hands  *thread
	files  *files

	heard atomic.Bool // a frame came since the watch last looked

	mu       sync.Mutex
	busy     chan struct{} // not nil while a step or a collection is under way; closed after it
	step     *step         // the running step
	lastStep uint32        // number of the newest step
}

func newAgent(in io.Reader, out io.Writer) *agent {
	return &agent{in: frame.NewReader(in, frame.Worker), out: frame.NewWriter(out)}
}

func (a *agent) startThreads(cfg config) (err error) {
	if err := unix.Setgroups(nil); err != nil {
		return fmt.Errorf("leave all groups: %w", err)
	}
	if a.launch, err = newThread(giveUpPrivileges); err != nil {
		return err
	}
	a.hands, err = newThread(func() error { return borrowUser(cfg.uid, cfg.gid) })
	return err
}

// refuse tells the worker why there will be no session.
func (a *agent) refuse(err error) {
	a.fail(frame.CodeSetup, "", err)
}

// serve holds the session to its end and gives the exit code.
func (a *agent) serve(hello *frame.Hello) int {
	a.send(hello)
	err := a.settle()
	if err == nil {
		err = a.loop()
	}
	switch {
	case errors.Is(err, errShutdown):
		return exitShutdown
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, os.ErrClosed):
		return exitEOF
	}
	complain("%v", err)
	a.fail(frame.CodeProtocol, "", err)
	return exitProtocol
}

// settle waits for the worker's settings.
func (a *agent) settle() error {
	f, err := a.in.Next()
	if err != nil {
		return err
	}
	s, ok := f.(*frame.Settings)
	if !ok {
		return fmt.Errorf("kind %d before the settings", f.Kind())
	}
	if s.Version != frame.Version {
		return fmt.Errorf("worker speaks version %d, agent %d", s.Version, frame.Version)
	}
	a.settings = s
	a.files = &files{settings: s}
	a.hands.do(func() { err = a.files.openRoot() })
	return err
}

var errShutdown = errors.New("shutdown")

func (a *agent) loop() error {
	for {
		f, err := a.in.Next()
		if err != nil {
			return err
		}
		a.heard.Store(true)
		if err := a.handle(f); err != nil {
			return err
		}
	}
}

// handle never waits for the job, and for a file only as long as a write to memory takes.
func (a *agent) handle(f frame.Frame) error {
	switch f := f.(type) {
	case *frame.Beat:
		return nil
	case *frame.Shutdown:
		return errShutdown
	case *frame.StdinData:
		return a.withStep(f.Step, func(s *step) error { return s.feed.push(f.Data) })
	case *frame.StdinEOF:
		return a.withStep(f.Step, func(s *step) error { return s.feed.end() })
	case *frame.Signal:
		return a.withStep(f.Step, func(s *step) error { return s.signal(f) })
	}
	if err := a.mustBeIdle(f); err != nil {
		return err
	}
	switch f := f.(type) {
	case *frame.FileOpen, *frame.FileData, *frame.FileEnd, *frame.FilesEnd:
		return a.putFile(f)
	case *frame.StepStart:
		return a.startStep(f)
	case *frame.Collect:
		a.setBusy(nil)
		go a.collect(f)
		return nil
	}
	return fmt.Errorf("kind %d is not expected now", f.Kind())
}

// withStep calls do with the running step. Frames for a step that has just ended crossed its end on the way.
func (a *agent) withStep(number uint32, do func(*step) error) error {
	a.mu.Lock()
	s, last := a.step, a.lastStep
	a.mu.Unlock()
	if number == 0 || number != last {
		return fmt.Errorf("frame for step %d, the newest is %d", number, last)
	}
	if s == nil {
		return nil
	}
	return do(s)
}

func (a *agent) mustBeIdle(f frame.Frame) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.busy != nil {
		return fmt.Errorf("kind %d while something is under way", f.Kind())
	}
	return nil
}

// setBusy also begins to watch for the worker's silence. s is nil if it is not a step that begins.
func (a *agent) setBusy(s *step) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.busy, a.step = make(chan struct{}), s
	if s != nil {
		a.lastStep = s.spec.Step
	}
	go a.watch(a.busy)
}

// setIdle comes before the last frame of what was under way: the worker may go on as soon as it sees that.
func (a *agent) setIdle() {
	a.mu.Lock()
	defer a.mu.Unlock()
	close(a.busy)
	a.busy, a.step = nil, nil
}

// putFile hands a frame to the thread that may write files, and answers at the end of a batch.
func (a *agent) putFile(f frame.Frame) error {
	var answer frame.Frame
	var err error
	a.hands.do(func() { answer, err = a.files.put(f) })
	if err == nil && answer != nil {
		a.send(answer)
	}
	return err
}

// send writes a frame. There is nobody to tell when that fails: the sandbox ends.
func (a *agent) send(f frame.Frame) {
	err := a.out.Write(f)
	if err == nil {
		return
	}
	complain("%v", err)
	if errors.Is(err, frame.ErrMalformed) {
		os.Exit(exitProtocol)
	}
	os.Exit(exitEOF)
}

func (a *agent) fail(code frame.ErrorCode, path string, err error) {
	text := strings.ToValidUTF8(strings.ReplaceAll(err.Error(), "\x00", "?"), "?")
	a.send(&frame.Error{Code: code, Path: path, Text: text[:min(len(text), frame.MaxText)]})
}
