package scheduler

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/google/uuid"

	"github.com/sandlot-dev/sandlot/pkg/api"
	"github.com/sandlot-dev/sandlot/pkg/job"
)

// mostCancels is how many orders to cancel a tenant may have, those of the
// last thirty days among them.
const mostCancels = 1000

// cancels are the orders there are, as the queue tells of them.
type cancels struct {
	ready chan struct{}

	mu  sync.Mutex
	all map[scoped]job.CancelOrder
	// changed is closed and replaced when an order is new or finished.
	changed chan struct{}
}

func newCancels() *cancels {
	return &cancels{ready: make(chan struct{}), all: map[scoped]job.CancelOrder{}, changed: make(chan struct{})}
}

func (x *cancels) set(o job.CancelOrder) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.all[scoped{o.Tenant, o.ID}] = o
	close(x.changed)
	x.changed = make(chan struct{})
}

// open are the orders that are not finished, oldest first, and what tells of
// others.
func (x *cancels) open() (list []job.CancelOrder, changed <-chan struct{}) {
	x.mu.Lock()
	defer x.mu.Unlock()
	for name, o := range x.all {
		switch {
		case o.FinishedAt.IsZero():
			list = append(list, o)
		case time.Since(o.FinishedAt) > 31*24*time.Hour: // the queue has forgotten it
			delete(x.all, name)
		}
	}
	slices.SortFunc(list, func(a, b job.CancelOrder) int {
		return cmp.Or(a.CreatedAt.Compare(b.CreatedAt), cmp.Compare(a.ID, b.ID))
	})
	return list, x.changed
}

func (x *cancels) count(tenant string) (n int) {
	x.mu.Lock()
	defer x.mu.Unlock()
	for name := range x.all {
		if name.tenant == tenant {
			n++
		}
	}
	return n
}

// endsItem says why an item that has not had its turn never gets it, "" if it
// does.
func (x *cancels) endsItem(b job.Batch, rec job.Record) (order, why string) {
	x.mu.Lock()
	defer x.mu.Unlock()
	for name, o := range x.all {
		if name.tenant == b.Tenant && o.CoversBatch(b) && o.Picks(rec.Queue, rec.Pool, b.ID, job.Queued, rec.Labels) {
			return o.ID, o.Reason
		}
	}
	return "", ""
}

// handleCancelMany orders the end of all jobs that a filter picks. The order
// is stored first; the leader carries it out.
func (s *Scheduler) handleCancelMany(w http.ResponseWriter, r *http.Request) error {
	wait, err := s.waitOf(r)
	if err != nil {
		return err
	}
	in, err := decoded(s, w, r, api.DecodeCancel)
	if err != nil {
		return err
	}
	tenant := tenantOf(r.Context())
	if n := s.cancels.count(tenant); n >= mostCancels {
		return busy(http.StatusTooManyRequests, api.TypeFull, time.Hour, "tenant %q has given %d orders to cancel in thirty days, which is as many as are remembered; cancel by wider filters, or job by job", tenant, n)
	}
	id, err := uuid.NewV7()
	if err != nil {
		return fmt.Errorf("make id: %w", err)
	}
	o := job.CancelOrder{ID: id.String(), Tenant: tenant, CancelFilter: in.CancelFilter, Reason: in.Reason}
	if o, err = s.Queue.OrderCancel(context.WithoutCancel(r.Context()), o); err != nil {
		return err
	}
	s.cancels.set(o)
	w.Header().Set("Location", "/v1/cancels/"+o.ID)
	if o, err = s.awaitCancel(r.Context(), o, wait); err != nil {
		return err
	}
	status := http.StatusAccepted
	if !o.FinishedAt.IsZero() {
		status = http.StatusOK
	}
	return writeJSON(w, status, viewCancel(o))
}

func (s *Scheduler) handleCancelOrder(w http.ResponseWriter, r *http.Request) error {
	wait, err := s.waitOf(r)
	if err != nil {
		return err
	}
	o, err := s.Queue.CancelOrderOf(r.Context(), tenantOf(r.Context()), r.PathValue("id"))
	if err != nil {
		return err
	}
	if o, err = s.awaitCancel(r.Context(), o, wait); err != nil {
		return err
	}
	return writeJSON(w, http.StatusOK, viewCancel(o))
}

