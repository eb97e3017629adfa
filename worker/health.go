package worker

import (
	"fmt"
	"slices"
	"sync"
	"time"
)

const (
	// faultsInRow is how many jobs in a row may get no sandbox before the
	// worker takes no more, faultPause for how long.
	faultsInRow = 3
	faultPause  = time.Minute
)

// health knows whether the host can still make sandboxes. Only that counts: no
// program has run by then that could be to blame, and an image that cannot be
// had is not the host's fault. So nobody's jobs can keep a worker from others.
type health struct {
	mu     sync.Mutex
	failed []string // jobs in a row that got no sandbox, each once
	since  time.Time
	until  time.Time
	why    string
	// word is given when the worker has fallen ill.
	word chan struct{}
}

func newHealth() *health { return &health{word: make(chan struct{}, 1)} }

// note takes in that a job got a sandbox, or why not.
func (h *health) note(id string, err error, now time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if err == nil {
		h.failed = nil
		return
	}
	if slices.Contains(h.failed, id) {
		return
	}
	if h.failed = append(h.failed, id); len(h.failed) < faultsInRow {
		return
	}
	h.failed, h.since, h.until = nil, now, now.Add(faultPause)
	h.why = fmt.Sprintf("%d jobs in a row got no sandbox, the last one since %.300s", faultsInRow, err.Error())
	select {
	case h.word <- struct{}{}:
	default:
	}
}

// ill is until when the worker should take nothing, and why; released is when
// an operator said that it is well.
func (h *health) ill(released time.Time) (until time.Time, why string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if released.After(h.since) {
		return time.Time{}, ""
	}
	return h.until, h.why
}
