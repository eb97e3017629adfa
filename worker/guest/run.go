package guest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"syscall"
	"time"

	"github.com/sandlot-dev/sandlot/pkg/frame"
)

// Step is a program to run.
type Step struct {
	Argv []string // looked up in PATH of Env when the first has no slash
	Env  []string // the whole environment
	Dir  string   // absolute
	UID  uint32
	GID  uint32
	// Limits are resource limits by Linux's number (syscall.RLIMIT_…; RLIMIT_NPROC is 6). The agent takes CORE,
	// NOFILE, NPROC, FSIZE, STACK and MEMLOCK.
	Limits []frame.Limit
	Stdin  io.Reader // nil: /dev/null. Must not block: bytes in memory or a file

	Wall    time.Duration // from the program's start; 0: none
	Output  int64         // bytes of both streams together; 0: none
	Started func()        // optional; called when the program starts
}

// Exit is how a step ended.
type Exit struct {
	Code   int // exit code; 0 when Signal is not
	Signal syscall.Signal
	// Stopped says that the step was made to end: ErrWall, ErrOutput, the cause of the context, or the error of the
	// output function. Nil if it ended by itself.
	Stopped error
	Started time.Time // on this side's clock; zero if it never did
	Ended   time.Time // zero if the end was not seen
	Stdout  int64     // bytes received
	Stderr  int64

	// What follows is the agent's word.
	Wall     time.Duration
	User     time.Duration
	System   time.Duration
	MaxRSS   int64 // bytes
	Left     int   // processes that were still there when the program ended
	DiskFree int64
	Disk     int64
}

// DiskFull tells whether the disk had less than one page left at the end.
func (e Exit) DiskFull() bool { return e.Disk > 0 && e.DiskFree < 4096 }

// Run executes one step and gives every piece of its output to output, in order within each stream, from this
// goroutine. Beyond the limits of the step nothing is given, and the step is killed. When ctx ends, the step is
// killed, and Run returns the cause of ctx with what is known; the session can go on if Exit.Ended is set. When
// output fails, the same with its error. A program that cannot be executed is an exit with 126 or 127; an AgentError
// with CodeLaunch is a step that could not be started through no fault of its own.
func (s *Session) Run(ctx context.Context, step Step, output func(frame.Stream, []byte) error) (Exit, error) {
	s.step++
	r := &running{
		s:      s,
		step:   step,
		number: s.step,
		output: output,
		credit: make(chan int, 1),
		sent:   make(chan struct{}),
		over:   make(chan struct{}),
		window: frame.StdinWindow,
	}
	err := r.run(ctx)
	if err != nil {
		return r.exit, fmt.Errorf("run step: %w", err)
	}
	return r.exit, nil
}

// running is a step under way.
type running struct {
	s      *Session
	step   Step
	number uint32
	output func(frame.Stream, []byte) error
	exit   Exit
	state  [3]stream // by frame.Stream

	wall    <-chan time.Time
	grace   <-chan time.Time
	writing sync.WaitGroup
	sent    chan struct{} // closed when StepStart is out
	over    chan struct{} // closed when the step is

	mu     sync.Mutex
	window int      // bytes of stdin that may be sent
	credit chan int // a token when window has grown
}

type stream struct {
	chunks uint64
	bytes  int64
	eof    bool
}

func (r *running) run(ctx context.Context) error {
	if err := r.s.Err(); err != nil {
		return err
	}
	start := &frame.StepStart{
		Step: r.number, Argv: r.step.Argv, Env: r.step.Env, Dir: r.step.Dir, UID: r.step.UID, GID: r.step.GID,
		Limits: r.step.Limits, Stdin: r.step.Stdin != nil,
	}
	if _, err := frame.Append(nil, start); err != nil {
		r.s.step-- // nothing was sent
		return err
	}
	r.writing.Go(func() { r.write(start) })
	r.writing.Go(func() { r.s.beat(r.over) })
	err := r.follow(ctx)
	if err != nil && !reported(err, frame.CodeLaunch) {
		r.s.abort(err)
		err = r.s.Err()
	}
	close(r.over)
	r.s.join(&r.writing)
	if stop := r.exit.Stopped; stop != nil && !errors.Is(stop, ErrWall) && !errors.Is(stop, ErrOutput) {
		return stop
	}
	return err
}

// follow handles frames until the step's last one.
func (r *running) follow(ctx context.Context) error {
	done := ctx.Done()
	for {
		select {
		case f := <-r.s.frames:
			f, err := sift(f)
			if err == nil {
				err = r.take(f)
			}
			if err != nil {
				return r.blame(err)
			}
			if !r.exit.Ended.IsZero() {
				return nil
			}
		case <-r.s.down:
			return r.s.Err()
		case <-r.wall:
			r.stop(ErrWall)
		case <-done:
			done = nil
			r.stop(context.Cause(ctx))
		case <-r.grace:
			return ErrStuck
		}
	}
}

