package job

import "fmt"

// Blame names who is responsible for how a job ended.
type Blame string

// Who can be to blame.
const (
	BlameNone     Blame = "none"
	BlameProgram  Blame = "program"
	BlameLimit    Blame = "limit"
	BlamePlatform Blame = "platform"
)

// Reason says what ended a job or an attempt.
type Reason string

// The reasons of a verdict.
const (
	Exited       Reason = "exited"
	Signaled     Reason = "signaled"
	TimedOut     Reason = "timed_out"
	CPUTime      Reason = "cpu_time"
	OutOfMemory  Reason = "out_of_memory"
	OutputLimit  Reason = "output_limit"
	PIDsLimit    Reason = "pids_limit"
	WasCanceled  Reason = "canceled"
	HasExpired   Reason = "expired"
	ImageFault   Reason = "image_fault"
	SandboxFault Reason = "sandbox_fault"
	WorkerLost   Reason = "worker_lost"
)

// Verdict says who is to blame, for what, and which numbers decided it.
type Verdict struct {
	Blame    Blame    `json:"blame"`
	Reason   Reason   `json:"reason"`
	Evidence Evidence `json:"evidence"`
}

// Evidence holds the numbers that decided a verdict.
type Evidence struct {
	// Step is the name of the step that decided.
	Step string `json:"step,omitempty"`
	// Limit is what the job asked for, Applied what the host enforced (for
	// memory with the sandbox's allowance), Measured what was seen; all in
	// Unit.
	Limit    float64 `json:"limit,omitempty"`
	Applied  float64 `json:"applied,omitempty"`
	Measured float64 `json:"measured,omitempty"`
	Unit     string  `json:"unit,omitempty"`

	ExitCode *int   `json:"exit_code,omitempty"`
	Signal   string `json:"signal,omitempty"`

	// OOMKills counts kills by the kernel in the sandbox's cgroup; Refaults
	// is the rate of file pages read again per second, the sign of thrashing.
	OOMKills int64 `json:"oom_kills,omitempty"`
	Refaults int64 `json:"refaults_per_s,omitempty"`
	// Hit names limits that the program ran into and survived.
	Hit []string `json:"hit,omitempty"`
	// Detail is one sentence for a reader.
	Detail string `json:"detail,omitempty"`
}

// Observation is what a worker saw of an attempt. All numbers come from
// outside the sandbox: the worker's clock and the host's counters.
type Observation struct {
	// Steps are those that were started, in order.
	Steps []StepResult
	// Unfinished says that the sandbox was gone before the job's last step
	// had reported its end and its artifacts were collected.
	Unfinished bool
	// Ended is why the worker stopped the sandbox: TimedOut, CPUTime,
	// OutputLimit, OutOfMemory (thrashing), WasCanceled or HasExpired (its total
	// budget was over); empty if it did not.
	Ended Reason
	// StepLimit is the limit of the step, where it was smaller than the
	// job's and decided. In the unit of Ended.
	StepLimit int64

	// Age is how long ago the job was accepted; with HasExpired.
	Age Millis
	// Wall, CPU and Output are totals of the job up to its end.
	Wall   Millis
	CPU    Millis
	Output Bytes
	// Peak is the highest memory use of the whole sandbox.
	Peak Bytes
	// OOMKills and PIDsHits are the cgroup's event counters.
	OOMKills int64
	PIDsHits int64
	// Refaults is the highest rate of refaulted file pages per second.
	Refaults int64
	Hit      []string
	Applied  Applied

	// Fault is why the platform failed, nil if it did not. FaultReason is
	// ImageFault or SandboxFault.
	Fault       string
	FaultReason Reason
}

