package api

import (
	"time"

	"github.com/sandlot-dev/sandlot/pkg/job"
)

// Submit is a request to run a job. Exactly one of the three forms says what
// runs: Steps; Command (one step); or Language and Code (shorter still).
type Submit struct {
	// Image is a catalogue name such as "python", or an OCI reference.
	// Required, except with Language, which brings its own.
	Image string     `json:"image,omitempty" doc:"Catalogue name (python, node, gcc, busybox) or OCI reference. Optional with language." example:"python"`
	Files []job.File `json:"files,omitempty" doc:"Files laid into the work directory before the first step."`

	Steps []Step `json:"steps,omitempty" doc:"Commands run one after the other. Instead of command and of language."`

	Command     []string          `json:"command,omitempty" doc:"Argument vector of the only step; no shell is involved." example:"[\"python3\",\"-c\",\"print(1)\"]"`
	Stdin       string            `json:"stdin,omitempty" doc:"Standard input of the only step, or of the last one with language."`
	StdinBase64 []byte            `json:"stdin_base64,omitempty" doc:"As stdin, for bytes that are not text."`
	Env         map[string]string `json:"env,omitempty" doc:"Environment of the only step, or of all with language."`
	Workdir     string            `json:"workdir,omitempty" doc:"Where the only step starts; absolute. /work by default."`

	Language string `json:"language,omitempty" doc:"Short form: the language that code is written in." example:"python"`
	Code     string `json:"code,omitempty" doc:"Short form: the program."`

	Limits    Limits            `json:"limits,omitzero" doc:"Each limit is enforced, and reported when it is hit."`
	Network   string            `json:"network,omitempty" enum:"none" doc:"Only none today."`
	Artifacts []string          `json:"artifacts,omitempty" doc:"Glob patterns below the work directory, collected after the last step."`
	Queue     string            `json:"queue,omitempty" doc:"Name of the queue; default by default."`
	Pool      string            `json:"pool,omitempty" doc:"Pool of workers to run in; main by default."`
	Class     string            `json:"class,omitempty" doc:"Class of the pool; the first that is large enough by default."`
	Priority  *int              `json:"priority,omitempty" minimum:"0" maximum:"9" doc:"0 (first) to 9 (last); 5 by default."`
	Labels    map[string]string `json:"labels,omitempty" doc:"For your own filters."`

	NotBefore time.Time `json:"not_before,omitzero" doc:"Run it no earlier than then; at most 30 days ahead. A time that is past means at once." example:"2026-03-01T08:00:00Z"`
	Budgets   Budgets   `json:"budgets,omitzero" doc:"How long the job may take, counted from its acceptance. Not the program's fault: a job whose budget is over is expired."`
	Retry     Retry     `json:"retry,omitzero" doc:"Which verdicts on the program are followed by another attempt; none by default. Faults of the platform always are, on a budget of their own."`

	// IdempotencyKey makes a repeated submit answer with the first job. Of a
	// single submit only; the header Idempotency-Key says the same.
	IdempotencyKey string `json:"idempotency_key,omitempty" doc:"A second submit with this key answers with the first one's job. Single submits only."`
	// Key names an item within its batch. Of a batch's line only.
	Key string `json:"key,omitempty" doc:"Name of the item, unique within its batch. Lines of a batch only."`
}

// Step is one command run to its end.
type Step struct {
	Name            string            `json:"name,omitempty" doc:"Unique in the job; step-1, step-2, … by default."`
	Command         []string          `json:"command" doc:"Argument vector; no shell is involved."`
	Stdin           string            `json:"stdin,omitempty"`
	StdinBase64     []byte            `json:"stdin_base64,omitempty"`
	Env             map[string]string `json:"env,omitempty"`
	Workdir         string            `json:"workdir,omitempty"`
	Limits          StepLimits        `json:"limits,omitzero" doc:"Smaller limits for this step alone."`
	ContinueOnError bool              `json:"continue_on_error,omitempty" doc:"Go on with the next step although this one did not exit with 0."`
}

// Limits are those of a job; zero means the default.
type Limits struct {
	CPU     float64    `json:"cpu,omitempty" doc:"Cores. Default 1."`
	Memory  job.Bytes  `json:"memory,omitempty" doc:"Bytes, or text such as 256Mi. Covers the program and the files it writes. Default 512Mi."`
	PIDs    int        `json:"pids,omitempty" doc:"Processes at once. Default 64."`
	Disk    job.Bytes  `json:"disk,omitempty" doc:"Bytes, or text such as 64Mi. A cap inside memory. Default 256Mi, at most memory."`
	Output  job.Bytes  `json:"output,omitempty" doc:"Bytes of standard output and error together. Default 64Mi."`
	Wall    job.Millis `json:"wall_ms,omitempty" doc:"Milliseconds, or text such as 10s. Default 10s."`
	CPUTime job.Millis `json:"cpu_time_ms,omitempty" doc:"Milliseconds, or text such as 10s. Default wall x cpu."`
}

// StepLimits are those of a step; zero means as the job's.
type StepLimits struct {
	Wall    job.Millis `json:"wall_ms,omitempty"`
	CPUTime job.Millis `json:"cpu_time_ms,omitempty"`
}

// Budgets bound the time of a job; zero means without bound.
type Budgets struct {
	StartBy job.Millis `json:"start_by_ms,omitempty" doc:"Milliseconds, or text such as 30s, from the acceptance until the first attempt is claimed."`
	Startup job.Millis `json:"startup_ms,omitempty" doc:"Milliseconds, or text such as 30s, from the claim of an attempt until its sandbox is ready; else the attempt is a fault of the platform."`
	Total   job.Millis `json:"total_ms,omitempty" doc:"Milliseconds, or text such as 10m, from the acceptance until the end, retries included. A job that runs then is stopped."`
}

// Retry says what is tried again; zero means the default.
type Retry struct {
	MaxAttempts int        `json:"max_attempts,omitempty" minimum:"1" maximum:"20" doc:"Attempts that may end with such a verdict; that of the last stands. Default 3."`
	On          []string   `json:"on,omitempty" doc:"Reasons (exited, signaled, timed_out, cpu_time, out_of_memory, output_limit, pids_limit), or blames that stand for all of theirs (program, limit)."`
	Backoff     job.Millis `json:"backoff_ms,omitempty" doc:"Milliseconds, or text such as 1s, before the second attempt; doubled with each further one. Default 1s."`
	MaxBackoff  job.Millis `json:"max_backoff_ms,omitempty" doc:"Milliseconds, or text such as 1m: the longest wait. Default 1m."`
}

// Defaults of a submit that says nothing.
const (
	DefaultQueue    = "default"
	DefaultPriority = 5
	NetworkNone     = "none"
	DefaultWorkdir  = "/work"
)
