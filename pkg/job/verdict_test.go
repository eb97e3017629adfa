package job_test

import (
	"testing"

	"github.com/sandlot-dev/sandlot/pkg/job"
)

func exit(name string, code int) job.StepResult {
	return job.StepResult{Name: name, ExitCode: &code}
}

func TestDecideBlamesTheRightOne(t *testing.T) {
	spec := job.Spec{
		Limits: job.DefaultLimits().Filled(),
		Steps:  []job.Step{{Name: "a"}, {Name: "b"}},
	}
	tolerant := spec
	tolerant.Steps = []job.Step{{Name: "a", ContinueOnError: true}, {Name: "b", ContinueOnError: true}}
	killed := job.StepResult{Name: "b", Signal: "SIGKILL"}

	cases := map[string]struct {
		spec   job.Spec
		seen   job.Observation
		state  job.State
		blame  job.Blame
		reason job.Reason
		step   string
	}{
		"all steps exit with 0": {spec, job.Observation{Steps: []job.StepResult{exit("a", 0), exit("b", 0)}},
			job.Succeeded, job.BlameNone, job.Exited, "b"},
		"the first step fails": {spec, job.Observation{Steps: []job.StepResult{exit("a", 3)}},
			job.Failed, job.BlameProgram, job.Exited, "a"},
		"the program kills itself": {spec, job.Observation{Steps: []job.StepResult{exit("a", 0), killed}},
			job.Failed, job.BlameProgram, job.Signaled, "b"},
		"a failure that may be passed over": {tolerant, job.Observation{Steps: []job.StepResult{exit("a", 3), exit("b", 0)}},
			job.Succeeded, job.BlameNone, job.Exited, "b"},
		"a last failure that may be passed over": {tolerant, job.Observation{Steps: []job.StepResult{exit("a", 0), killed}},
			job.Succeeded, job.BlameNone, job.Exited, "b"},
		"SIGKILL without the kernel's count is not out of memory": {spec,
			job.Observation{Steps: []job.StepResult{exit("a", 0), killed}, OOMKills: 0},
			job.Failed, job.BlameProgram, job.Signaled, "b"},
		"the kernel killed the sandbox for its memory": {spec,
			job.Observation{Steps: []job.StepResult{{Name: "a"}}, Unfinished: true, OOMKills: 1},
			job.Failed, job.BlameLimit, job.OutOfMemory, "a"},
		"memory decides although the clock ran out as well": {spec,
			job.Observation{Steps: []job.StepResult{{Name: "a"}}, Unfinished: true, OOMKills: 1, Ended: job.TimedOut},
			job.Failed, job.BlameLimit, job.OutOfMemory, "a"},
		"thrashing at the memory limit": {spec,
			job.Observation{Steps: []job.StepResult{{Name: "a"}}, Unfinished: true, Ended: job.OutOfMemory, Refaults: 150_000},
			job.Failed, job.BlameLimit, job.OutOfMemory, "a"},
		"the clock": {spec, job.Observation{Steps: []job.StepResult{{Name: "a"}}, Unfinished: true, Ended: job.TimedOut, Wall: 10_000},
			job.Failed, job.BlameLimit, job.TimedOut, "a"},
		"processor time": {spec, job.Observation{Steps: []job.StepResult{{Name: "a"}}, Unfinished: true, Ended: job.CPUTime},
			job.Failed, job.BlameLimit, job.CPUTime, "a"},
		"too much output": {spec, job.Observation{Steps: []job.StepResult{{Name: "a"}}, Unfinished: true, Ended: job.OutputLimit},
			job.Failed, job.BlameLimit, job.OutputLimit, "a"},
		"the host's guard on processes": {spec,
			job.Observation{Steps: []job.StepResult{{Name: "a"}}, Unfinished: true, PIDsHits: 1},
			job.Failed, job.BlameLimit, job.PIDsLimit, "a"},
		"a sandbox that vanished": {spec, job.Observation{Steps: []job.StepResult{{Name: "a"}}, Unfinished: true},
			job.Dead, job.BlamePlatform, job.SandboxFault, "a"},
		"a sandbox that never started": {spec, job.Observation{Fault: "no such image", FaultReason: job.ImageFault},
			job.Dead, job.BlamePlatform, job.ImageFault, ""},
		"a cancel": {spec, job.Observation{Steps: []job.StepResult{{Name: "a"}}, Unfinished: true, Ended: job.WasCanceled},
			job.Canceled, job.BlameNone, job.WasCanceled, "a"},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			state, verdict := job.Decide(c.spec, c.seen)
			if state != c.state || verdict.Blame != c.blame || verdict.Reason != c.reason {
				t.Errorf("got %s, %s; want %s, %s: %s", state, verdict, c.state, c.blame, c.reason)
			}
			if verdict.Evidence.Step != c.step {
				t.Errorf("evidence names step %q, want %q", verdict.Evidence.Step, c.step)
			}
			if !state.Final() {
				t.Errorf("%s is not final", state)
			}
		})
	}
}

func TestEvidenceNamesLimitAppliedAndMeasured(t *testing.T) {
	spec := job.Spec{Limits: job.Limits{Memory: 64 * job.MiB}.Filled(), Steps: []job.Step{{Name: "run"}}}
	seen := job.Observation{
		Steps: []job.StepResult{{Name: "run"}}, Unfinished: true, OOMKills: 1,
		Peak: 96 * job.MiB, Applied: job.Applied{SandboxMemory: 96 * job.MiB},
	}
	_, verdict := job.Decide(spec, seen)
	want := job.Evidence{Step: "run", Limit: 64 << 20, Applied: 96 << 20, Measured: 96 << 20, Unit: "bytes", OOMKills: 1}
	if got := verdict.Evidence; got.Limit != want.Limit || got.Applied != want.Applied ||
		got.Measured != want.Measured || got.Unit != want.Unit || got.OOMKills != want.OOMKills {
		t.Errorf("got %+v, want %+v", got, want)
	}
}

func TestAStepsOwnLimitIsMeasuredByTheStep(t *testing.T) {
	spec := job.Spec{Limits: job.DefaultLimits().Filled(), Steps: []job.Step{{Name: "a"}, {Name: "b", Wall: 500}}}
	_, verdict := job.Decide(spec, job.Observation{
		Steps: []job.StepResult{exit("a", 0), {Name: "b", Wall: 501}}, Unfinished: true,
		Ended: job.TimedOut, StepLimit: 500, Wall: 4_000,
	})
	if got := verdict.Evidence; got.Limit != 500 || got.Measured != 501 || got.Step != "b" {
		t.Errorf("got %+v, want the step's 501 of 500 ms", got)
	}
}
