package scheduler_test

import (
	"strings"
	"testing"
	"time"

	"github.com/sandlot-dev/sandlot/pkg/api"
	"github.com/sandlot-dev/sandlot/pkg/job"
	"github.com/sandlot-dev/sandlot/pkg/queue"
	"github.com/sandlot-dev/sandlot/scheduler"
)

// blocked is a worker whose jobs end with the test.
func (w *world) blocked(slots int) {
	rest := make(chan struct{})
	w.work(slots, func(job.Record) (job.State, *job.Result) { <-rest; return job.Succeeded, nil })
	w.t.Cleanup(func() { close(rest) })
}

// idle is a worker that takes nothing.
func (w *world) idle(who queue.Worker) *queue.Registration {
	w.t.Helper()
	who.ID, who.Slots, who.CPU, who.Memory, who.Started = "w1", 1, 2, 4<<30, time.Now()
	reg, err := w.queue.Register(w.ctx, who)
	must(w.t, err)
	w.t.Cleanup(func() { _ = reg.Close() })
	return reg
}

// waiting submits a job and returns its id.
func (w *world) waiting(change func(*api.Submit)) string {
	w.t.Helper()
	s := echo("x")
	if change != nil {
		change(&s)
	}
	j, err := w.client.Submit(w.ctx, s, 0)
	must(w.t, err)
	return j.ID
}

// running submits a job and waits until it runs.
func (w *world) running() string {
	w.t.Helper()
	id := w.waiting(nil)
	eventually(w.t, w, "it runs", func() bool {
		j, err := w.client.Get(w.ctx, id)
		return err == nil && j.State == job.Running
	})
	return id
}

