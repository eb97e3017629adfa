package e2e

import (
	"fmt"
	"testing"
	"time"

	"github.com/sandlot-dev/sandlot/pkg/api"
	"github.com/sandlot-dev/sandlot/pkg/client"
	"github.com/sandlot-dev/sandlot/pkg/job"
	"github.com/sandlot-dev/sandlot/test/testenv"
)

// crashJobs is how many jobs there are when something is killed.
const crashJobs = 200

// someJobs submits jobs that each print a number of their own, and waits
// until some of them have ended. patience is how long all of them may take
// from a restart on: a minute, or longer on a host that is so busy that they
// would take longer without any fault.
func someJobs(t *testing.T, c *client.Client) (ids []string, patience time.Duration) {
	t.Helper()
	begun := time.Now()
	ids = submitAll(t, c, crashJobs, func(i int) api.Submit { return sh(fmt.Sprintf("sleep 0.1; echo %d", i)) })
	const first = crashJobs / 5
	waitAll(t, c, ids[:first], 2*time.Minute)
	if t.Failed() {
		t.FailNow()
	}
	pace := time.Since(begun) / first
	testenv.Eventually(t, time.Minute, "two jobs run, so that a kill interrupts one", func() bool {
		page, err := c.List(t.Context(), client.ListOptions{State: job.Running})
		return err == nil && len(page.Jobs) >= 2
	})
	return ids, max(time.Minute, 20*time.Second+2*pace*crashJobs)
}

// wantAll wants one right result of every job, the same when asked again. It
// returns how many needed more than one attempt.
func wantAll(t *testing.T, c *client.Client, ids []string, patience time.Duration) (again int) {
	t.Helper()
	for i, done := range waitAll(t, c, ids, patience) {
		if got := testenv.Verdict(done); got != "succeeded none exited" || done.Steps[0].Stdout.Text != fmt.Sprintf("%d\n", i) {
			t.Errorf("job %d (%s): %s, attempts %+v", i, ids[i], got, done.Attempts)
			continue
		}
		finished := 0
		for n, a := range done.Attempts {
			if a.Number != n+1 || a.Outcome == "" {
				t.Errorf("job %d: attempts are %+v", i, done.Attempts)
			}
			if a.Outcome == job.Finished {
				finished++
			}
		}
		if finished != 1 {
			t.Errorf("job %d: %d attempts finished: %+v", i, finished, done.Attempts)
		}
		if len(done.Attempts) > 1 {
			again++
		}
		if later, err := c.Get(t.Context(), ids[i]); err != nil || !later.UpdatedAt.Equal(done.UpdatedAt) {
			t.Errorf("job %d has another result when asked again: %v", i, err)
		}
	}
	return again
}

// TestKilledServerLosesNothing kills everything at once in the middle of many
// jobs.
func TestKilledServerLosesNothing(t *testing.T) {
	p := program(t)
	dir := testenv.ShortDir(t)
	up := p.Up(t, dir, prepare)
	ids, patience := someJobs(t, up.Client)
	up.Kill(t)
	begun := time.Now()
	up = p.Up(t, dir, prepare)
	again := wantAll(t, up.Client, ids, patience-time.Since(begun))
	t.Logf("all results %v after the restart; %d jobs needed another attempt", time.Since(begun).Round(time.Second), again)
	if again == 0 {
		t.Error("no job was interrupted: the test proves nothing")
	}
	up.Terminate(t, 10*time.Second)
	wantNothingLeft(t, dir)
}

// TestKilledRolesLoseNothing runs every role as a process of its own, on a
// separate nats-server, and kills a worker, then the scheduler.
func TestKilledRolesLoseNothing(t *testing.T) {
	p := program(t)
	cluster := startRoles(t, p)
	// No subtests: a role that one of them starts would end with it.
	for _, victim := range []string{"worker", "scheduler"} {
		ids, patience := someJobs(t, cluster.serving.Client)
		var begun time.Time
		if victim == "worker" {
			cluster.worker.Kill(t)
			begun = time.Now()
			cluster.startWorker(t, p)
		} else {
			cluster.serving.Kill(t)
			begun = time.Now()
			cluster.startScheduler(t, p)
		}
		again := wantAll(t, cluster.serving.Client, ids, patience-time.Since(begun))
		t.Logf("%s killed: all results %v after the restart; %d jobs needed another attempt", victim, time.Since(begun).Round(time.Second), again)
		if victim == "worker" && again == 0 {
			t.Error("no job was interrupted: the test proves nothing")
		}
	}
	cluster.worker.Terminate(t, 10*time.Second)
	cluster.serving.Terminate(t, 10*time.Second)
	wantNothingLeft(t, cluster.workerDir)
}