// blame turns a report that does not fit the moment into a violation.
func (r *running) blame(err error) error {
	var e *AgentError
	if errors.As(err, &e) && r.s.Err() == nil && (e.Code != frame.CodeLaunch || !r.exit.Started.IsZero()) {
		return violation("report with code %d in a step", e.Code)
	}
	return err
}

// stop kills the step, once, and gives the agent a little time to say how it ended.
func (r *running) stop(reason error) {
	if r.exit.Stopped != nil {
		return
	}
	r.exit.Stopped = reason
	r.wall = nil
	r.grace = time.After(r.s.settings.Grace)
	r.writing.Go(func() {
		select {
		case <-r.sent:
			kill := &frame.Signal{Step: r.number, Number: uint8(syscall.SIGKILL), Tree: true}
			r.s.out.Write(kill) //nolint:errcheck // the grace ends it
		case <-r.over:
		}
	})
}

func (r *running) take(f frame.Frame) error {
	var number uint32
	var err error
	switch f := f.(type) {
	case *frame.StepStarted:
		number, err = f.Step, r.started()
	case *frame.StdinTaken:
		number, err = f.Step, r.taken(int(f.Bytes))
	case *frame.Output:
		number, err = f.Step, r.received(f)
	case *frame.OutputEOF:
		number, err = f.Step, r.ended(f)
	case *frame.StepExit:
		number, err = f.Step, r.exited(f)
	default:
		return r.s.unexpected(f)
	}
	if number != r.number {
		return violation("frame of step %d in step %d", number, r.number)
	}
	return err
}

func (r *running) started() error {
	if !r.exit.Started.IsZero() {
		return violation("step started twice")
	}
	r.exit.Started = time.Now()
	if r.step.Wall > 0 && r.exit.Stopped == nil {
		r.wall = time.After(r.step.Wall)
	}
	if r.step.Started != nil {
		r.step.Started()
	}
	return nil
}

func (r *running) received(f *frame.Output) error {
	st := &r.state[f.Stream]
	switch {
	case f.Step != r.number:
		return nil // the caller's to refuse
	case r.exit.Started.IsZero():
		return violation("output before the start")
	case st.eof:
		return violation("output after the end of stream %d", f.Stream)
	case f.Seq != st.chunks:
		return violation("chunk %d of stream %d, %d expected", f.Seq, f.Stream, st.chunks)
	}
	st.chunks++
	st.bytes += int64(len(f.Data))
	r.exit.Stdout, r.exit.Stderr = r.state[frame.Stdout].bytes, r.state[frame.Stderr].bytes
	return r.deliver(f.Stream, f.Data)
}

// deliver gives the caller what is within the limit. Of a step that is being stopped for its output or because the
// caller failed, nothing more is given.
func (r *running) deliver(stream frame.Stream, data []byte) error {
	if errors.Is(r.exit.Stopped, ErrOutput) || errors.Is(r.exit.Stopped, errSink) {
		return nil
	}
	over := r.exit.Stdout + r.exit.Stderr - r.step.Output
	if r.step.Output > 0 && over > 0 {
		data = data[:max(0, int64(len(data))-over)]
	}
	if len(data) > 0 {
		if err := r.output(stream, data); err != nil {
			r.stop(fmt.Errorf("%w: %w", errSink, err))
			return nil
		}
	}
	if r.step.Output > 0 && over > 0 {
		r.stop(ErrOutput)
	}
	return nil
}

// errSink marks the error of the output function.
var errSink = errors.New("take output")

func (r *running) ended(f *frame.OutputEOF) error {
	st := &r.state[f.Stream]
	if st.eof || r.exit.Started.IsZero() {
		return violation("end of stream %d out of turn", f.Stream)
	}
	if f.Chunks != st.chunks || f.Bytes != st.bytes {
		return violation("stream %d has %d bytes in %d chunks, received %d in %d",
			f.Stream, f.Bytes, f.Chunks, st.bytes, st.chunks)
	}
	st.eof = true
	return nil
}

func (r *running) exited(f *frame.StepExit) error {
	if !r.state[frame.Stdout].eof || !r.state[frame.Stderr].eof {
		return violation("exit before the end of output")
	}
	e := &r.exit
	e.Code, e.Signal, e.Ended = int(f.Code), syscall.Signal(f.Signal), time.Now()
	e.Wall = time.Duration(f.WallUS) * time.Microsecond
	e.User = time.Duration(f.UserUS) * time.Microsecond
	e.System = time.Duration(f.SystemUS) * time.Microsecond
	e.MaxRSS, e.Left = f.MaxRSS, int(f.Left)
	e.DiskFree, e.Disk = f.DiskFree, f.Disk
	return nil
}
