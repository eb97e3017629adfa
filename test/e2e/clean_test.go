package e2e

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sandlot-dev/sandlot/pkg/api"
	"github.com/sandlot-dev/sandlot/pkg/job"
	"github.com/sandlot-dev/sandlot/test/testenv"
)

// wantNothingLeft wants nothing of the instance on the host.
func wantNothingLeft(t *testing.T, dataDir string, marks ...string) {
	t.Helper()
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	var left []string
	for range 30 {
		if left = testenv.Leftovers(t, dataDir, instanceOf(dataDir), marks...); len(left) == 0 {
			return
		}
		<-tick.C
	}
	t.Errorf("left behind:\n%s", strings.Join(left, "\n"))
}

// busy submits jobs that use the processor and waits until some run.
func busy(t *testing.T, up *testenv.Instance) []string {
	t.Helper()
	ids := submitAll(t, up.Client, 4, func(int) api.Submit {
		submit := sh("echo begun; while :; do :; done")
		submit.Limits = api.Limits{Wall: 300_000, CPUTime: 300_000}
		return submit
	})
	testenv.Eventually(t, time.Minute, "two jobs run", func() bool {
		list := 0
		for _, id := range ids {
			if now, err := up.Client.Get(t.Context(), id); err == nil && now.State == job.Running {
				list++
			}
		}
		return list >= 2
	})
	return ids
}

// TestKilledServerStopsItsSandboxes kills a server whose jobs use the
// processor: within five seconds none does any more, and the next start and
// stop leave the host as it was before the first.
func TestKilledServerStopsItsSandboxes(t *testing.T) {
	p := program(t)
	dir := testenv.ShortDir(t)
	before := testenv.SharedFiles(dir, binDir)
	up := p.Up(t, dir, prepare)
	ids := busy(t, up)
	if len(testenv.CPUTicks(t, instanceOf(dir))) == 0 {
		t.Fatal("no process is found that could use the processor: the test proves nothing")
	}
	first := up.Mark
	up.Kill(t)
	killed := time.Now()
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("on the host:\n%s", strings.Join(testenv.Leftovers(t, dir, instanceOf(dir), first), "\n"))
		}
	})
	testenv.Eventually(t, 5*time.Second, "no sandbox is left that could use the processor", func() bool {
		return len(testenv.CPUTicks(t, instanceOf(dir))) == 0
	})
	t.Logf("no process was left %v after the kill", time.Since(killed).Round(time.Millisecond))
	up = p.Up(t, dir, prepare)
	for _, id := range ids {
		if _, err := up.Client.Cancel(t.Context(), id); err != nil {
			t.Errorf("cancel: %v", err)
		}
	}
	for _, done := range waitAll(t, up.Client, ids, time.Minute) {
		wantVerdict(t, done, "canceled none canceled")
	}
	up.Terminate(t, 10*time.Second)
	wantNothingLeft(t, dir, first, up.Mark)
	if after := testenv.SharedFiles(dir, binDir); !slices.Equal(before, after) {
		t.Errorf("files outside the data directory changed:\nbefore %q\nafter  %q", before, after)
	}
}

// TestStoppedServerGivesItsJobsBack stops a server with a signal while jobs
// run.
func TestStoppedServerGivesItsJobsBack(t *testing.T) {
	p := program(t)
	dir := testenv.ShortDir(t)
	up := p.Up(t, dir, prepare)
	ids := busy(t, up)
	took := up.Terminate(t, 10*time.Second)
	t.Logf("it took %v to stop", took.Round(time.Millisecond))
	wantNothingLeft(t, dir, up.Mark)

	up = p.Up(t, dir, prepare)
	drained := 0
	for _, id := range ids {
		now, err := up.Client.Get(t.Context(), id)
		if err != nil || now.State.Final() {
			t.Errorf("job %s is %s: %v", id, now.State, err)
		}
		for _, a := range now.Attempts {
			if a.Outcome == job.Drained {
				drained++
			}
		}
		if n := job.PlatformFaults(now.Attempts); n != 0 {
			t.Errorf("job %s used up %d attempts: %+v", id, n, now.Attempts)
		}
		if _, err := up.Client.Cancel(t.Context(), id); err != nil {
			t.Errorf("cancel: %v", err)
		}
	}
	if drained < 2 {
		t.Errorf("%d attempts are told as drained, want at least 2", drained)
	}
	waitAll(t, up.Client, ids, time.Minute)
	up.Terminate(t, 10*time.Second)
	wantNothingLeft(t, dir, up.Mark)
}

// TestTwoServersOnOneHost runs two instances side by side; the end of one is
// nothing to the other.
func TestTwoServersOnOneHost(t *testing.T) {
	p := program(t)
	one, two := testenv.ShortDir(t), testenv.ShortDir(t)
	first, second := p.Up(t, one, prepare), p.Up(t, two, prepare)
	for _, up := range []*testenv.Instance{first, second} {
		wantVerdict(t, run(t, up.Client, sh("exit 5")), "failed program exited")
	}
	first.Kill(t)
	wantVerdict(t, run(t, second.Client, sh("echo alive")), "succeeded none exited")
	first = p.Up(t, one, prepare)
	wantVerdict(t, run(t, first.Client, sh("echo again")), "succeeded none exited")
	first.Terminate(t, 10*time.Second)
	wantVerdict(t, run(t, second.Client, sh("echo alive")), "succeeded none exited")
	second.Terminate(t, 10*time.Second)
	wantNothingLeft(t, one)
	wantNothingLeft(t, two)
}
