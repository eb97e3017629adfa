package e2e

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/sandlot-dev/sandlot/pkg/api"
	"github.com/sandlot-dev/sandlot/pkg/job"
	"github.com/sandlot-dev/sandlot/pkg/telemetry"
	"github.com/sandlot-dev/sandlot/test/testenv"
)

// testSteps runs a job with all that a job can have.
func testSteps(t *testing.T, up *testenv.Instance) {
	done := run(t, up.Client, api.Submit{
		Image: "busybox",
		Files: []job.File{{Path: "in/data.txt", Content: "one\ntwo\n"}, {Path: "tool", Content: "#!/bin/sh\necho tool $1\n", Executable: true}},
		Steps: []api.Step{
			{Name: "build", Command: []string{"sh", "-c", "mkdir out; wc -l < in/data.txt > out/lines.txt; ./tool here"}},
			{Name: "check", Command: []string{"sh", "-c", "exit 9"}, ContinueOnError: true},
			{Name: "run", Command: []string{"cat"}, Stdin: "typed", Env: map[string]string{"A": "b"}},
		},
		Artifacts: []string{"out/*.txt"},
	})
	wantVerdict(t, done, "succeeded none exited")
	if len(done.Steps) != 3 || done.Steps[0].Stdout.Text != "tool here\n" || *done.Steps[1].ExitCode != 9 || done.Steps[2].Stdout.Text != "typed" {
		t.Fatalf("steps are %+v", done.Steps)
	}
	if len(done.Artifacts) != 1 || done.Artifacts[0].Path != "out/lines.txt" {
		t.Fatalf("artifacts are %+v", done.Artifacts)
	}
	body, err := up.Client.Artifact(t.Context(), done.ID, "out/lines.txt")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = body.Close() }()
	if text, err := io.ReadAll(body); err != nil || strings.TrimSpace(string(text)) != "2" {
		t.Errorf("artifact is %q: %v", text, err)
	}
}

// cancelWithin is how soon after the answer to a cancel nothing of the job may
// run any more.
const cancelWithin = time.Second

// testCancel ends jobs that run, and looks whether they are really gone, in
// time. The host may be busy with something else for a moment, so the fastest
// of three counts.
func testCancel(t *testing.T, up *testenv.Instance) {
	best := time.Hour
	for try := 0; try < 3 && best > cancelWithin; try++ {
		best = min(best, canceled(t, up))
	}
	if best > cancelWithin {
		t.Errorf("a canceled job was gone %v after the answer, not within %v", best, cancelWithin)
	}
}

// canceled is how long after the answer to its cancel a job's last process is
// gone and its result says so.
func canceled(t *testing.T, up *testenv.Instance) time.Duration {
	t.Helper()
	accepted, err := up.Client.Submit(t.Context(), sh("head -c 100000000 /dev/zero > /work/much; echo begun; sleep 300"), 0)
	if err != nil {
		t.Fatal(err)
	}
	heard := errors.New("the program was heard")
	if err := up.Client.FollowLogs(t.Context(), accepted.ID, func(api.LogChunk) error { return heard }); !errors.Is(err, heard) {
		t.Fatalf("follow the job: %v", err)
	}
	name := heaviest(up)
	if processesOf(t, up, name) == 0 {
		t.Fatal("no process of the job is found while it runs")
	}
	told, err := up.Client.Cancel(t.Context(), accepted.ID)
	if err != nil {
		t.Fatal(err)
	}
	asked := time.Now()
	if told.State != job.Canceling && told.State != job.Canceled {
		t.Errorf("the answer to the cancel says %s", told.State)
	}
	testenv.Eventually(t, 10*time.Second, "its processes are gone", func() bool { return processesOf(t, up, name) == 0 })
	done := waitAll(t, up.Client, []string{accepted.ID}, 30*time.Second)[0]
	took := time.Since(asked)
	wantVerdict(t, done, "canceled none canceled")
	if len(done.Steps) != 1 || done.Steps[0].Stdout.Text != "begun\n" {
		t.Errorf("what it had printed is lost: %+v", done.Steps)
	}
	testenv.Eventually(t, 10*time.Second, "its sandbox is gone", func() bool {
		return len(groupsOf(up, name)) == 0
	})
	t.Logf("gone %v after the answer", took)
	return took
}

// heaviest is the sandbox that uses the most memory, at least 64 MiB: one that
// waits for a job needs far less, and a sandbox is not named after its job.
func heaviest(up *testenv.Instance) (name string) {
	most := int64(64 << 20)
	for _, dir := range groupsOf(up, "") {
		for _, file := range []string{"memory.usage_in_bytes", "memory.current"} {
			text, _ := os.ReadFile(filepath.Join(dir, file))
			if n, err := strconv.ParseInt(strings.TrimSpace(string(text)), 10, 64); err == nil && n > most && filepath.Base(dir) != "worker" && filepath.Base(dir) != "runtime" {
				most, name = n, filepath.Base(dir)
			}
		}
	}
	return name
}

// processesOf counts the processes in the cgroups of a sandbox.
func processesOf(t *testing.T, up *testenv.Instance, name string) (n int) {
	t.Helper()
	if name == "" {
		return 0
	}
	for _, dir := range groupsOf(up, name) {
		_ = filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
			if err != nil || filepath.Base(path) != "cgroup.procs" {
				return nil // it vanishes while it is looked at
			}
			data, _ := os.ReadFile(path)
			n += len(strings.Fields(string(data)))
			return nil
		})
	}
	return n
}

// groupsOf lists the cgroups of a sandbox, or of all if it has no name.
func groupsOf(up *testenv.Instance, name string) []string {
	var found []string
	for _, dir := range testenv.Cgroups(instanceOf(up.DataDir)) {
		entries, _ := os.ReadDir(dir)
		for _, e := range entries {
			if e.IsDir() && (name == "" || e.Name() == name) {
				found = append(found, filepath.Join(dir, e.Name()))
			}
		}
	}
	return found
}

// testTrace wants the ten steps in the trace and in the timings of a job, and
// the caller's trace joined.
func testTrace(t *testing.T, up *testenv.Instance) {
	done := run(t, up.Client, sh("echo $TRACEPARENT"))
	if !strings.Contains(done.Steps[0].Stdout.Text, done.TraceID) || done.TraceID == "" {
		t.Errorf("the job's trace is %q, it sees %q", done.TraceID, done.Steps[0].Stdout.Text)
	}
	trace, err := up.Client.Trace(t.Context(), done.ID)
	if err != nil {
		t.Fatal(err)
	}
	names := map[string]int{}
	for _, s := range trace.Spans {
		names[s.Name]++
	}
	for _, step := range telemetry.Steps() {
		if names[step] == 0 {
			t.Errorf("span %q is missing: %v", step, names)
		}
	}
	text := fmt.Sprint(done.Timings)
	if strings.Contains(text, "0001-01-01") {
		t.Errorf("some timings are missing: %s", text)
	}
}
