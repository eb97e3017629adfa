package worker

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/sandlot-dev/sandlot/pkg/job"
	"github.com/sandlot-dev/sandlot/pkg/queue"
)

// sparesEvery is how often it is told what became of sandboxes booted ahead.
const sparesEvery = 5 * time.Second

// errLost is the cause for which an attempt is stopped when somebody else may
// hold its job: the attempt ends in silence.
var errLost = fmt.Errorf("worker lost its place: %w", job.ErrLostClaim)

// held is what a worker holds at the moment.
type held struct {
	mu       sync.Mutex
	attempts map[*attempt]context.CancelCauseFunc
}

func (h *held) add(a *attempt, stop context.CancelCauseFunc) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.attempts == nil {
		h.attempts = map[*attempt]context.CancelCauseFunc{}
	}
	h.attempts[a] = stop
}

func (h *held) remove(a *attempt) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.attempts, a)
}

// stop ends the attempt, if it is held.
func (h *held) stop(id string, number int, cause error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for a, stop := range h.attempts {
		if a.record.ID == id && a.record.Attempt == number {
			stop(cause)
		}
	}
}

// stopAll ends all attempts that are held.
func (h *held) stopAll(cause error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, stop := range h.attempts {
		stop(cause)
	}
}

// register gives the worker its place among the others; it tries until ctx
// ends, unless its pool or one of its classes is not there.
func (w *Worker) register(ctx context.Context) (*queue.Registration, error) {
	me := queue.Worker{
		ID: w.ID, Pool: w.Pool, Classes: w.Classes, Labels: w.Labels, Slots: w.Slots,
		CPU: w.MaxLimits().CPU, Memory: int64(w.MaxLimits().Memory),
		Versions: map[string]string{
			"runsc": w.Versions.Runsc, "containerd": w.Versions.Containerd, "sandlot": w.Versions.Sandlot,
		},
		Images: w.images.list(), Unfit: w.Unfit, Started: w.started, Room: int64(w.Memory), Allowance: int64(w.Allowance),
	}
	for pause := 100 * time.Millisecond; ; pause = min(2*pause, 2*time.Second) {
		r, err := w.Queue.Register(ctx, me)
		if err == nil {
			return r, nil
		}
		if _, missing := errors.AsType[*queue.NoClassError](err); missing {
			return nil, err // waiting does not make it
		}
		w.log.Warn("cannot register, trying again", "error", err)
		if sleep(ctx, pause) != nil {
			return nil, fmt.Errorf("register worker %s: %w", w.ID, err)
		}
	}
}

// sparing is a Runtime that boots sandboxes ahead.
type sparing interface{ Spares() job.Spares }

// tellSpares has others see how many sandboxes wait for jobs.
func (w *Worker) tellSpares(ctx context.Context, place *queue.Registration) {
	runtime, ok := w.Runtime.(sparing)
	if !ok {
		return
	}
	tick := time.NewTicker(sparesEvery)
	defer tick.Stop()
	var told job.Spares
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		now := runtime.Spares()
		same := told
		same.Oldest = now.Oldest
		if now == same {
			continue
		}
		told = now
		place.Update(func(me *queue.Worker) { me.Spares = &now })
	}
}

// listen hears what others have to say of the jobs that the worker holds,
// until ctx ends or the place is lost; lost is called for the latter.
func (w *Worker) listen(ctx context.Context, r *queue.Registration, lost func()) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-r.Done():
			w.log.Error("the worker lost its place among the others; all its sandboxes are stopped", "error", r.Err())
			lost()
			return
		case word := <-r.Control():
			w.log.Info("told to stop a job", "job", word.Job, "attempt", word.Attempt, "reason", word.Why)
			cause := errLost
			if errors.Is(word.Why, queue.ErrCanceling) {
				cause = ErrCanceled
			}
			w.held.stop(word.Job, word.Attempt, cause)
		}
	}
}