// Decide judges an attempt. Causes are asked in the order of their certainty:
// what the kernel counted, what the worker did, what the program did.
//
// The state is Dead for a fault of the platform; the caller turns it into a
// retry while the platform's attempts last.
func Decide(spec Spec, seen Observation) (State, Verdict) {
	evidence := Evidence{Hit: seen.Hit, OOMKills: seen.OOMKills}
	var last StepResult
	if n := len(seen.Steps); n > 0 {
		last = seen.Steps[n-1]
		evidence.Step = last.Name
	}
	limits := spec.Limits
	verdict := func(s State, b Blame, r Reason) (State, Verdict) {
		return s, Verdict{Blame: b, Reason: r, Evidence: evidence}
	}
	measured := func(unit string, limit, applied, value float64) {
		evidence.Unit, evidence.Limit, evidence.Applied, evidence.Measured = unit, limit, applied, value
	}
	timed := func(r Reason, limit, value, ofStep Millis) (State, Verdict) {
		if seen.StepLimit > 0 {
			limit, value = Millis(seen.StepLimit), ofStep
		}
		measured("ms", float64(limit), float64(limit), float64(value))
		return verdict(Failed, BlameLimit, r)
	}

	switch {
	case seen.Ended == WasCanceled:
		return verdict(Canceled, BlameNone, WasCanceled)
	case seen.OOMKills > 0 && seen.Unfinished, seen.Ended == OutOfMemory:
		measured("bytes", float64(limits.Memory), float64(seen.Applied.SandboxMemory), float64(seen.Peak))
		evidence.Refaults = seen.Refaults
		return verdict(Failed, BlameLimit, OutOfMemory)
	case seen.Unfinished && seen.PIDsHits > 0:
		measured("tasks", float64(limits.PIDs), float64(seen.Applied.SandboxPIDs), float64(seen.Applied.SandboxPIDs))
		return verdict(Failed, BlameLimit, PIDsLimit)
	case seen.Ended == HasExpired:
		measured("ms", float64(spec.Budgets.Total), float64(spec.Budgets.Total), float64(seen.Age))
		evidence.Detail = fmt.Sprintf("budgets.total_ms is %s, counted from the job's acceptance", spec.Budgets.Total)
		return verdict(Expired, BlameNone, HasExpired)
	case seen.Ended == TimedOut:
		return timed(TimedOut, limits.Wall, seen.Wall, last.Wall)
	case seen.Ended == CPUTime:
		return timed(CPUTime, limits.CPUTime, seen.CPU, last.CPU)
	case seen.Ended == OutputLimit:
		measured("bytes", float64(limits.Output), float64(limits.Output), float64(seen.Output))
		return verdict(Failed, BlameLimit, OutputLimit)
	case seen.Fault != "":
		evidence.Detail = seen.Fault
		return verdict(Dead, BlamePlatform, seen.FaultReason)
	case seen.Unfinished || len(seen.Steps) == 0:
		evidence.Detail = "the sandbox ended before its program did, and no limit explains it"
		return verdict(Dead, BlamePlatform, SandboxFault)
	}
	return decideByExit(spec, seen, evidence)
}

// decideByExit judges an attempt whose steps all reported their end: the
// first that failed and may not be passed over decides, else the last.
func decideByExit(spec Spec, seen Observation, evidence Evidence) (State, Verdict) {
	for i, s := range seen.Steps {
		tolerated := i < len(spec.Steps) && spec.Steps[i].ContinueOnError
		if s.OK() || tolerated {
			continue
		}
		evidence.Step, evidence.ExitCode, evidence.Signal = s.Name, s.ExitCode, s.Signal
		if s.Signal != "" {
			return Failed, Verdict{BlameProgram, Signaled, evidence}
		}
		return Failed, Verdict{BlameProgram, Exited, evidence}
	}
	last := seen.Steps[len(seen.Steps)-1]
	evidence.ExitCode, evidence.Signal = last.ExitCode, last.Signal
	return Succeeded, Verdict{BlameNone, Exited, evidence}
}

// OK reports whether the step exited with 0.
func (s StepResult) OK() bool { return s.ExitCode != nil && *s.ExitCode == 0 }

// String is the verdict in a few words: "limit: out_of_memory".
func (v Verdict) String() string { return fmt.Sprintf("%s: %s", v.Blame, v.Reason) }
