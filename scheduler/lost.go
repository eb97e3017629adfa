package scheduler

import (
	"context"
	"maps"
	"slices"
	"time"

	"github.com/sandlot-dev/sandlot/pkg/queue"
)

// lost looks after workers that vanish: what they held is ended as lost and
// given to others at once. A worker that comes back as another life has lost
// what the former one held.
//
// A claim that was too young to be listed is found by the pass that follows.
func (l *Lead) lost(ctx context.Context) error {
	lives := map[string]queue.Worker{} // by pool and ID, as last heard
	lose := func(w queue.Worker, left bool) {
		if !l.led.has(w.Pool) {
			return // its leader does it; who leads after him makes a pass
		}
		n := l.Queue.SettleWorker(ctx, w)
		l.Counters.Abandoned.Add(int64(n))
		if left {
			l.carriedOut(ctx, w)
		}
		l.Logger.Info("worker is gone", "worker", w.ID, "left", left, "jobs", n)
		if !left {
			l.blame(ctx, w, slices.Collect(maps.Values(lives)))
			l.Counters.Lost.Add(1)
			l.kick()
		}
	}
	return l.Queue.WatchWorkers(ctx, func(c queue.WorkerChange) {
		if c.Listed {
			return
		}
		key := c.Worker.Pool + "/" + c.Worker.ID
		before, known := lives[key]
		if c.Gone {
			delete(lives, key)
			lose(c.Worker, c.Left)
			return
		}
		lives[key] = c.Worker
		if known && before.Life != c.Worker.Life {
			lose(before, false)
		}
	})
}

// carriedOut forgets that a worker was to be drained, once it has left: if it
// is started again, somebody wants it.
func (l *Lead) carriedOut(ctx context.Context, w queue.Worker) {
	if !w.Draining {
		return
	}
	order, err := l.Queue.Order(ctx, w.Pool, w.ID)
	if err == nil && order.Drain {
		_, err = l.Queue.ChangeOrder(ctx, w.Pool, w.ID, func(o *queue.Order) error {
			o.Drain, o.Deadline = false, time.Time{}
			return nil
		})
	}
	if err != nil && ctx.Err() == nil {
		l.Logger.Warn("forget that a worker was to be drained", "worker", w.ID, "error", err)
	}
}