// awaitCancel is the order once it is finished, or as it stands when d is over.
func (s *Scheduler) awaitCancel(ctx context.Context, o job.CancelOrder, d time.Duration) (job.CancelOrder, error) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	for {
		s.cancels.mu.Lock()
		known, there := s.cancels.all[scoped{o.Tenant, o.ID}]
		changed := s.cancels.changed
		s.cancels.mu.Unlock()
		if there && !known.UpdatedAt.Before(o.UpdatedAt) {
			o = known
		}
		if d <= 0 || !o.FinishedAt.IsZero() {
			return o, nil
		}
		select {
		case <-changed:
		case <-timer.C:
			d = 0
		case <-s.stopping:
			d = 0
		case <-ctx.Done():
			return o, context.Cause(ctx)
		}
	}
}

func viewCancel(o job.CancelOrder) api.CancelOrder {
	v := api.CancelOrder{
		ID: o.ID, State: "running", CancelFilter: o.CancelFilter, Reason: o.Reason, Canceled: o.Canceled, Ending: o.Ending,
		CreatedAt: o.CreatedAt, UpdatedAt: o.UpdatedAt, FinishedAt: o.FinishedAt,
	}
	if !o.FinishedAt.IsZero() {
		v.State = "finished"
	}
	return v
}

// carryOut carries out orders to cancel, one after the other, those that
// another leader left half done among them.
func (l *batchLead) carryOut(ctx context.Context) error {
	for _, ready := range []<-chan struct{}{l.s.cancels.ready, l.s.folds.ready} {
		select {
		case <-ready:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	for {
		open, changed := l.s.cancels.open()
		failed := false
		for _, o := range open {
			if err := l.carryOutOne(ctx, o); err != nil {
				if ctx.Err() != nil {
					return context.Cause(ctx)
				}
				failed = true
				l.s.log.Warn("cancel by order", "order", o.ID, "error", err)
			}
		}
		switch {
		case failed:
			if err := wait(ctx, time.Second); err != nil {
				return err
			}
		case len(open) > 0: // others may have come meanwhile
		default:
			select {
			case <-changed:
			case <-ctx.Done():
				return context.Cause(ctx)
			}
		}
	}
}

func (l *batchLead) carryOutOne(ctx context.Context, o job.CancelOrder) error {
	// Items that were drafted before the order was known here are stored by
	// now; those that are drafted from now on know of it.
	l.drafting.Lock()
	l.drafting.Unlock() //nolint:staticcheck // a barrier
	if o.Whole() {
		if err := l.cancelBatches(ctx, o); err != nil {
			return err
		}
	}
	batchOf := func(id string) (job.Batch, bool) {
		v, ok := l.s.folds.get(o.Tenant, id)
		return v.Batch, ok
	}
	note := func(o job.CancelOrder) error {
		l.s.cancels.set(o)
		return l.s.Queue.NoteCancel(ctx, o)
	}
	done, err := l.s.Queue.CarryOut(ctx, o, batchOf, note)
	if err != nil {
		return err
	}
	done.FinishedAt = time.Now().UTC()
	done.UpdatedAt = done.FinishedAt
	if err := l.s.Queue.NoteCancel(ctx, done); err != nil {
		return err
	}
	l.s.cancels.set(done)
	return nil
}

// cancelBatches has the batches that an order ends as a whole canceled.
func (l *batchLead) cancelBatches(ctx context.Context, o job.CancelOrder) error {
	for _, name := range l.s.folds.active() {
		if name.tenant != o.Tenant || o.Batch != "" && o.Batch != name.name {
			continue
		}
		c, err := l.s.Queue.ChangeBatch(ctx, name.tenant, name.name, func(b *job.Batch) error {
			if b.State != job.BatchRunning || !o.CoversBatch(*b) {
				return job.ErrStale
			}
			b.State = job.BatchCanceling
			b.Generation++
			return nil
		})
		switch {
		case errors.Is(err, job.ErrStale), errors.Is(err, job.ErrNotFound):
		case err != nil:
			return err
		default:
			l.s.folds.set(c)
		}
	}
	return nil
}
