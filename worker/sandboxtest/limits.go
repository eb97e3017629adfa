package sandboxtest

import (
	"testing"
	"time"

	"github.com/sandlot-dev/sandlot/pkg/job"
)

func testWall(t *testing.T, s suite) {
	spec := Sh(s.image, "echo before; sleep 50; echo after")
	spec.Limits.Wall = 700
	start := time.Now()
	a := Must(t, s.rt, spec)
	a.Want(t, "failed limit timed_out")
	if a.Stdout(0) != "before\n" {
		t.Errorf("output is %q", a.Stdout(0))
	}
	if a.Seen.Wall < 700 || a.Seen.Wall > 5_000 || time.Since(start) > 20*time.Second {
		t.Errorf("wall is told as %v, the attempt took %v", a.Seen.Wall, time.Since(start))
	}
	if n := len(a.Seen.Steps); n != 1 {
		t.Fatalf("%d steps", n)
	}
	if step := a.Seen.Steps[0]; step.ExitCode != nil || step.Wall < 700 {
		t.Errorf("the step is told as %s after %v", ending(step), step.Wall)
	}
}

func testStepWall(t *testing.T, s suite) {
	spec := Sh(s.image, "sleep 0.1", "sleep 50", "echo never")
	spec.Steps[1].Wall = 600
	a := Must(t, s.rt, spec)
	a.Want(t, "failed limit timed_out")
	if len(a.Seen.Steps) != 2 || a.Seen.StepLimit != 600 {
		t.Fatalf("%d steps, the step's limit is told as %d", len(a.Seen.Steps), a.Seen.StepLimit)
	}
}

func testCPUTime(t *testing.T, s suite) {
	spec := Sh(s.image, "while :; do :; done")
	spec.Limits.CPUTime, spec.Limits.Wall = 500, 50_000
	a := Must(t, s.rt, spec)
	a.Want(t, "failed limit cpu_time")
	if a.Seen.CPU < 500 || a.Seen.CPU > 3_000 {
		t.Errorf("processor time is told as %v", a.Seen.CPU)
	}
	if a.Seen.Steps[0].CPU < 500 {
		t.Errorf("that of the step as %v", a.Seen.Steps[0].CPU)
	}
}

func testOutputLimit(t *testing.T, s suite) {
	spec := Sh(s.image, "cat /dev/zero")
	spec.Limits.Output = job.MiB
	a := Must(t, s.rt, spec)
	a.Want(t, "failed limit output_limit")
	if a.Seen.Output <= job.MiB {
		t.Errorf("output is told as %d bytes", a.Seen.Output)
	}
	if kept := len(a.Stdout(0)); kept < int(job.MiB) {
		t.Errorf("only %d bytes reached the sink", kept)
	}
}

func testOutputLimitOfSteps(t *testing.T, s suite) {
	spec := Sh(s.image, "head -c 600000 /dev/zero", "head -c 600000 /dev/zero >&2; sleep 50", "echo never")
	spec.Limits.Output, spec.Limits.Wall = 1_000_000, 50_000
	a := Must(t, s.rt, spec)
	a.Want(t, "failed limit output_limit")
	if len(a.Seen.Steps) != 2 {
		t.Errorf("%d steps", len(a.Seen.Steps))
	}
}

func testApplied(t *testing.T, s suite) {
	spec := Sh(s.image, "exit 0")
	spec.Limits = job.Limits{CPU: 0.5, Memory: 96 * job.MiB, PIDs: 20, Disk: 32 * job.MiB, Output: 4096, Wall: 9_000}.Filled()
	a := Must(t, s.rt, spec)
	a.Want(t, "succeeded none exited")
	got := a.Seen.Applied
	if got.Limits != spec.Limits {
		t.Errorf("applied are %+v, asked for were %+v", got.Limits, spec.Limits)
	}
	if got.SandboxMemory < spec.Limits.Memory || got.SandboxPIDs <= int64(spec.Limits.PIDs) {
		t.Errorf("the sandbox's own: %+v", got)
	}
}
