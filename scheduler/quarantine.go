package scheduler

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/sandlot-dev/sandlot/pkg/job"
	"github.com/sandlot-dev/sandlot/pkg/queue"
)

// Who is to blame when a worker vanishes: its host, or a job that brings down
// whatever runs it? At the first loss nobody can tell, so it is held against
// the worker. When a job that was in hand then is lost once more, wherever
// that is, the job is the suspect: the later loss is held against nobody, and
// the earlier one is forgiven. So a job that kills workers ends dead after the
// platform's attempts, having cost each worker a restart but none of them its
// place, while a worker that vanishes again and again whatever it holds is
// taken out. The last worker of a class that takes jobs is never taken out.

const (
	// lossesInRow within lossWindow put a worker into quarantine for
	// quarantineTime, or until it is released.
	lossesInRow    = 3
	lossWindow     = 10 * time.Minute
	quarantineTime = 10 * time.Minute
)

// blame decides whom the loss of a worker is held against. others are the
// workers that are known to live.
func (l *Lead) blame(ctx context.Context, w queue.Worker, others []queue.Worker) {
	suspects, err := l.suspects(ctx, w)
	switch {
	case err == nil && len(suspects) > 0:
		for _, rec := range suspects {
			err = errors.Join(err, l.forgive(ctx, rec))
		}
		l.Logger.Warn("a job is suspected of bringing down workers", "worker", w.ID, "job", suspects[0].ID)
	case err == nil:
		err = l.charge(ctx, w, others)
	}
	if err != nil && ctx.Err() == nil {
		l.Logger.Warn("judge the loss of a worker", "worker", w.ID, "error", err)
	}
}

// suspects are the jobs of a lost worker that were lost before.
func (l *Lead) suspects(ctx context.Context, w queue.Worker) ([]job.Record, error) {
	var list []job.Record
	for _, h := range w.Held {
		rec, err := l.Queue.Get(ctx, h.Tenant, h.Job)
		if errors.Is(err, job.ErrNotFound) {
			continue
		}
		if err != nil {
			return nil, err
		}
		lost := 0
		for _, a := range rec.Attempts {
			if a.Outcome == job.Lost && a.Number <= h.Attempt {
				lost++
			}
		}
		if lost > 1 {
			list = append(list, rec)
		}
	}
	return list, nil
}

// forgive takes back what earlier losses of a job's attempts were held against
// their workers.
func (l *Lead) forgive(ctx context.Context, rec job.Record) error {
	var all error
	for _, a := range rec.Attempts {
		if a.Outcome != job.Lost {
			continue
		}
		of := func(loss queue.Loss) bool { return slices.Contains(loss.Jobs, rec.ID) }
		order, err := l.Queue.Order(ctx, rec.Pool, a.Worker)
		if err == nil && slices.ContainsFunc(order.Losses, of) {
			_, err = l.Queue.ChangeOrder(ctx, rec.Pool, a.Worker, func(o *queue.Order) error {
				o.Losses = slices.DeleteFunc(o.Losses, of)
				return nil
			})
		}
		all = errors.Join(all, err)
	}
	return all
}

// charge holds a loss against the worker.
func (l *Lead) charge(ctx context.Context, w queue.Worker, others []queue.Worker) error {
	now := time.Now().UTC()
	order, err := l.Queue.ChangeOrder(ctx, w.Pool, w.ID, func(o *queue.Order) error {
		o.Losses = slices.DeleteFunc(o.Losses, func(loss queue.Loss) bool {
			return loss.Life == w.Life || now.Sub(loss.At) > lossWindow
		})
		loss := queue.Loss{Life: w.Life, At: now}
		for _, h := range w.Held {
			loss.Jobs = append(loss.Jobs, h.Job)
		}
		o.Losses = append(o.Losses, loss)
		if len(o.Losses) >= lossesInRow && spared(w, others) {
			o.Quarantined = now.Add(quarantineTime)
			o.Reason = fmt.Sprintf("it vanished %d times within %s", len(o.Losses), now.Sub(o.Losses[0].At).Round(time.Second))
		}
		return nil
	})
	if err == nil && order.Quarantined.After(now) {
		l.Counters.Quarantined.Add(1)
		l.Logger.Warn("worker is in quarantine", "worker", w.ID, "until", order.Quarantined, "reason", order.Reason)
	}
	return err
}

// spared reports whether others take the jobs of every class of a worker.
func spared(w queue.Worker, others []queue.Worker) bool {
	for _, class := range w.Classes {
		if !slices.ContainsFunc(others, func(o queue.Worker) bool {
			return o.ID != w.ID && o.Fit() && o.Serves(w.Pool, class)
		}) {
			return false
		}
	}
	return true
}
