package worker_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sandlot-dev/sandlot/pkg/api"
	"github.com/sandlot-dev/sandlot/pkg/job"
	"github.com/sandlot-dev/sandlot/pkg/telemetry"
	"github.com/sandlot-dev/sandlot/test/testenv"
	"github.com/sandlot-dev/sandlot/worker"
)

func TestEveryEndHasItsVerdict(t *testing.T) {
	c := testenv.New(t, testenv.Config{})
	short := api.Limits{Wall: 300, CPUTime: 200, Output: 100_000}
	for name, want := range map[string]struct {
		script, verdict string
		limits          api.Limits
	}{
		"exit 0":              {script: "echo hello", verdict: "succeeded none exited"},
		"exit not 0":          {script: "exit 7", verdict: "failed program exited"},
		"died of a signal":    {script: "kill -SEGV $$", verdict: "failed program signaled"},
		"wall limit":          {script: "sleep 50", limits: short, verdict: "failed limit timed_out"},
		"processor limit":     {script: "while :; do :; done", limits: short, verdict: "failed limit cpu_time"},
		"memory limit":        {script: "hog", verdict: "failed limit out_of_memory"},
		"output limit":        {script: "cat /dev/zero", limits: short, verdict: "failed limit output_limit"},
		"host's process cap":  {script: "swarm", verdict: "failed limit pids_limit"},
		"program not found":   {script: "no-such-program", verdict: "failed program exited"},
		"nothing was printed": {script: "exit 0", verdict: "succeeded none exited"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			submit := testenv.Sh(want.script)
			submit.Limits = want.limits
			done := c.Run(t, submit)
			if got := testenv.Verdict(done); got != want.verdict {
				t.Errorf("verdict is %q, want %q: %+v", got, want.verdict, done.Verdict)
			}
			if len(done.Attempts) != 1 || done.Attempts[0].Outcome != job.Finished {
				t.Errorf("attempts are %+v", done.Attempts)
			}
		})
	}
}

func TestResultTellsWhatHappened(t *testing.T) {
	c := testenv.New(t, testenv.Config{})
	submit := testenv.Sh("")
	submit.Command = nil
	submit.Steps = []api.Step{
		{Name: "first", Command: []string{"sh", "-c", "echo out; echo err >&2; exit 3"}, ContinueOnError: true},
		{Name: "second", Command: []string{"sh", "-c", "env"}},
	}
	done := c.Run(t, submit)
	if got := testenv.Verdict(done); got != "succeeded none exited" {
		t.Fatalf("verdict is %q", got)
	}
	first, second := done.Steps[0], done.Steps[1]
	if first.Name != "first" || *first.ExitCode != 3 || first.Stdout.Text != "out\n" || first.Stderr.Text != "err\n" {
		t.Errorf("first step is %+v", first)
	}
	if !strings.Contains(second.Stdout.Text, "TRACEPARENT=00-"+done.TraceID+"-") {
		t.Errorf("environment is %q, trace %s", second.Stdout.Text, done.TraceID)
	}
	if done.Applied == nil || done.Applied.Memory != 512*job.MiB || done.Runtime == nil || done.Runtime.Sandlot != "test" {
		t.Errorf("applied %+v, runtime %+v", done.Applied, done.Runtime)
	}
}

func TestTimingsAndSpansFollowTheTenSteps(t *testing.T) {
	c := testenv.New(t, testenv.Config{})
	done := c.Run(t, testenv.Sh("echo hello"))
	tm := done.Timings
	inOrder := []time.Time{tm.Submit, tm.Accept, tm.Release, tm.Take, tm.Claim, tm.Prepare, tm.Run, tm.Decide, tm.Commit}
	for i, at := range inOrder {
		if at.IsZero() || i > 0 && at.Before(inOrder[i-1]) {
			t.Errorf("%s ended at %v, the step before it at %v", telemetry.Steps()[i], at, inOrder[max(0, i-1)])
		}
	}
	trace, err := c.Client.Trace(t.Context(), done.ID)
	if err != nil {
		t.Fatal(err)
	}
	ids := map[string]bool{}
	var names []string
	for _, s := range trace.Spans {
		ids[s.ID] = true
		names = append(names, s.Name)
	}
	for _, want := range []string{"submit", "accept", "release", "take", "claim", "prepare", "run", "decide", "commit"} {
		if !slices.Contains(names, want) {
			t.Errorf("span %q is missing in %q", want, names)
		}
	}
	for _, s := range trace.Spans {
		if s.Name != telemetry.Submit && !ids[s.Parent] {
			t.Errorf("span %s hangs on %q, which is not in the trace", s.Name, s.Parent)
		}
		if s.End.Before(s.Start) {
			t.Errorf("span %s ends before it starts", s.Name)
		}
	}
}

