package queue

import (
	"context"
	"errors"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/sandlot-dev/sandlot/pkg/job"
)

// progressEvery is how often the hint of a long job is kept from coming
// again.
const progressEvery = 20 * time.Second

// holding is a claimed job as the registration keeps it.
type holding struct {
	Held
	since    time.Time
	progress time.Time
}

// hear takes a hint that the record of a job says something to its holder, or
// that something is wanted of the worker.
func (r *Registration) hear(m *nats.Msg) {
	if m.Header.Get(headerOrder) != "" {
		select {
		case r.recheck <- struct{}{}:
		default:
		}
		return
	}
	select {
	case r.check <- m.Header.Get(headerJob):
	default: // the regular look will find it
	}
}

// watch looks after what is held: whether it is still ours, and that its hint
// does not come again while it runs.
func (r *Registration) watch(ctx context.Context) {
	ticker := time.NewTicker(beat)
	defer ticker.Stop()
	orders := func() {
		if err := r.readOrder(ctx); err != nil && ctx.Err() == nil {
			r.q.log.Debug("read order", "worker", r.id, "error", err)
		}
	}
	for beats := 1; ; {
		select {
		case <-ctx.Done():
			return
		case <-r.done:
			return
		case id := <-r.check:
			for _, h := range r.holdings() {
				if h.Job == id {
					r.look(ctx, h)
				}
			}
		case <-r.recheck:
			orders()
		case now := <-ticker.C:
			if beats++; beats%orderEvery == 0 {
				orders()
			}
			for _, h := range r.holdings() {
				if now.Sub(h.since) >= beat {
					r.look(ctx, h)
				}
				r.sayProgress(h, now)
			}
		}
	}
}

// look reads the record of a held job and tells the worker what it must know.
func (r *Registration) look(ctx context.Context, h holding) {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	s, err := r.q.readAtLeader(ctx, h.Tenant, h.Job)
	if err != nil && !errors.Is(err, job.ErrNotFound) {
		return // next time
	}
	var why error
	switch {
	case err != nil || s.Life != r.life || s.Attempt != h.Attempt || s.State.Final() || s.State == job.Retrying:
		why = job.ErrLostClaim
	case s.State == job.Canceling:
		why = ErrCanceling
	default:
		return
	}
	// While the record was read the worker may have ended the job itself.
	if !r.isHeld(h.Job, h.Attempt) {
		return
	}
	select {
	case r.control <- Control{Job: h.Job, Attempt: h.Attempt, Why: why}:
	default:
	}
}

func (r *Registration) sayProgress(h holding, now time.Time) {
	if h.Ack == "" || now.Sub(h.progress) < progressEvery {
		return
	}
	if r.q.nc.Publish(h.Ack, []byte("+WPI")) != nil {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if mine, ok := r.held[h.Job]; ok {
		mine.progress = now
	}
}

func (r *Registration) holdings() []holding {
	r.mu.Lock()
	defer r.mu.Unlock()
	all := make([]holding, 0, len(r.held))
	for _, h := range r.held {
		all = append(all, *h)
	}
	return all
}

func (r *Registration) isHeld(id string, attempt int) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	h, ok := r.held[id]
	return ok && h.Attempt == attempt
}

// hold lists a job; false if the worker holds it already or has no place.
func (r *Registration) hold(h Held) bool {
	now := time.Now()
	r.mu.Lock()
	_, there := r.held[h.Job]
	ok := !there && !r.ended
	if ok {
		r.held[h.Job] = &holding{Held: h, since: now, progress: now}
	}
	r.mu.Unlock()
	r.wake()
	return ok
}

// setToken tells what sequence the claimed record has.
func (r *Registration) setToken(id string, seq uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if h, ok := r.held[id]; ok {
		h.Token = seq
	}
}

func (r *Registration) release(id string, attempt int) {
	r.mu.Lock()
	if h, ok := r.held[id]; ok && h.Attempt == attempt {
		delete(r.held, id)
	}
	r.mu.Unlock()
	r.wake()
}

func (r *Registration) wake() {
	select {
	case r.changed <- struct{}{}:
	default:
	}
}
