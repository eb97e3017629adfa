package worker_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/sandlot-dev/sandlot/pkg/api"
	"github.com/sandlot-dev/sandlot/pkg/job"
	"github.com/sandlot-dev/sandlot/test/testenv"
	"github.com/sandlot-dev/sandlot/worker"
)

func TestJobThatRunsWhenItsTotalIsOverIsStopped(t *testing.T) {
	c := testenv.New(t, testenv.Config{})
	submit := testenv.Sh("echo hello; sleep 50")
	submit.Limits.Wall, submit.Budgets.Total = 60_000, 1000
	done := c.Run(t, submit)
	if got := testenv.Verdict(done); got != "expired none expired" {
		t.Fatalf("verdict is %q: %+v", got, done.Verdict)
	}
	if e := done.Verdict.Evidence; e.Limit != 1000 || e.Measured < 1000 || e.Unit != "ms" {
		t.Errorf("evidence %+v", e)
	}
	if len(done.Attempts) != 1 || done.Attempts[0].Outcome != job.AttemptExpired || done.Steps[0].Stdout.Text != "hello\n" {
		t.Errorf("attempts %+v, steps %+v", done.Attempts, done.Steps)
	}
}

func TestNamedVerdictsAreTriedAgainAndTheLastStands(t *testing.T) {
	c := testenv.New(t, testenv.Config{})
	submit := testenv.Sh("exit 7")
	submit.Retry = api.Retry{On: []string{"program"}, MaxAttempts: 3, Backoff: 10}
	done := c.Run(t, submit)
	if got := testenv.Verdict(done); got != "failed program exited" || *done.Verdict.Evidence.ExitCode != 7 {
		t.Fatalf("verdict is %q", got)
	}
	if len(done.Attempts) != 3 {
		t.Fatalf("attempts %+v", done.Attempts)
	}
	for i, want := range []job.Outcome{job.AttemptFailed, job.AttemptFailed, job.Finished} {
		if a := done.Attempts[i]; a.Outcome != want || a.Reason != job.Exited {
			t.Errorf("attempt %d: %+v", i+1, a)
		}
	}
	submit = testenv.Sh("hog")
	submit.Retry = api.Retry{On: []string{"program"}, Backoff: 10}
	if done := c.Run(t, submit); testenv.Verdict(done) != "failed limit out_of_memory" || len(done.Attempts) != 1 {
		t.Errorf("a limit was tried %d times: %s", len(done.Attempts), testenv.Verdict(done))
	}
}

func TestRetryThatCouldNotBeginInTimeIsNotMade(t *testing.T) {
	c := testenv.New(t, testenv.Config{})
	submit := testenv.Sh("exit 7")
	submit.Retry = api.Retry{On: []string{"program"}, Backoff: 3_600_000, MaxBackoff: 3_600_000}
	submit.Budgets.Total = 60_000
	if done := c.Run(t, submit); testenv.Verdict(done) != "failed program exited" || len(done.Attempts) != 1 {
		t.Errorf("%s after %d attempts", testenv.Verdict(done), len(done.Attempts))
	}
}

// slow takes its time to prepare the first sandbox.
type slow struct {
	worker.Runtime
	patient chan struct{} // full once somebody has lost patience
}

func (s slow) Prepare(ctx context.Context, task worker.Task) (worker.Sandbox, error) {
	if len(s.patient) > 0 {
		return s.Runtime.Prepare(ctx, task)
	}
	<-ctx.Done()
	s.patient <- struct{}{}
	return nil, context.Cause(ctx)
}

func TestSandboxThatIsNotReadyInTimeIsAFaultOfThePlatform(t *testing.T) {
	patient := make(chan struct{}, 1)
	c := testenv.New(t, testenv.Config{Worker: func(w *worker.Config) { w.Runtime = slow{w.Runtime, patient} }})
	submit := testenv.Sh("echo hello")
	submit.Budgets.Startup = 200
	done := c.Run(t, submit)
	if got := testenv.Verdict(done); got != "succeeded none exited" || len(done.Attempts) != 2 {
		t.Fatalf("%s after %d attempts", got, len(done.Attempts))
	}
	if a := done.Attempts[0]; a.Outcome != job.Fault || a.Reason != job.SandboxFault || a.Detail != "the sandbox was not ready within budgets.startup_ms, 200ms" {
		t.Errorf("%+v", a)
	}
}

func TestRetriedJobIsExplained(t *testing.T) {
	c := testenv.New(t, testenv.Config{})
	submit := testenv.Sh("exit 7")
	submit.Retry = api.Retry{On: []string{"exited"}, Backoff: 3_600_000, MaxBackoff: 3_600_000}
	j := c.Submit(t, submit)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	for j.State != job.Retrying {
		var err error
		if j, err = c.Client.Get(ctx, j.ID); err != nil {
			t.Fatal(errors.Join(err, ctx.Err()))
		}
	}
	e, err := c.Client.Explain(ctx, j.ID)
	if err != nil {
		t.Fatal(err)
	}
	want := "Attempt 1 on worker w1 ended with exited (exit code 7), which retry.on names."
	if len(e.Sentences) != 2 || e.Sentences[0] != want {
		t.Errorf("explained by %q", e.Sentences)
	}
}
