package queue

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/sandlot-dev/sandlot/pkg/job"
)

// workerTTL is how long a WORKERS key lives after the last word.
const workerTTL = 10 * time.Second

// Workers lists the workers of all pools that live, unfit ones included, in
// the order of their IDs. Those of a later release are left out.
func (q *Queue) Workers(ctx context.Context) ([]Worker, error) {
	latest := map[string]message{}
	err := q.scan(ctx, workerStream, workerSubject("*", "*"), func(m message) { latest[m.subject] = m })
	if err != nil {
		return nil, fmt.Errorf("list workers: %w", err)
	}
	all := []Worker{}
	for _, m := range latest {
		if gone(m.header) {
			continue
		}
		w, err := decodeWorker(m)
		if errors.Is(err, job.ErrSchema) {
			continue // of a later release, which looks after it
		}
		if err != nil {
			return nil, fmt.Errorf("list workers: %w", err)
		}
		all = append(all, w)
	}
	slices.SortFunc(all, func(a, b Worker) int { return strings.Compare(a.ID, b.ID) })
	return all, nil
}

func decodeWorker(m message) (Worker, error) {
	var w Worker
	if err := json.Unmarshal(m.data, &w); err != nil {
		return w, fmt.Errorf("worker %s: %w", m.subject, err)
	}
	if err := job.CheckSchema(w.Schema); err != nil {
		return w, fmt.Errorf("worker %s: %w", m.subject, err)
	}
	w.SeenAt = m.at
	return w, nil
}

// worker is a worker as its key says now, at the leader; job.ErrNotFound
// with the sequence of what stands in its place.
func (q *Queue) worker(ctx context.Context, pool, id string) (Worker, uint64, error) {
	m, err := q.lastAtLeader(ctx, workerStream, workerSubject(pool, id))
	if err != nil {
		return Worker{}, 0, err
	}
	if gone(m.header) || m.header.Get(headerOperation) != "" {
		return Worker{}, m.seq, job.ErrNotFound
	}
	w, err := decodeWorker(m)
	return w, m.seq, err
}

// holds reports whether the worker that a running record names still has it
// in hand: its key lives, is of the same life, and lists the job, except that
// a claim may be too young to be listed.
func (q *Queue) holds(ctx context.Context, s Summary) (bool, error) {
	w, _, err := q.worker(ctx, s.Pool, s.Worker)
	if errors.Is(err, job.ErrNotFound) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	if w.Life != s.Life {
		return false, nil
	}
	return time.Since(s.UpdatedAt) < listedAfter || w.holds(s.ID, s.Attempt), nil
}

// listedAfter is the age at which a claim stands in its worker's key.
const listedAfter = 15 * time.Second

func (w Worker) holds(id string, attempt int) bool {
	return slices.ContainsFunc(w.Held, func(h Held) bool { return h.Job == id && h.Attempt == attempt })
}

// WatchWorkers calls fn for all workers there are and then for every change,
// one call at a time, until ctx ends. It survives reconnects: whatever
// vanished meanwhile is reported at the next of its regular looks.
func (q *Queue) WatchWorkers(ctx context.Context, fn func(WorkerChange)) error {
	w := &workerWatch{fn: fn, known: map[string]Worker{}}
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error {
		return q.tail(ctx, tail{
			stream: workerStream, filter: "$KV." + workerBucket + ".>",
			each: func(m message) error { w.see(q, m); return nil },
			caughtUp: func() error {
				w.mu.Lock()
				defer w.mu.Unlock()
				fn(WorkerChange{Listed: true})
				return nil
			},
		})
	})
	group.Go(func() error {
		for {
			if err := pause(ctx, workerTTL); err != nil {
				return err
			}
			asked := time.Now()
			all, err := q.Workers(ctx)
			if err != nil {
				q.log.Debug("look at workers", "error", err)
				continue
			}
			w.compare(all, asked)
		}
	})
	return group.Wait()
}

type workerWatch struct {
	mu    sync.Mutex
	fn    func(WorkerChange)
	known map[string]Worker // by subject
}

func (w *workerWatch) see(q *Queue, m message) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if gone(m.header) || m.header.Get(headerOperation) != "" {
		if last, ok := w.known[m.subject]; ok {
			delete(w.known, m.subject)
			w.fn(WorkerChange{Worker: last, Gone: true, Left: m.header.Get(headerOperation) != ""})
		}
		return
	}
	now, err := decodeWorker(m)
	if err != nil {
		q.log.Warn("unreadable worker", "error", err)
		return
	}
	w.known[m.subject] = now
	w.fn(WorkerChange{Worker: now})
}

// compare reports who is known but not listed. One that was heard of after
// the list was asked for is younger than the list.
func (w *workerWatch) compare(listed []Worker, asked time.Time) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for subject, last := range w.known {
		there := slices.ContainsFunc(listed, func(l Worker) bool { return workerSubject(l.Pool, l.ID) == subject })
		if !there && last.SeenAt.Before(asked.Add(-workerTTL)) {
			delete(w.known, subject)
			w.fn(WorkerChange{Worker: last, Gone: true})
		}
	}
}