func TestLongOutputIsKeptInFull(t *testing.T) {
	c := testenv.New(t, testenv.Config{})
	done := c.Run(t, testenv.Sh("head -c 5000000 /dev/zero; echo end"))
	out := done.Steps[0].Stdout
	whole := append(make([]byte, 5_000_000), "end\n"...)
	sum := sha256.Sum256(whole)
	if out.Bytes != int64(len(whole)) || out.SHA256 != hex.EncodeToString(sum[:]) || !out.Truncated {
		t.Errorf("output is told as %d bytes, digest %s, truncated %v", out.Bytes, out.SHA256, out.Truncated)
	}
	if !strings.HasSuffix(out.Text, "\x00end\n") || len(out.Text) != 64<<10 {
		t.Errorf("kept are %d bytes", len(out.Text))
	}
	body, err := c.Client.Output(t.Context(), done.ID, 0, "stdout")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = body.Close() }()
	if got, err := io.ReadAll(body); err != nil || !bytes.Equal(got, whole) {
		t.Errorf("the whole has %d bytes: %v", len(got), err)
	}
}

func TestArtifactsAreKept(t *testing.T) {
	c := testenv.New(t, testenv.Config{})
	submit := testenv.Sh("echo one > one.txt; head -c 300000 /dev/zero > two.bin; exit 1")
	submit.Artifacts = []string{"*.txt", "*.bin"}
	done := c.Run(t, submit)
	if len(done.Artifacts) != 2 || done.Artifacts[1].Bytes != 300_000 {
		t.Fatalf("artifacts are %+v", done.Artifacts)
	}
	body, err := c.Client.Artifact(t.Context(), done.ID, "one.txt")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = body.Close() }()
	if got, err := io.ReadAll(body); err != nil || string(got) != "one\n" {
		t.Errorf("artifact is %q: %v", got, err)
	}
}

func TestFaultsOfThePlatformAreRetriedThenDead(t *testing.T) {
	t.Parallel()
	c := testenv.New(t, testenv.Config{})
	done := c.Run(t, testenv.Sh("echo before; crash"))
	if got := testenv.Verdict(done); got != "dead platform sandbox_fault" {
		t.Errorf("verdict is %q", got)
	}
	if len(done.Attempts) != job.PlatformAttempts {
		t.Fatalf("%d attempts: %+v", len(done.Attempts), done.Attempts)
	}
	for i, a := range done.Attempts {
		if a.Number != i+1 || a.Outcome != job.Fault || a.Reason != job.SandboxFault || a.Detail == "" {
			t.Errorf("attempt %d is %+v", i+1, a)
		}
	}
}

func TestOneFaultCostsOneAttempt(t *testing.T) {
	t.Parallel()
	var times atomic.Int32
	c := testenv.New(t, testenv.Config{Workers: -1})
	c.Runtime.OnPrepare = func(context.Context, worker.Task) error {
		if times.Add(1) == 1 {
			return errors.New("no such luck")
		}
		return nil
	}
	c.StartWorker(t)
	done := c.Run(t, testenv.Sh("echo hello"))
	if got := testenv.Verdict(done); got != "succeeded none exited" || len(done.Attempts) != 2 {
		t.Errorf("verdict is %q after %+v", got, done.Attempts)
	}
	trace, err := c.Client.Trace(t.Context(), done.ID)
	if err != nil {
		t.Fatal(err)
	}
	failed := slices.ContainsFunc(trace.Spans, func(s job.Span) bool { return s.Name == telemetry.Prepare && s.Error == "no such luck" })
	if !failed {
		t.Errorf("the trace does not show the attempt that failed: %+v", trace.Spans)
	}
}

func TestImageThatIsGoneIsAnImageFault(t *testing.T) {
	t.Parallel()
	c := testenv.New(t, testenv.Config{Workers: -1})
	c.Runtime.OnPrepare = func(context.Context, worker.Task) error { return job.ErrImage }
	c.StartWorker(t)
	if got := testenv.Verdict(c.Run(t, testenv.Sh("echo hello"))); got != "dead platform image_fault" {
		t.Errorf("verdict is %q", got)
	}
}

// started is a channel that hears of each sandbox that begins to run.
func started(c *testenv.Cluster) chan worker.Task {
	heard := make(chan worker.Task, 100)
	c.Runtime.OnRun = func(task worker.Task) { heard <- task }
	return heard
}

func TestCancelEndsARunningJob(t *testing.T) {
	c := testenv.New(t, testenv.Config{Workers: -1})
	running := started(c)
	c.StartWorker(t)
	accepted := c.Submit(t, testenv.Sh("echo before; sleep 50"))
	<-running
	if _, err := c.Client.Cancel(t.Context(), accepted.ID); err != nil {
		t.Fatal(err)
	}
	done := c.Wait(t, accepted.ID)
	if got := testenv.Verdict(done); got != "canceled none canceled" || done.Attempts[0].Outcome != job.AttemptCanceled {
		t.Errorf("verdict is %q, attempts %+v", got, done.Attempts)
	}
	if len(done.Steps) != 1 || done.Steps[0].Stdout.Text != "before\n" {
		t.Errorf("steps are %+v", done.Steps)
	}
	testenv.Eventually(t, 5*time.Second, "no sandbox is open", func() bool { return c.Runtime.Open() == 0 })
}

