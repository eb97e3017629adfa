package sandboxtest

import (
	"context"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/sandlot-dev/sandlot/pkg/job"
	"github.com/sandlot-dev/sandlot/worker"
)

// patience bounds every call into a sandbox: a suite that hangs tells nothing.
const patience = 60 * time.Second

// Attempt is one job run in a sandbox to its end.
type Attempt struct {
	Spec job.Spec
	Seen job.Observation
	Sink *Sink
	Err  error
}

// Run prepares a sandbox, runs the job in it with a fresh sink and closes it.
// Only Run's own error is kept; one of Prepare or Close fails the test.
func Run(t *testing.T, rt worker.Runtime, spec job.Spec) Attempt {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	box := Prepare(t, rt, Task(spec))
	a := Attempt{Spec: spec, Sink: new(Sink)}
	a.Seen, a.Err = box.Run(ctx, a.Sink)
	Close(t, box)
	return a
}

// Must is Run for a job on which the platform may not fail.
func Must(t *testing.T, rt worker.Runtime, spec job.Spec) Attempt {
	t.Helper()
	a := Run(t, rt, spec)
	if a.Err != nil {
		t.Fatalf("run: %v", a.Err)
	}
	if a.Seen.Fault != "" {
		t.Fatalf("fault of the platform: %s (%s)", a.Seen.Fault, a.Seen.FaultReason)
	}
	return a
}

// Task is a task with an id of its own.
func Task(spec job.Spec) worker.Task {
	return worker.Task{ID: "t-" + uuid.NewString(), Spec: spec}
}

// Prepare makes a sandbox that is closed at the test's end at the latest.
func Prepare(t *testing.T, rt worker.Runtime, task worker.Task) worker.Sandbox {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	box, err := rt.Prepare(ctx, task)
	if err != nil {
		t.Fatalf("prepare: %v", err)
	}
	t.Cleanup(func() { Close(t, box) })
	return box
}

// Close closes the sandbox; closing twice is harmless.
func Close(t *testing.T, box worker.Sandbox) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), patience)
	defer cancel()
	if err := box.Close(ctx); err != nil {
		t.Errorf("close: %v", err)
	}
}

// Sh is a job of one step per script, with the default limits.
func Sh(image job.Image, scripts ...string) job.Spec {
	spec := job.Spec{Image: image, Network: "none", Limits: job.Limits{}.Filled()}
	names := []string{"run", "second", "third", "fourth"}
	for i, script := range scripts {
		name := "more-" + uuid.NewString()
		if i < len(names) {
			name = names[i]
		}
		spec.Steps = append(spec.Steps, job.Step{Name: name, Command: []string{"sh", "-c", script}})
	}
	return spec
}

// Stdout is what step i wrote to its standard output.
func (a Attempt) Stdout(i int) string { return a.Sink.Text(i, worker.Stdout) }

// Stderr is what step i wrote to its standard error.
func (a Attempt) Stderr(i int) string { return a.Sink.Text(i, worker.Stderr) }

// Verdict is what job.Decide makes of what was seen, as "state blame reason".
func (a Attempt) Verdict() string {
	state, v := job.Decide(a.Spec, a.Seen)
	return string(state) + " " + string(v.Blame) + " " + string(v.Reason)
}

// Want fails the test unless the verdict is as said.
func (a Attempt) Want(t *testing.T, verdict string) {
	t.Helper()
	if got := a.Verdict(); got != verdict {
		t.Fatalf("verdict is %q, want %q\nseen: %+v\nerror: %v", got, verdict, a.Seen, a.Err)
	}
}