// TestExplainKnowsEveryReasonToWait causes each reason for which a job waits
// and looks whether it is named, and what would help.
func TestExplainKnowsEveryReasonToWait(t *testing.T) {
	for name, c := range map[string]struct {
		config func(*scheduler.Config)
		cause  func(w *world) (id string)
		told   string
	}{
		"jobs of its tenant are before it": {nil, func(w *world) string {
			w.blocked(1)
			w.running()
			w.waiting(nil)
			return w.waiting(nil)
		}, "with one job of its tenant of the same or a better priority before it"},
		"other tenants have their share": {nil, func(w *world) string {
			w.blocked(1)
			w.running()
			_, err := w.tenant("acme", job.Share{Weight: 3}).Submit(w.ctx, echo("x"), 0)
			must(w.t, err)
			return w.waiting(nil)
		}, "other tenants with waiting jobs: 1, and its own has 1 of 4 parts, 25 %"},
		"its tenant is at its cap": {nil, func(w *world) string {
			w.blocked(2)
			_, err := w.client.SetTenant(w.ctx, "default", api.TenantSettings{Share: job.Share{MaxRunning: 1}})
			must(w.t, err)
			w.running()
			return w.waiting(nil)
		}, `tenant "default" is at its cap of running jobs, 1 of 1; ` + "`sandlot tenants set default --max-running N` changes it"},
		"its queue is at its cap": {nil, func(w *world) string {
			w.blocked(2)
			_, err := w.client.SetQueue(w.ctx, "default", api.QueueSettings{Share: job.Share{MaxRunning: 1}})
			must(w.t, err)
			w.running()
			return w.waiting(nil)
		}, `queue "default" is at its cap of running jobs, 1 of 1; ` + "`sandlot queues set default --max-running N` changes it"},
		"its tenant has a rate": {nil, func(w *world) string {
			w.blocked(4)
			_, err := w.client.SetTenant(w.ctx, "default", api.TenantSettings{Share: job.Share{Rate: job.Rate{PerSecond: 0.1, Burst: 1}}})
			must(w.t, err)
			w.running()
			return w.waiting(nil)
		}, `At most 0.1 jobs of tenant "default" start in a second, and 1 at once.`},
		"its tenant is paused": {nil, func(w *world) string {
			w.blocked(1)
			_, err := w.client.SetTenant(w.ctx, "default", api.TenantSettings{Share: job.Share{Paused: true}})
			must(w.t, err)
			return w.waiting(nil)
		}, `tenant "default" is paused; ` + "`sandlot tenants set default --paused=false` lets it go on"},
		"its queue is paused": {nil, func(w *world) string {
			w.blocked(1)
			_, err := w.client.SetQueue(w.ctx, "default", api.QueueSettings{Share: job.Share{Paused: true}})
			must(w.t, err)
			return w.waiting(nil)
		}, `queue "default" is paused; ` + "`sandlot queues set default --paused=false` lets it go on"},
		"its pool is paused": {nil, func(w *world) string {
			w.blocked(1)
			_, err := w.client.SetPool(w.ctx, "main", api.PoolSettings{Paused: true})
			must(w.t, err)
			return w.waiting(nil)
		}, "its jobs wait until it is resumed (`sandlot pools resume main`)"},
		"no worker of its class": {nil, func(w *world) string {
			return w.waiting(nil)
		}, "No worker of class s of pool main is registered; start one with `sandlot worker`."},
		"its workers cannot enforce its limits": {nil, func(w *world) string {
			id := w.waiting(nil) // while nobody says that it cannot run
			w.idle(queue.Worker{Unfit: []string{"limits.pids: no such controller"}})
			return id
		}, "No registered worker of class s of pool main takes jobs: w1 cannot enforce limits.pids: no such controller."},
		"its workers drain": {nil, func(w *world) string {
			w.idle(queue.Worker{Draining: true})
			return w.waiting(nil)
		}, "w1 is draining: it finishes what it has and leaves"},
		"its workers are in quarantine": {nil, func(w *world) string {
			w.idle(queue.Worker{Quarantined: time.Now().Add(time.Hour), Why: "3 jobs in a row got no sandbox"})
			return w.waiting(nil)
		}, "of w1: 3 jobs in a row got no sandbox (`sandlot workers release w1` lets it out)"},
		"all slots are busy": {nil, func(w *world) string {
			w.blocked(1)
			w.running()
			return w.waiting(nil)
		}, "All 1 slots of the workers of class s of pool main are busy (workers: 1)."},
		"its time has not come": {nil, func(w *world) string {
			return w.waiting(func(s *api.Submit) { s.NotBefore = time.Now().Add(time.Hour) })
		}, "not_before says so"},
		"its next attempt is not due": {nil, func(w *world) string {
			id, reg := w.waiting(nil), w.idle(queue.Worker{})
			delivery, err := w.queue.Take(w.ctx, reg)
			must(w.t, err)
			claim, err := w.queue.Claim(w.ctx, reg, delivery)
			must(w.t, err)
			must(w.t, w.queue.Retry(w.ctx, claim, job.Attempt{Outcome: job.AttemptFailed, Reason: job.Exited}, time.Now().Add(time.Hour)))
			return id
		}, "attempts are spaced out after a failure"},
		"it may expire meanwhile": {nil, func(w *world) string {
			return w.waiting(func(s *api.Submit) { s.Budgets.StartBy = 3_600_000 })
		}, "if it still waits then"},
		"it may spill over": {nil, func(w *world) string {
			w.prefer(job.MaxSpillAfter, "main")
			w.workIn("w-main", "main", "s")
			return w.waiting(nil)
		}, "; spills over to main in "},
		"its batch has not come to it": {nil, func(w *world) string {
			return job.ItemID(w.uploaded(lines(300)).ID, 299)
		}, "It is item 299 of its batch and no job yet: 256 of the 300 items are or were"},
		"nobody leads its pool": {func(c *scheduler.Config) { c.Gateway = true }, func(w *world) string {
			return w.waiting(nil)
		}, "No scheduler leads pool main, so no more of its jobs are released"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, c.config)
			id := c.cause(w)
			var told string
			defer func() {
				if t.Failed() {
					t.Log(told)
				}
			}()
			eventually(t, w, c.told, func() bool {
				e, err := w.client.Explain(w.ctx, id)
				told = strings.Join(e.Sentences, "\n")
				return err == nil && strings.Contains(told, c.told)
			})
		})
	}
}
