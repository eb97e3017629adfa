package gvisor

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/sandlot-dev/sandlot/pkg/job"
)

const (
	// lookEvery is how often the watch reads the counters of a running step.
	lookEvery = 25 * time.Millisecond
	// launchPatience bounds the time between the order to start a step and
	// the start, which no limit of the job covers.
	launchPatience = 30 * time.Second
)

// verdictless is the end of a sandbox by the worker for which Ended stays
// empty: the reason is in the kernel's counters, or in the error.
const verdictless job.Reason = ""

var (
	errSlowLaunch = errors.New("the agent does not start the step")
	errGone       = errors.New("containerd died, and the sandbox with it")
	errKernelKill = errors.New("the kernel killed a process of the sandbox for its memory")
)

// watch looks at a running step from outside and ends the sandbox when the job
// reaches a limit. One step is watched at a time.
type watch struct {
	s      *sandbox
	limits job.Limits

	// Of the job.
	cpuAtStart time.Duration
	lastEnd    time.Time
	peak       job.Bytes
	watched    bool
	refaults   int64

	// Of the step.
	step      job.Step
	cpuBefore time.Duration
	start     chan struct{}
	stop      chan struct{}
	done      chan struct{}
	thrash    thrash

	mu         sync.Mutex
	firstStart time.Time // of the job
	startedAt  time.Time // of the step
	over       bool
	overAt     time.Time
	reason     job.Reason
	stepLimit  int64
	cause      error
}

func newWatch(s *sandbox) *watch {
	return &watch{s: s, limits: s.task.Spec.Limits}
}

// begin starts to watch a step that is about to start.
func (w *watch) begin(ctx context.Context, step job.Step) error {
	if err := w.s.counters.resetPeak(); err != nil {
		return fmt.Errorf("reset peak: %w", err)
	}
	cpu, err := w.s.counters.cpu()
	if err != nil {
		return fmt.Errorf("read processor time: %w", err)
	}
	if !w.watched {
		w.watched, w.cpuAtStart = true, cpu
	}
	w.step, w.cpuBefore = step, cpu
	w.start, w.stop, w.done = make(chan struct{}, 1), make(chan struct{}), make(chan struct{})
	w.mu.Lock()
	w.startedAt = time.Time{}
	w.mu.Unlock()
	w.thrash = thrash{limit: w.s.applied.SandboxMemory}
	go func() {
		defer close(w.done)
		w.follow(ctx)
	}()
	return nil
}

// started is called when the step's program starts.
func (w *watch) started() {
	now := time.Now()
	w.mu.Lock()
	w.startedAt = now
	if w.firstStart.IsZero() {
		w.firstStart = now
	}
	w.mu.Unlock()
	w.start <- struct{}{}
}

// follow is the watch's loop.
func (w *watch) follow(ctx context.Context) {
	alarm := time.NewTimer(launchPatience)
	defer alarm.Stop()
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	running := false
	for {
		select {
		case <-w.stop:
			return
		case <-ctx.Done():
			w.end(verdictless, context.Cause(ctx))
			return
		case <-w.s.gone:
			w.end(verdictless, errGone)
			return
		case <-w.start:
			running = true
			alarm.Reset(time.Until(w.wallEnd()))
		case <-alarm.C:
			if !running {
				w.end(verdictless, errSlowLaunch)
				return
			}
			w.end(job.TimedOut, nil)
			return
		case now := <-tick.C:
			if w.look(now) {
				return
			}
		}
	}
}

// wallEnd is when the wall limit of the job or the step ends a step that has
// started, whichever comes first.
func (w *watch) wallEnd() time.Time {
	w.mu.Lock()
	defer w.mu.Unlock()
	end := w.firstStart.Add(w.limits.Wall.Duration())
	if w.step.Wall > 0 {
		if own := w.startedAt.Add(w.step.Wall.Duration()); own.Before(end) {
			return own
		}
	}
	return end
}

// look reads the counters and reports whether the sandbox was ended.
func (w *watch) look(now time.Time) bool {
	cpu, err := w.s.counters.cpu()
	if err != nil {
		return w.blind(err)
	}
	if w.overCPU(cpu) {
		w.end(job.CPUTime, nil)
		return true
	}
	events, err := w.s.counters.events()
	if err != nil {
		return w.blind(err)
	}
	if events.oomKills > 0 {
		w.end(verdictless, errKernelKill)
		return true
	}
	if !w.thrash.due(now) {
		return false
	}
	memory, err := w.s.counters.memory()
	if err != nil {
		return w.blind(err)
	}
	if w.thrash.see(now, cpu, memory) {
		w.end(job.OutOfMemory, nil)
		return true
	}
	return false
}

// blind ends the sandbox because its counters cannot be read: nothing would
// hold the job within its limits.
func (w *watch) blind(err error) bool {
	w.end(verdictless, fmt.Errorf("read counters: %w", err))
	return true
}

// overCPU tells whether the processor time reached the limit of the job or the
// step. A limit that the quota and the wall limit imply is left to them, so
// that the end of an endless loop is not decided by a race of two clocks.
func (w *watch) overCPU(cpu time.Duration) bool {
	implied := float64(w.limits.CPUTime) >= float64(w.limits.Wall)*w.limits.CPU
	if !implied && cpu-w.cpuAtStart >= w.limits.CPUTime.Duration() {
		return true
	}
	return w.step.CPUTime > 0 && cpu-w.cpuBefore >= w.step.CPUTime.Duration()
}

// end kills the sandbox. The first reason stays.
func (w *watch) end(reason job.Reason, cause error) {
	w.mu.Lock()
	first := !w.over
	if first {
		w.over, w.overAt, w.reason, w.cause = true, time.Now(), reason, cause
		w.stepLimit = w.limitOfStep(reason)
	}
	w.mu.Unlock()
	if first {
		_, _ = w.s.group.signal() // conclude kills until nothing is left
	}
}

// limitOfStep is the step's own limit where that is what ended it. The caller
// holds the lock.
func (w *watch) limitOfStep(reason job.Reason) int64 {
	switch {
	case reason == job.TimedOut && w.step.Wall > 0 && time.Since(w.firstStart) < w.limits.Wall.Duration():
		return int64(w.step.Wall)
	case reason == job.CPUTime && w.step.CPUTime > 0:
		if cpu, err := w.s.counters.cpu(); err == nil && cpu-w.cpuAtStart < w.limits.CPUTime.Duration() {
			return int64(w.step.CPUTime)
		}
	}
	return 0
}

// ended is why the watch ended the sandbox, nil if it did not.
func (w *watch) ended() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.over {
		return nil
	}
	if w.cause != nil {
		return w.cause
	}
	return fmt.Errorf("ended for %s", w.reason)
}

// verdict is what the watch ended the sandbox for.
func (w *watch) verdict() (reason job.Reason, stepLimit int64, cause error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.reason, w.stepLimit, w.cause
}
