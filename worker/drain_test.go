package worker_test

import (
	"context"
	"errors"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sandlot-dev/sandlot/pkg/api"
	"github.com/sandlot-dev/sandlot/pkg/job"
	"github.com/sandlot-dev/sandlot/test/scripted"
	"github.com/sandlot-dev/sandlot/test/testenv"
	"github.com/sandlot-dev/sandlot/worker"
)

// listed is a worker as the API shows it, nil if it does not.
func listed(t *testing.T, c *testenv.Cluster, id string) *api.Worker {
	t.Helper()
	all, err := c.Client.Workers(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, w := range all {
		if w.ID == id {
			return &w
		}
	}
	return nil
}

// running waits until a job runs, and says where.
func running(t *testing.T, c *testenv.Cluster, id string) (on string) {
	t.Helper()
	testenv.Eventually(t, 20*time.Second, "the job runs", func() bool {
		j, err := c.Client.Get(t.Context(), id)
		on = j.Worker
		return err == nil && j.State == job.Running
	})
	return on
}

func TestDrainedWorkerFinishesAndLeaves(t *testing.T) {
	c := testenv.New(t, testenv.Config{Worker: func(w *worker.Config) { w.Slots = 1 }})
	slow := c.Submit(t, testenv.Sh("sleep 1"))
	running(t, c, slow.ID)
	if _, err := c.Client.Drain(t.Context(), "w1", 0); err != nil {
		t.Fatal(err)
	}
	next := c.Submit(t, testenv.Sh("echo next"))
	if done := c.Wait(t, slow.ID); testenv.Verdict(done) != "succeeded none exited" || len(done.Attempts) != 1 {
		t.Errorf("what ran: %s, %+v", testenv.Verdict(done), done.Attempts)
	}
	testenv.Eventually(t, 20*time.Second, "the worker leaves", func() bool { return listed(t, c, "w1") == nil })
	if j, err := c.Client.Get(t.Context(), next.ID); err != nil || j.State != job.Queued {
		t.Errorf("what came later is %s, %v", j.State, err)
	}
	c.StartWorker(t)
	if done := c.Wait(t, next.ID); done.Worker != "w2" || done.State != job.Succeeded {
		t.Errorf("%s on %s", done.State, done.Worker)
	}
}

func TestDrainGivesAwayWhatRunsAtTheDeadline(t *testing.T) {
	c := testenv.New(t, testenv.Config{})
	j := c.Submit(t, testenv.Sh("sleep 2"))
	running(t, c, j.ID)
	c.StartWorker(t)
	if _, err := c.Client.Drain(t.Context(), "w1", 100*time.Millisecond); err != nil {
		t.Fatal(err)
	}
	done := c.Wait(t, j.ID)
	if len(done.Attempts) != 2 || done.Attempts[0].Outcome != job.Drained || done.Worker != "w2" || done.State != job.Succeeded {
		t.Fatalf("%s on %s: %+v", done.State, done.Worker, done.Attempts)
	}
	if n := job.PlatformFaults(done.Attempts); n != 0 {
		t.Errorf("it counts as %d faults", n)
	}
	testenv.Eventually(t, 20*time.Second, "the worker leaves", func() bool { return listed(t, c, "w1") == nil })
}

func TestUndrainedWorkerTakesAgainBesideWhatRuns(t *testing.T) {
	c := testenv.New(t, testenv.Config{Worker: func(w *worker.Config) { w.Stay = true }})
	slow := c.Submit(t, testenv.Sh("sleep 8"))
	running(t, c, slow.ID)
	if _, err := c.Client.Drain(t.Context(), "w1", 0); err != nil {
		t.Fatal(err)
	}
	testenv.Eventually(t, 20*time.Second, "it says that it is draining", func() bool {
		w := listed(t, c, "w1")
		return w != nil && w.State == api.WorkerDraining
	})
	next := c.Submit(t, testenv.Sh("echo next"))
	e, err := c.Client.Explain(t.Context(), next.ID)
	if err != nil || !strings.Contains(e.Sentences[len(e.Sentences)-1], "w1 is draining") {
		t.Errorf("%q, %v", e.Sentences, err)
	}
	if _, err := c.Client.Undrain(t.Context(), "w1"); err != nil {
		t.Fatal(err)
	}
	if done := c.Wait(t, next.ID); done.State != job.Succeeded {
		t.Errorf("after undrain: %s", done.State)
	}
	if j, err := c.Client.Cancel(t.Context(), slow.ID); err != nil || j.State != job.Canceling {
		t.Errorf("the slow one did not run on: %s, %v", j.State, err)
	}
}

// brokenHost makes no sandboxes while it is broken.
type brokenHost struct {
	scripted.Runtime
	broken atomic.Bool
}

func (b *brokenHost) Prepare(ctx context.Context, task worker.Task) (worker.Sandbox, error) {
	if b.broken.Load() {
		return nil, errors.New("no space left on device")
	}
	return b.Runtime.Prepare(ctx, task)
}

func TestWorkerThatMakesNoSandboxesTakesNoJobs(t *testing.T) {
	host := &brokenHost{}
	host.broken.Store(true)
	c := testenv.New(t, testenv.Config{Worker: func(w *worker.Config) {
		if w.ID == "w1" {
			w.Runtime = host
		}
	}})
	var jobs []api.Job
	for range 4 {
		jobs = append(jobs, c.Submit(t, testenv.Sh("echo hello")))
	}
	testenv.Eventually(t, 20*time.Second, "it is in quarantine", func() bool {
		w := listed(t, c, "w1")
		return w != nil && w.State == api.WorkerQuarantined && strings.Contains(w.Why, "no space left")
	})
	c.StartWorker(t)
	for _, j := range jobs {
		if done := c.Wait(t, j.ID); done.State != job.Succeeded || done.Worker != "w2" {
			t.Errorf("%s on %s: %+v", done.State, done.Worker, done.Attempts)
		}
	}
	host.broken.Store(false)
	if _, err := c.Client.ReleaseWorker(t.Context(), "w1"); err != nil {
		t.Fatal(err)
	}
	testenv.Eventually(t, 20*time.Second, "it takes jobs again", func() bool {
		w := listed(t, c, "w1")
		return w != nil && w.State == api.WorkerReady
	})
}

func TestRegistryTellsOfWarmImagesAndOfMemoryThatIsTaken(t *testing.T) {
	c := testenv.New(t, testenv.Config{Worker: func(w *worker.Config) { w.Memory, w.Allowance = 4*job.GiB, 64*job.MiB }})
	if w := listed(t, c, "w1"); w != nil && (len(w.Images) != 0 || w.MemoryTaken != 0) {
		t.Errorf("at first %+v", w)
	}
	j := c.Submit(t, testenv.Sh("sleep 20"))
	running(t, c, j.ID)
	testenv.Eventually(t, 20*time.Second, "the key tells of it", func() bool {
		w := listed(t, c, "w1")
		return w != nil && w.MemoryTaken == 512*job.MiB+64*job.MiB && w.Memory == 4*job.GiB &&
			len(w.Images) == 1 && w.Images[0] == testenv.ScriptedImage.Digest
	})
	if _, err := c.Client.Cancel(t.Context(), j.ID); err != nil {
		t.Fatal(err)
	}
	testenv.Eventually(t, 20*time.Second, "it is free again", func() bool {
		w := listed(t, c, "w1")
		return w != nil && w.MemoryTaken == 0
	})
}
