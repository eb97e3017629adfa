package scheduler

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"time"

	"github.com/sandlot-dev/sandlot/pkg/api"
	"github.com/sandlot-dev/sandlot/pkg/job"
	"github.com/sandlot-dev/sandlot/pkg/queue"
)

// caps keeps what waits of a tenant, and of each of its queues, below what is
// set for them. What waits is counted by the index, which this process keeps
// current with its own accepts at once and with those of others within
// moments; where the index does not know all jobs any more, the lanes are
// counted, once a second at most.
type caps struct {
	s *Scheduler

	mu sync.Mutex
	// promised counts the jobs that were let in and are not in the index yet.
	promised map[scoped]int
	lanes    map[scoped]int
	asked    time.Time
}

func newCaps(s *Scheduler) *caps {
	return &caps{s: s, promised: map[scoped]int{}, lanes: map[scoped]int{}}
}

// admit lets one more job in, or says at which cap it is refused. Call done
// once the index knows of the job, or once none has come of it.
func (c *caps) admit(ctx context.Context, tenant, queue string) (done func(), err error) {
	names := []scoped{{tenant, ""}, {tenant, queue}}
	most := []int{c.s.settings.share(tenant, "").MaxQueued, c.s.settings.share(tenant, queue).MaxQueued}
	if most[0] == 0 && most[1] == 0 {
		return func() {}, nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.count(ctx)
	for i, name := range names {
		if most[i] == 0 {
			continue
		}
		queued, _ := c.s.index.unfinished(name.tenant, name.name)
		if n := max(queued, c.lanes[name]) + c.promised[name]; n >= most[i] {
			return nil, overCap(name, n, most[i])
		}
	}
	for _, name := range names {
		c.promised[name]++
	}
	return sync.OnceFunc(func() { c.settle(names) }), nil
}

func (c *caps) settle(names []scoped) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, name := range names {
		if c.promised[name]--; c.promised[name] == 0 {
			delete(c.promised, name)
		}
	}
}

// count counts the lanes if the index does not hold all that waits: while it
// is being read, or when there is more than it keeps.
func (c *caps) count(ctx context.Context) {
	if c.s.isReady() && !c.s.index.hasDropped() {
		clear(c.lanes)
		return
	}
	if time.Since(c.asked) < time.Second {
		return
	}
	lanes, err := c.s.Queue.Lanes(ctx, queue.EveryPool, queue.EveryClass)
	if err != nil {
		c.s.log.WarnContext(ctx, "count lanes for a cap", "error", err)
		return // what was counted last goes on to hold
	}
	clear(c.lanes)
	c.asked = time.Now()
	for _, l := range lanes {
		c.lanes[scoped{l.Tenant, ""}] += int(l.Backlog)
		c.lanes[scoped{l.Tenant, l.Queue}] += int(l.Backlog)
	}
}

// overCapAgain is when a submit that found a cap may try again.
const overCapAgain = time.Second

func overCap(name scoped, n, most int) *api.Problem {
	what, set := fmt.Sprintf("tenant %q", name.tenant), "tenants set "+name.tenant
	if name.name != "" {
		what, set = fmt.Sprintf("queue %q of tenant %q", name.name, name.tenant), "queues set "+name.name
	}
	p := busy(http.StatusTooManyRequests, api.TypeFull, overCapAgain, "%s is at its cap of waiting jobs: %d of %d; submit again when some have started, or raise it with `sandlot %s --max-queued N`", what, n, most, set)
	p.Errors = []api.FieldError{{Location: "max_queued", Message: fmt.Sprintf("is %d for %s", most, what), Value: n}}
	return p
}

// admit is caps.admit, except that a submit that is repeated is answered
// although the cap is reached: its job is counted already.
func (s *Scheduler) admit(ctx context.Context, rec job.Record) (done func(), err error) {
	done, err = s.caps.admit(ctx, rec.Tenant, rec.Queue)
	var full *api.Problem
	if !errors.As(err, &full) || rec.IdempotencyKey == "" && rec.Batch == "" && rec.Schedule == nil {
		return done, err
	}
	if _, known := s.Queue.Get(ctx, rec.Tenant, rec.ID); known == nil {
		return func() {}, nil
	}
	return nil, err
}
