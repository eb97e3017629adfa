package e2e

import (
	"errors"
	"fmt"
	"io"
	"os"
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

// testCancel ends a job that runs, and looks whether it is really gone.
func testCancel(t *testing.T, up *testenv.Instance) {
	accepted, err := up.Client.Submit(t.Context(), sh("echo begun; sleep 300"), 0)
	if err != nil {
		t.Fatal(err)
	}
	heard := errors.New("the program was heard")
	if err := up.Client.FollowLogs(t.Context(), accepted.ID, func(api.LogChunk) error { return heard }); !errors.Is(err, heard) {
		t.Fatalf("follow the job: %v", err)
	}
	if _, err := up.Client.Cancel(t.Context(), accepted.ID); err != nil {
		t.Fatal(err)
	}
	done := waitAll(t, up.Client, []string{accepted.ID}, 30*time.Second)[0]
	wantVerdict(t, done, "canceled none canceled")
	if len(done.Steps) != 1 || done.Steps[0].Stdout.Text != "begun\n" {
		t.Errorf("what it had printed is lost: %+v", done.Steps)
	}
	testenv.Eventually(t, 10*time.Second, "its sandbox is gone", func() bool {
		return len(sandboxesOf(t, up, accepted.ID)) == 0
	})
}

// sandboxesOf lists the cgroups of a job's sandboxes.
func sandboxesOf(t *testing.T, up *testenv.Instance, id string) []string {
	t.Helper()
	var found []string
	for _, dir := range testenv.Cgroups(instanceOf(up.DataDir)) {
		entries, err := os.ReadDir(dir)
		if err != nil {
			continue
		}
		for _, e := range entries {
			if strings.HasPrefix(e.Name(), id) {
				found = append(found, e.Name())
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
