package scheduler

import (
	"context"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/sandlot-dev/sandlot/pkg/job"
	"github.com/sandlot-dev/sandlot/pkg/queue"
)

// Lead does what one scheduler does for all: it releases hints, looks after
// lost workers, wakes jobs that wait for a time, and reconciles hints with
// records. Each pool has a lease, and whoever holds it does this for the pool;
// a second scheduler waits for the lease, and nothing is handed over, since
// all of it stands in the queue. What is of no pool is done by the leader of
// the default one.
type Lead struct {
	Queue  *queue.Queue
	Logger *slog.Logger
	// Counters is filled in while Run runs; it may be read at any time.
	Counters LeadCounters

	// Grace is how old a change must be before its hint is missed; 10 s if
	// zero.
	Grace time.Duration
	// Every is the time between passes where they are costly, 10 min if zero;
	// Often where they cost next to nothing, 30 s if zero.
	Every, Often time.Duration
	// Aging is how long a job waits for each band of priority that it rises;
	// a minute if zero.
	Aging time.Duration

	kicks chan struct{}
	// settings is what is set for tenants and queues. Run keeps it if nobody
	// else does.
	settings *settings
	tokens   *tokens
	// capped is held from counting what is out until what may join it is.
	capped sync.Mutex
	led    ledPools
	// batches is what is done for batches that are objects; nil for nothing.
	batches *batchLead
	// ticks has schedules submit their jobs; nil for nothing.
	ticks *ticks
	// spills are the jobs that may spill over; nil for none.
	spills *spills
}

// LeadCounters count what the leader has done since the process started.
type LeadCounters struct {
	Leading   atomic.Bool  // the default pool
	Released  atomic.Int64 // hints released, of all tenants
	Dropped   atomic.Int64 // hints that no job needed any more
	Lost      atomic.Int64 // workers lost
	Abandoned atomic.Int64 // attempts ended because their worker was lost
	Passes    atomic.Int64 // reconcile passes
	// Quarantined counts workers that were taken out for vanishing.
	Quarantined atomic.Int64
	Restored    atomic.Int64 // hints that were missing and given again
	// Redelivered counts hints that were with a worker that is gone.
	Redelivered atomic.Int64
	Orphans     atomic.Int64 // objects that belonged to no job
	Buried      atomic.Int64 // dead jobs that their index lacked
	Spilled     atomic.Int64 // jobs that spilled over to another pool
	// Stray counts hints of jobs that had spilled over.
	Stray atomic.Int64

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
	if l.Often == 0 {
		l.Often = 30 * time.Second
	}
	if l.Aging == 0 {
		l.Aging = defaultAging
	}
	l.kicks = make(chan struct{}, 1)
	l.tokens = newTokens()
	group, ctx := errgroup.WithContext(ctx)
	if l.settings == nil {
		l.settings = newSettings()
		group.Go(func() error { return l.Queue.WatchSettings(ctx, l.settings.apply) })
	}
	group.Go(func() error { return l.pools(ctx) })
	group.Go(func() error { return l.lost(ctx) })
	group.Go(func() error { return l.reconcile(ctx) })
	return group.Wait()
}

// pools leads every pool that there is, and that no other leads.
func (l *Lead) pools(ctx context.Context) error {
	// Nothing is released before it is known whether it is to wait.
	if err := l.settings.await(ctx, func() bool { return l.settings.listed }); err != nil {
		return err
	}
	group, ctx := errgroup.WithContext(ctx)
	ends := map[string]context.CancelFunc{}
	group.Go(func() error {
		return l.Queue.WatchPools(ctx, func(pools []job.Pool) {
			l.led.know(pools)
			for _, p := range pools {
				if ends[p.Name] != nil {
					continue
				}
				ctx, end := context.WithCancel(ctx)
				ends[p.Name] = end
				group.Go(func() error {
					if err := l.pool(ctx, p.Name); ctx.Err() == nil {
						return err
					}
					return nil // removed, or the scheduler stops
				})
			}
			for name, end := range ends {
				if !slices.ContainsFunc(pools, func(p job.Pool) bool { return p.Name == name }) {
					end()
					delete(ends, name)
				}
			}
		})
	})
	return group.Wait()
}

// pool leads one pool, and what is of none beside the default one.
func (l *Lead) pool(ctx context.Context, pool string) error {
	return l.Queue.Lead(ctx, pool, func(ctx context.Context, lease *queue.Lease) error {
		l.led.set(pool, true)
		defer l.led.set(pool, false)
		l.kick() // what happened while nobody led
		group, ctx := errgroup.WithContext(ctx)
		group.Go(func() error { return l.release(ctx, lease) })
		if l.spills != nil {
			group.Go(func() error { return l.spills.run(ctx, pool) })
		}
		if pool == job.DefaultPool {
			l.Counters.Leading.Store(true)
			defer l.Counters.Leading.Store(false)
			group.Go(func() error { return l.Queue.Due(ctx) })
			if l.batches != nil {
				group.Go(func() error { return l.batches.expand(ctx) })
				group.Go(func() error { return l.batches.store(ctx) })
				group.Go(func() error { return l.batches.call(ctx) })
				group.Go(func() error { return l.batches.carryOut(ctx) })
			}
			if l.ticks != nil {
				group.Go(func() error { return l.ticks.run(ctx) })
			}
		}
		return group.Wait()
	})
}

// ledPools are the pools there are and those that are led here.
type ledPools struct {
	mu    sync.Mutex
	known []job.Pool
	led   map[string]bool
	// changed is closed and replaced when other pools are known.
	changed chan struct{}
}

func (p *ledPools) know(pools []job.Pool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.known = pools
	if p.changed != nil {
		close(p.changed)
	}
	p.changed = make(chan struct{})
}

func (p *ledPools) set(pool string, led bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.led == nil {
		p.led = map[string]bool{}
	}
	p.led[pool] = led
}

// has reports whether the pool is led here.
func (p *ledPools) has(pool string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.led[pool]
}

// all are the names of the pools that are led here.
func (p *ledPools) all() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	var names []string
	for name, led := range p.led {
		if led {
			names = append(names, name)
		}
	}
	return names
}

// list are all pools that there are, led here or not.
func (p *ledPools) list() []job.Pool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.known)
}

// look is what a pool is made of at the moment, and what tells of a change.
func (p *ledPools) look(name string) (job.Pool, <-chan struct{}) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.changed == nil {
		p.changed = make(chan struct{})
	}
	for _, one := range p.known {
		if one.Name == name {
			return one, p.changed
		}
	}
	return job.Pool{Name: name}, p.changed
}

// kick has a reconcile pass made soon.
func (l *Lead) kick() {
	select {
	case l.kicks <- struct{}{}:
	default:
	}
}
