package gvisor

import (
	"errors"
	"time"

	"github.com/sandlot-dev/sandlot/pkg/job"
)

// spent is what a step or a job used.
type spent struct {
	wall, cpu time.Duration
	peak      job.Bytes
	events    events
	refaults  int64
}

// finish ends the watch of a step and measures it. What happened between two
// looks counts all the same.
func (w *watch) finish() (spent, error) {
	now := time.Now()
	close(w.stop)
	<-w.done
	w.refaults = max(w.refaults, w.thrash.highest)
	cpu, err1 := w.s.counters.cpu()
	memory, err2 := w.s.counters.memory()
	events, err3 := w.s.counters.events()
	if events.oomKills > 0 {
		w.end(verdictless, errKernelKill)
	}
	if err1 == nil && w.overCPU(cpu) {
		w.end(job.CPUTime, nil)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.over {
		now = w.overAt
	}
	w.lastEnd = now
	w.peak = max(w.peak, memory.peak)
	s := spent{cpu: cpu - w.cpuBefore, peak: max(0, memory.peak-w.s.idle)}
	if !w.startedAt.IsZero() {
		s.wall = max(0, now.Sub(w.startedAt))
	}
	return s, errors.Join(err1, err2, err3)
}

// totals measures the job. The sandbox is dead; its cgroup still counts.
func (w *watch) totals() (spent, error) {
	cpu, err1 := w.s.counters.cpu()
	memory, err2 := w.s.counters.memory()
	events, err3 := w.s.counters.events()
	s := spent{peak: max(w.peak, memory.peak), events: events, refaults: w.refaults}
	if w.watched {
		s.cpu = cpu - w.cpuAtStart
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.firstStart.IsZero() {
		s.wall = max(0, w.lastEnd.Sub(w.firstStart))
	}
	return s, errors.Join(err1, err2, err3)
}
