package scheduler

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"time"

	"github.com/sandlot-dev/sandlot/pkg/api"
	"github.com/sandlot-dev/sandlot/pkg/queue"
)

// handleDrain has a worker finish what it runs, take nothing more, and leave.
func (s *Scheduler) handleDrain(w http.ResponseWriter, r *http.Request) error {
	in, err := decoded(s, w, r, api.DecodeDrain)
	if err != nil {
		return err
	}
	return s.order(w, r, func(o *queue.Order) {
		o.Drain, o.Deadline = true, time.Time{}
		if in.Deadline != nil {
			o.Deadline = time.Now().Add(in.Deadline.Duration()).UTC()
		}
	})
}

// handleUndrain has a worker that has not left yet take jobs again.
func (s *Scheduler) handleUndrain(w http.ResponseWriter, r *http.Request) error {
	return s.order(w, r, func(o *queue.Order) { o.Drain, o.Deadline = false, time.Time{} })
}

// handleReleaseWorker ends a quarantine, and forgets what led to it.
func (s *Scheduler) handleReleaseWorker(w http.ResponseWriter, r *http.Request) error {
	return s.order(w, r, func(o *queue.Order) {
		o.Quarantined, o.Reason, o.Losses, o.Released = time.Time{}, "", nil, time.Now().UTC()
	})
}

// order changes what is wanted of the worker that a request names, and answers
// with the worker as it will be.
func (s *Scheduler) order(w http.ResponseWriter, r *http.Request, change func(*queue.Order)) error {
	one, err := s.workerNamed(r.Context(), r.PathValue("id"))
	if err != nil {
		return err
	}
	order, err := s.Queue.ChangeOrder(r.Context(), one.Pool, one.ID, func(o *queue.Order) error { change(o); return nil })
	if err != nil {
		return fmt.Errorf("order worker %s: %w", one.ID, err)
	}
	one.Draining, one.Quarantined, one.Why = order.Drain, time.Time{}, order.Closed(time.Now())
	if order.Quarantined.After(time.Now()) {
		one.Quarantined = order.Quarantined
	}
	return writeJSON(w, http.StatusOK, viewWorker(one))
}

// workerNamed is a worker that lives, or one that is gone and of whom
// something is wanted.
func (s *Scheduler) workerNamed(ctx context.Context, id string) (queue.Worker, error) {
	all := s.workers.all()
	if i := slices.IndexFunc(all, func(w queue.Worker) bool { return w.ID == id }); i >= 0 {
		return all[i], nil
	}
	orders, err := s.Queue.Orders(ctx)
	if err != nil {
		return queue.Worker{}, fmt.Errorf("find worker %s: %w", id, err)
	}
	if i := slices.IndexFunc(orders, func(o queue.Order) bool { return o.Worker == id }); i >= 0 {
		return queue.Worker{ID: id, Pool: orders[i].Pool}, nil
	}
	return queue.Worker{}, api.NewProblem(http.StatusNotFound, api.TypeNotFound, "there is no worker %q; GET /v1/workers lists those that live", clean(id))
}
