package scheduler

import (
	"context"

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
		l.Logger.Info("worker is gone", "worker", w.ID, "left", left, "jobs", n)
		if !left {
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
