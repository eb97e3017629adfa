package e2e

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/sandlot-dev/sandlot/pkg/api"
	"github.com/sandlot-dev/sandlot/pkg/client"
	"github.com/sandlot-dev/sandlot/test/testenv"
)

// submitAll submits n jobs at once and returns their ids in order.
func submitAll(t *testing.T, c *client.Client, n int, job func(i int) api.Submit) []string {
	t.Helper()
	ids := make([]string, n)
	each(n, func(i int) {
		accepted, err := c.Submit(t.Context(), job(i), 0)
		if err != nil {
			t.Errorf("submit job %d: %v", i, err)
			return
		}
		ids[i] = accepted.ID
	})
	if t.Failed() {
		t.FailNow()
	}
	return ids
}

// each calls f for 0 to n-1, eight at a time.
func each(n int, f func(i int)) {
	var all sync.WaitGroup
	turns := make(chan struct{}, 8)
	for i := range n {
		turns <- struct{}{}
		all.Go(func() {
			defer func() { <-turns }()
			f(i)
		})
	}
	all.Wait()
}

// waitAll waits for the end of all jobs.
func waitAll(t *testing.T, c *client.Client, ids []string, patience time.Duration) []api.Job {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	jobs := make([]api.Job, len(ids))
	var mu sync.Mutex
	late := map[string]int{}
	each(len(ids), func(i int) {
		done, err := c.Wait(ctx, ids[i])
		jobs[i] = done
		if err == nil {
			return
		}
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("wait for job %d (%s): %v", i, ids[i], err)
			return
		}
		mu.Lock()
		defer mu.Unlock()
		if now, err := c.Get(t.Context(), ids[i]); err != nil {
			late[err.Error()]++
		} else {
			late[string(now.State)]++
			jobs[i] = now
		}
	})
	if len(late) > 0 {
		t.Errorf("after %v some jobs have not ended: %v", patience, late)
	}
	return jobs
}

// run runs one job to its end.
func run(t *testing.T, c *client.Client, submit api.Submit) api.Job {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	done, err := c.Submit(ctx, submit, time.Minute)
	if err == nil && !done.State.Final() {
		done, err = c.Wait(ctx, done.ID)
	}
	if err != nil {
		t.Fatalf("run job: %v", err)
	}
	return done
}

// wantVerdict fails the test unless the job ended as said.
func wantVerdict(t *testing.T, j api.Job, want string) {
	t.Helper()
	if got := testenv.Verdict(j); got != want {
		t.Errorf("verdict is %q, want %q; evidence %+v; steps %+v", got, want, j.Verdict, j.Steps)
	}
}
