// Package workers_test kills and stops worker processes whose sandboxes are
// scripted.
package workers_test

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"syscall"
	"testing"
	"time"

	"github.com/sandlot-dev/sandlot/pkg/api"
	"github.com/sandlot-dev/sandlot/pkg/job"
	"github.com/sandlot-dev/sandlot/pkg/queue"
	"github.com/sandlot-dev/sandlot/pkg/telemetry"
	"github.com/sandlot-dev/sandlot/test/scripted"
	"github.com/sandlot-dev/sandlot/test/testenv"
	"github.com/sandlot-dev/sandlot/worker"
)

// The variables that make this test's binary a worker.
const (
	asWorker = "SANDLOT_TEST_WORKER"
	atNATS   = "SANDLOT_TEST_NATS"
	inDir    = "SANDLOT_TEST_DIR"
)

func TestMain(m *testing.M) {
	id := os.Getenv(asWorker)
	if id == "" {
		os.Exit(m.Run())
	}
	if err := run(id); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(id string) error {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	log := slog.New(slog.NewTextHandler(os.Stderr, nil))
	q, err := queue.Open(ctx, queue.Config{URL: os.Getenv(atNATS), Name: id, Logger: log})
	if err != nil {
		return err
	}
	defer q.Close()
	tel, err := telemetry.Setup(ctx, telemetry.Config{Service: "worker", Instance: id})
	if err != nil {
		return err
	}
	w, err := worker.New(worker.Config{
		ID: id, Slots: 2, Dir: os.Getenv(inDir), Runtime: new(scripted.Runtime), Memory: 8 * job.GiB,
		Queue: q, Logger: log, Telemetry: tel,
	})
	if err != nil {
		return err
	}
	return w.Run(ctx)
}

// process starts a worker of its own and waits until it is listed.
func process(t *testing.T, c *testenv.Cluster, id string) *testenv.Process {
	t.Helper()
	p := testenv.Start(t, testenv.Command{Name: id, Path: os.Args[0], Env: []string{
		asWorker + "=" + id, atNATS + "=" + c.NATS, inDir + "=" + t.TempDir(),
	}})
	ready(t, c, id)
	return p
}

func ready(t *testing.T, c *testenv.Cluster, id string) {
	t.Helper()
	testenv.Eventually(t, 30*time.Second, id+" is ready", func() bool {
		all, err := c.Client.Workers(t.Context())
		for _, w := range all {
			if w.ID == id && w.State == api.WorkerReady {
				return err == nil
			}
		}
		return false
	})
}

// twoWorkers starts two, has one of them run a script, and says which.
func twoWorkers(t *testing.T, c *testenv.Cluster, script string) (j api.Job, holder *testenv.Process, other string) {
	t.Helper()
	both := map[string]*testenv.Process{"first": process(t, c, "first"), "second": process(t, c, "second")}
	j = c.Submit(t, testenv.Sh(script))
	testenv.Eventually(t, 30*time.Second, "the job runs", func() bool {
		got, err := c.Client.Get(t.Context(), j.ID)
		holder = both[got.Worker]
		return err == nil && got.State == job.Running
	})
	if holder == both["first"] {
		return j, holder, "second"
	}
	return j, holder, "first"
}

// lostWithin is the promise: a result by another worker after a kill -9.
const lostWithin = 15 * time.Second

func TestJobOfAKilledWorkerIsAnsweredByAnother(t *testing.T) {
	t.Parallel()
	c := testenv.New(t, testenv.Config{Workers: -1, Listen: true})
	j, holder, other := twoWorkers(t, c, "sleep 1; echo done")
	began := time.Now()
	holder.Kill(t)
	done := c.Wait(t, j.ID)
	took := time.Since(began)
	t.Logf("answered by another worker %v after the kill", took.Round(time.Millisecond))
	if done.State != job.Succeeded || done.Worker != other || len(done.Attempts) != 2 || done.Attempts[0].Outcome != job.Lost {
		t.Errorf("%s on %s: %+v", done.State, done.Worker, done.Attempts)
	}
	if took > lostWithin {
		t.Errorf("it took %v", took)
	}
}

func TestStoppedWorkerCannotCommitWhatOthersRan(t *testing.T) {
	t.Parallel()
	c := testenv.New(t, testenv.Config{Workers: -1, Listen: true})
	j, holder, other := twoWorkers(t, c, "sleep 3; echo done")
	holder.Signal(t, syscall.SIGSTOP)
	done := c.Wait(t, j.ID)
	if done.State != job.Succeeded || done.Worker != other || len(done.Attempts) != 2 || done.Attempts[0].Outcome != job.Lost {
		t.Errorf("%s on %s: %+v", done.State, done.Worker, done.Attempts)
	}
	// The stopped one goes on where it was: its program ends at once, and its
	// commit must come to nothing. When it has a place again that is over.
	holder.Signal(t, syscall.SIGCONT)
	ready(t, c, holder.Name)
	after, err := c.Client.Get(t.Context(), j.ID)
	if err != nil {
		t.Fatal(err)
	}
	if after.Worker != done.Worker || len(after.Attempts) != 2 || !after.UpdatedAt.Equal(done.UpdatedAt) {
		t.Errorf("the result has changed: %+v", after)
	}
	again := c.Run(t, testenv.Sh("echo again"))
	if again.State != job.Succeeded {
		t.Errorf("a job after that is %s", again.State)
	}
}