func TestStoppedWorkerGivesItsJobsBack(t *testing.T) {
	t.Parallel()
	c := testenv.New(t, testenv.Config{Workers: -1})
	running := started(c)
	stop := c.StartWorker(t)
	accepted := c.Submit(t, testenv.Sh("echo begun; sleep 1; echo done"))
	<-running
	begun := time.Now()
	stop()
	if took := time.Since(begun); took > 5*time.Second {
		t.Errorf("the worker took %v to stop", took)
	}
	if n := c.Runtime.Open(); n != 0 {
		t.Errorf("%d sandboxes are open after the stop", n)
	}
	waiting, err := c.Client.Get(t.Context(), accepted.ID)
	if err != nil || waiting.State != job.Retrying {
		t.Errorf("state is %s: %v", waiting.State, err)
	}
	c.StartWorker(t)
	done := c.Wait(t, accepted.ID)
	if got := testenv.Verdict(done); got != "succeeded none exited" {
		t.Errorf("verdict is %q", got)
	}
	if len(done.Attempts) != 2 || done.Attempts[0].Outcome != job.Drained || job.PlatformFaults(done.Attempts) != 0 {
		t.Errorf("attempts are %+v", done.Attempts)
	}
}

func TestDrainLetsShortJobsEnd(t *testing.T) {
	c := testenv.New(t, testenv.Config{Workers: -1, Worker: func(w *worker.Config) { w.Drain = 20 * time.Second }})
	running := started(c)
	stop := c.StartWorker(t)
	accepted := c.Submit(t, testenv.Sh("sleep 0.5; echo done"))
	<-running
	stop()
	done, err := c.Client.Get(t.Context(), accepted.ID)
	if err != nil || testenv.Verdict(done) != "succeeded none exited" || len(done.Attempts) != 1 {
		t.Errorf("job is %+v: %v", done, err)
	}
}

func TestNeighboursNeverShareTooLittleMemory(t *testing.T) {
	c := testenv.New(t, testenv.Config{Workers: -1, Worker: func(w *worker.Config) {
		w.Slots, w.Memory, w.Allowance = 4, 1000*job.MiB, 100*job.MiB
	}})
	var most atomic.Int64
	c.Runtime.OnPrepare = func(context.Context, worker.Task) error {
		for n := int64(c.Runtime.Open()) + 1; ; {
			old := most.Load()
			if n <= old || most.CompareAndSwap(old, n) {
				return nil
			}
		}
	}
	c.StartWorker(t)
	var ids []string
	for range 6 {
		submit := testenv.Sh("sleep 0.2")
		submit.Limits.Memory = 400 * job.MiB
		ids = append(ids, c.Submit(t, submit).ID)
	}
	for _, id := range ids {
		if got := testenv.Verdict(c.Wait(t, id)); got != "succeeded none exited" {
			t.Errorf("verdict is %q", got)
		}
	}
	if most.Load() > 2 {
		t.Errorf("%d jobs of 400 MiB ran at once in 1000 MiB", most.Load())
	}
}

func TestLargeSpecTravelsAsAnObject(t *testing.T) {
	c := testenv.New(t, testenv.Config{})
	submit := testenv.Sh("cat big")
	submit.Files = []job.File{{Path: "big", Content: strings.Repeat("0123456789", 40_000)}}
	done := c.Run(t, submit)
	if out := done.Steps[0].Stdout; out.Bytes != 400_000 {
		t.Errorf("%d bytes came back", out.Bytes)
	}
}

func TestLogsCanBeFollowed(t *testing.T) {
	c := testenv.New(t, testenv.Config{})
	accepted := c.Submit(t, testenv.Sh("echo one; sleep 0.3; echo two; echo three >&2"))
	var out, err strings.Builder
	followErr := c.Client.FollowLogs(t.Context(), accepted.ID, func(chunk api.LogChunk) error {
		if chunk.Stream == "stderr" {
			err.Write(chunk.Bytes())
		} else {
			out.Write(chunk.Bytes())
		}
		return nil
	})
	if followErr != nil || out.String() != "one\ntwo\n" || err.String() != "three\n" {
		t.Errorf("followed %q and %q: %v", out.String(), err.String(), followErr)
	}
}

func TestWorkerThatCannotEnforceALimitTakesNothing(t *testing.T) {
	c := testenv.New(t, testenv.Config{Workers: -1, Worker: func(w *worker.Config) {
		w.Unfit = []string{"limits.pids: the pids controller is missing"}
	}})
	c.StartWorker(t)
	var seen []api.Worker
	testenv.Eventually(t, 10*time.Second, "the worker shows itself", func() bool {
		seen, _ = c.Client.Workers(t.Context())
		return len(seen) == 1
	})
	if seen[0].State != api.WorkerUnfit {
		t.Errorf("worker is %+v", seen[0])
	}
	_, err := c.Client.Submit(t.Context(), testenv.Sh("echo hello"), 0)
	var problem *api.Problem
	if !errors.As(err, &problem) || problem.Status != 503 || !strings.Contains(problem.Error(), "limits.pids") {
		t.Errorf("submit is answered by %v", err)
	}
}
