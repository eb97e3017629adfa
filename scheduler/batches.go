package scheduler

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"time"

	"github.com/sandlot-dev/sandlot/pkg/api"
	"github.com/sandlot-dev/sandlot/pkg/job"
)

// batchList is how many batches a list shows.
const batchList = 1000

// foldOf is a batch that is an object, as far as this scheduler knows it, or
// job.ErrNotFound.
func (s *Scheduler) foldOf(ctx context.Context, id string) (foldView, error) {
	if api.BadBatchID(id) != "" {
		return foldView{}, job.ErrNotFound
	}
	if v, ok := s.folds.get(tenantOf(ctx), id); ok {
		return v, nil
	}
	// It may be so new that it was not told here.
	b, err := s.Queue.Batch(ctx, tenantOf(ctx), id)
	if err != nil {
		return foldView{}, err
	}
	return foldView{Batch: b, counts: b.Counts, changed: make(chan struct{})}, nil
}

// foldSoon is a batch as this scheduler knows it, once it does; job.ErrNotFound
// if there is none.
func (s *Scheduler) foldSoon(ctx context.Context, tenant, id string) (foldView, error) {
	for {
		if v, ok := s.folds.get(tenant, id); ok {
			return v, nil
		}
		if _, err := s.Queue.Batch(ctx, tenant, id); err != nil {
			return foldView{}, err
		}
		if err := s.nap(ctx); err != nil {
			return foldView{}, err
		}
	}
}

func (s *Scheduler) handleBatches(w http.ResponseWriter, r *http.Request) error {
	if err := s.ready(r.Context()); err != nil {
		return err
	}
	return writeJSON(w, http.StatusOK, s.folds.list(tenantOf(r.Context()), batchList))
}

// handleBatch counts the jobs of a batch.
func (s *Scheduler) handleBatch(w http.ResponseWriter, r *http.Request) error {
	if err := s.ready(r.Context()); err != nil {
		return err
	}
	v, err := s.foldOf(r.Context(), r.PathValue("id"))
	if err == nil {
		return writeJSON(w, http.StatusOK, v.api())
	}
	if !errors.Is(err, job.ErrNotFound) {
		return err
	}
	counts, ok := s.index.batchCounts(tenantOf(r.Context()), r.PathValue("id"))
	if !ok {
		return job.ErrNotFound
	}
	return writeJSON(w, http.StatusOK, counts)
}

// handleBatchCancel asks for the end of a batch: its key says so first, so
// that no item of it begins any more; then the leader ends what is under way.
func (s *Scheduler) handleBatchCancel(w http.ResponseWriter, r *http.Request) error {
	if err := s.ready(r.Context()); err != nil {
		return err
	}
	id := r.PathValue("id")
	if _, err := s.foldOf(r.Context(), id); err != nil {
		return err
	}
	c, err := s.Queue.ChangeBatch(r.Context(), tenantOf(r.Context()), id, func(b *job.Batch) error {
		switch b.State {
		case job.BatchRunning:
			b.State = job.BatchCanceling
			b.Generation++
			return nil
		case job.BatchUploading:
			return api.NewProblem(http.StatusConflict, api.TypeConflict, "the batch is still being uploaded; remove it instead")
		}
		return job.ErrStale
	})
	if err != nil && !errors.Is(err, job.ErrStale) {
		return err
	}
	if err == nil {
		s.folds.set(c)
	}
	return s.handleBatch(w, r)
}

