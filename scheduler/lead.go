package scheduler

import (
	"context"
	"log/slog"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/sandlot-dev/sandlot/pkg/queue"
)

// Lead does what one scheduler of a pool does for all: it releases hints,
// looks after lost workers, wakes jobs that wait for a time, and reconciles
// hints with records. Whoever holds the pool's lease does it; a second
// scheduler waits for the lease, and nothing is handed over, since all of it
// stands in the queue.
type Lead struct {
	Queue  *queue.Queue
	Logger *slog.Logger
	// Counters is filled in while Run runs; it may be read at any time.
	Counters LeadCounters

	// Grace is how old a change must be before its hint is missed; 10 s if
	// zero.
	Grace time.Duration
	// Every is the time between passes; 10 min if zero.
	Every time.Duration

	kicks chan struct{}
}

// LeadCounters count what the leader has done since the process started.
type LeadCounters struct {
	Leading   atomic.Bool
	Released  atomic.Int64 // hints released
	Dropped   atomic.Int64 // hints that no job needed any more
	Lost      atomic.Int64 // workers lost
	Abandoned atomic.Int64 // attempts ended because their worker was lost
	Passes    atomic.Int64 // reconcile passes
	Restored  atomic.Int64 // hints that were missing and given again
	// Redelivered counts hints that were with a worker that is gone.
	Redelivered atomic.Int64
	Orphans     atomic.Int64 // objects that belonged to no job
}

// Run leads whenever it can, until ctx ends.
func (l *Lead) Run(ctx context.Context) error {
	if l.Grace == 0 {
		l.Grace = 10 * time.Second
	}
	if l.Every == 0 {
		l.Every = 10 * time.Minute
	}
	l.kicks = make(chan struct{}, 1)
	return l.Queue.Lead(ctx, func(ctx context.Context, lease *queue.Lease) error {
		l.Counters.Leading.Store(true)
		defer l.Counters.Leading.Store(false)
		group, ctx := errgroup.WithContext(ctx)
		group.Go(func() error { return l.release(ctx, lease) })
		group.Go(func() error { return l.lost(ctx) })
		group.Go(func() error { return l.reconcile(ctx) })
		group.Go(func() error { return l.Queue.Due(ctx) })
		return group.Wait()
	})
}

// kick has a reconcile pass made soon.
func (l *Lead) kick() {
	select {
	case l.kicks <- struct{}{}:
	default:
	}
}
