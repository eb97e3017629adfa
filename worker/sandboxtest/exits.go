package sandboxtest

import (
	"fmt"
	"testing"

	"github.com/sandlot-dev/sandlot/pkg/job"
)

func testExitCodes(t *testing.T, s suite) {
	codes := []int{0, 1, 2, 7, 126, 127, 128, 137, 255}
	spec := Sh(s.image)
	for _, code := range codes {
		step := Sh(s.image, fmt.Sprintf("exit %d", code)).Steps[0]
		step.Name, step.ContinueOnError = fmt.Sprintf("exit-%d", code), true
		spec.Steps = append(spec.Steps, step)
	}
	a := Must(t, s.rt, spec)
	if len(a.Seen.Steps) != len(codes) || a.Seen.Unfinished {
		t.Fatalf("%d of %d steps, unfinished %v", len(a.Seen.Steps), len(codes), a.Seen.Unfinished)
	}
	for i, code := range codes {
		step := a.Seen.Steps[i]
		if step.Name != spec.Steps[i].Name || step.ExitCode == nil || *step.ExitCode != code || step.Signal != "" {
			t.Errorf("exit %d is told as %s", code, ending(step))
		}
	}
	Must(t, s.rt, Sh(s.image, "exit 0")).Want(t, "succeeded none exited")
	Must(t, s.rt, Sh(s.image, "exit 3")).Want(t, "failed program exited")
}

func testSignals(t *testing.T, s suite) {
	for script, name := range map[string]string{
		"kill -9 $$": "SIGKILL", "kill -SEGV $$": "SIGSEGV", "kill -TERM $$": "SIGTERM",
	} {
		a := Must(t, s.rt, Sh(s.image, "echo before; "+script))
		a.Want(t, "failed program signaled")
		if step := a.Seen.Steps[0]; step.Signal != name || step.ExitCode != nil {
			t.Errorf("%s is told as %s", script, ending(step))
		}
		if a.Seen.Unfinished || a.Seen.Ended != "" || a.Stdout(0) != "before\n" {
			t.Errorf("%s: unfinished %v, ended %q, output %q", script, a.Seen.Unfinished, a.Seen.Ended, a.Stdout(0))
		}
	}
}

func testFailureEnds(t *testing.T, s suite) {
	a := Must(t, s.rt, Sh(s.image, "exit 4", "echo never"))
	a.Want(t, "failed program exited")
	if len(a.Seen.Steps) != 1 || a.Stdout(1) != "" {
		t.Fatalf("the step after a failure ran: %+v", a.Seen.Steps)
	}
}

func testContinueOnError(t *testing.T, s suite) {
	spec := Sh(s.image, "exit 4", "echo here")
	spec.Steps[0].ContinueOnError = true
	a := Must(t, s.rt, spec)
	a.Want(t, "succeeded none exited")
	if len(a.Seen.Steps) != 2 || a.Stdout(1) != "here\n" {
		t.Fatalf("steps %+v, output %q", a.Seen.Steps, a.Stdout(1))
	}
}

func testStepsShare(t *testing.T, s suite) {
	a := Must(t, s.rt, Sh(s.image, "echo one > kept.txt", "cat kept.txt", "cat kept.txt kept.txt"))
	a.Want(t, "succeeded none exited")
	if a.Stdout(1) != "one\n" || a.Stdout(2) != "one\none\n" {
		t.Fatalf("later steps read %q and %q", a.Stdout(1), a.Stdout(2))
	}
}

func testNoSuchProgram(t *testing.T, s suite) {
	spec := Sh(s.image, "exit 0")
	spec.Steps[0].Command = []string{"no-such-program"}
	a := Must(t, s.rt, spec)
	a.Want(t, "failed program exited")
	if step := a.Seen.Steps[0]; *step.ExitCode != 127 || a.Stderr(0) == "" {
		t.Fatalf("it is told as %s, stderr %q; want 127 and a reason", ending(step), a.Stderr(0))
	}
}

// ending is how a step ended, in words.
func ending(s job.StepResult) string {
	if s.ExitCode != nil {
		return fmt.Sprintf("exit code %d signal %q", *s.ExitCode, s.Signal)
	}
	return fmt.Sprintf("signal %q", s.Signal)
}