// handleBatchRemove forgets a batch, its items and their results.
func (s *Scheduler) handleBatchRemove(w http.ResponseWriter, r *http.Request) error {
	if _, err := s.foldOf(r.Context(), r.PathValue("id")); err != nil {
		return err
	}
	err := s.removeBatch(r.Context(), tenantOf(r.Context()), r.PathValue("id"), func(b job.Batch) error {
		if b.State.Active() {
			return api.NewProblem(http.StatusConflict, api.TypeNotFinal, "the batch has not ended yet; cancel it first, or wait for its end")
		}
		return nil
	})
	if err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

// progressPause is the least time between two events of a batch.
const progressPause = 250 * time.Millisecond

// handleBatchEvents streams the counts of a batch as server-sent events
// whenever they change, and end with its last ones.
func (s *Scheduler) handleBatchEvents(w http.ResponseWriter, r *http.Request) error {
	if err := s.ready(r.Context()); err != nil {
		return err
	}
	id := r.PathValue("id")
	if _, err := s.foldOf(r.Context(), id); err != nil {
		return err
	}
	w.Header().Set("Content-Type", typeEvents)
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(http.StatusOK)
	control := http.NewResponseController(w)
	alive := time.NewTicker(heartbeat)
	defer alive.Stop()
	var last []byte
	for {
		v, err := s.foldSoon(r.Context(), tenantOf(r.Context()), id)
		if errors.Is(err, job.ErrNotFound) { // it was removed
			return writePiece(w, control, []byte("event: end\ndata: {}\n\n"))
		}
		if err != nil {
			return err
		}
		data, err := encode(v.api())
		if err != nil {
			return err
		}
		name := "progress"
		if v.State.Final() {
			name = "end"
		}
		if !bytes.Equal(data, last) {
			if err := writePiece(w, control, fmt.Appendf(nil, "event: %s\ndata: %s\n\n", name, bytes.TrimSpace(data))); err != nil {
				return err
			}
			last = data
		}
		if v.State.Final() {
			return nil
		}
		select {
		case <-v.changed:
			if err := s.restOrStop(r.Context(), progressPause); err != nil {
				return err
			}
		case <-alive.C:
			if err := writePiece(w, control, []byte(":\n\n")); err != nil {
				return err
			}
		case <-r.Context().Done():
			return context.Cause(r.Context())
		case <-s.stopping:
			return errStopping
		}
	}
}

// restOrStop waits, unless the client goes or the scheduler stops.
func (s *Scheduler) restOrStop(ctx context.Context, d time.Duration) error {
	s.pause(ctx, d)
	select {
	case <-s.stopping:
		return errStopping
	default:
		return context.Cause(ctx)
	}
}

// dropItem cancels an item that has not had its turn, by a record that has
// ended: the leader may be about to write one that is to run, and who is first
// decides. That it is dropped stands in the batch before, since the record
// may be in a segment and forgotten when its turn comes.
func (s *Scheduler) dropItem(ctx context.Context, batch string, index int) error {
	c, err := s.Queue.ChangeBatch(ctx, tenantOf(ctx), batch, func(b *job.Batch) error {
		if index < b.Cursor || !b.State.Active() {
			return job.ErrStale
		}
		if slices.Contains(b.Dropped, index) {
			return errDone
		}
		if len(b.Dropped) >= maxDropped {
			return api.NewProblem(http.StatusConflict, api.TypeFull, "%d items of this batch were canceled one by one before their turn, which is as many as it remembers; cancel the batch, or wait for the item's turn", maxDropped)
		}
		b.Dropped = append(b.Dropped, index)
		return nil
	})
	if errors.Is(err, job.ErrStale) {
		return nil
	}
	if err != nil && !errors.Is(err, errDone) {
		return err
	}
	s.folds.set(c)
	if _, stored, err := s.storedItem(ctx, c.Batch, index); stored || err != nil {
		return err
	}
	line, err := itemAt(ctx, s.Queue, c.Batch, index)
	if err != nil {
		return fmt.Errorf("cancel item %d of batch %s: %w", index, batch, err)
	}
	rec, err := s.itemOf(ctx, c.Batch, line, index)
	if err != nil {
		return fmt.Errorf("cancel item %d of batch %s: %w", index, batch, err)
	}
	cancelItem(&rec, wasDropped)
	return s.Queue.Expand(ctx, c.Batch.Since, []job.Record{rec})
}

const wasDropped = "It was canceled before its turn."

// maxDropped is how many items may be canceled one by one before their turn.
const maxDropped = 1000

// handleSecret tells a tenant what its callbacks are signed with.
func (s *Scheduler) handleSecret(w http.ResponseWriter, r *http.Request) error {
	secret, err := s.Queue.Callbacks(r.Context(), tenantOf(r.Context()))
	if err != nil {
		return err
	}
	return writeJSON(w, http.StatusOK, api.CallbackSecret{Secret: secret.Secret, CreatedAt: secret.CreatedAt})
}

// handleNewSecret replaces it; the former one goes on to sign for a day.
func (s *Scheduler) handleNewSecret(w http.ResponseWriter, r *http.Request) error {
	secret, err := s.Queue.RotateCallbacks(r.Context(), tenantOf(r.Context()))
	if err != nil {
		return err
	}
	return writeJSON(w, http.StatusOK, api.CallbackSecret{Secret: secret.Secret, CreatedAt: secret.CreatedAt})
}
