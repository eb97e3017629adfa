package scheduler

import (
	"context"
	"log/slog"
	"maps"
	"sync"
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
	// Aging is how long a job waits for each band of priority that it rises;
	// a minute if zero.
	Aging time.Duration

	kicks chan struct{}
	// settings is what is set for tenants and queues. Run keeps it if nobody
	// else does.
	settings *settings
}

// LeadCounters count what the leader has done since the process started.
type LeadCounters struct {
	Leading   atomic.Bool
	Released  atomic.Int64 // hints released, of all tenants
	Dropped   atomic.Int64 // hints that no job needed any more
	Lost      atomic.Int64 // workers lost
	Abandoned atomic.Int64 // attempts ended because their worker was lost
	Passes    atomic.Int64 // reconcile passes
	Restored  atomic.Int64 // hints that were missing and given again
	// Redelivered counts hints that were with a worker that is gone.
	Redelivered atomic.Int64
	Orphans     atomic.Int64 // objects that belonged to no job

	mu       sync.Mutex
	byTenant map[string]int64 // hints released
}

// released counts hints of a tenant.
func (c *LeadCounters) released(tenant string, n int) {
	if n == 0 {
		return
	}
	c.Released.Add(int64(n))
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.byTenant == nil {
		c.byTenant = map[string]int64{}
	}
	c.byTenant[tenant] += int64(n)
}

// ReleasedByTenant says how many hints of each tenant were released.
func (c *LeadCounters) ReleasedByTenant() map[string]int64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return maps.Clone(c.byTenant)
}

// Run leads whenever it can, until ctx ends.
func (l *Lead) Run(ctx context.Context) error {
	if l.Grace == 0 {
		l.Grace = 10 * time.Second
	}
	if l.Every == 0 {
		l.Every = 10 * time.Minute
	}
	if l.Aging == 0 {
		l.Aging = defaultAging
	}
	l.kicks = make(chan struct{}, 1)
	if l.settings != nil {
		return l.lead(ctx)
	}
	l.settings = newSettings()
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return l.Queue.WatchSettings(ctx, l.settings.apply) })
	group.Go(func() error { return l.lead(ctx) })
	return group.Wait()
}

func (l *Lead) lead(ctx context.Context) error {
	// Nothing is released before it is known whether it is to wait.
	if err := l.settings.await(ctx, func() bool { return l.settings.listed }); err != nil {
		return err
	}
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
