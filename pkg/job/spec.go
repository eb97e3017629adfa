package job

import "time"

// Spec is what a client asks for, after short forms have been expanded and
// defaults filled in. It does not change once the job is accepted.
type Spec struct {
	// Image names what runs: a catalogue name or an OCI reference. Required.
	Image Image `json:"image"`
	// Files are laid into the work directory before the first step.
	Files []File `json:"files,omitempty"`
	// Steps run one after the other; at least one.
	Steps []Step `json:"steps"`
	// Limits hold for the job as a whole; a step may have smaller ones.
	Limits Limits `json:"limits"`
	// Network is "none", the only value today.
	Network string `json:"network"`
	// Artifacts are glob patterns below the work directory, collected after
	// the last step.
	Artifacts []string `json:"artifacts,omitempty"`

	Queue string `json:"queue"`
	// Pool and Class are where it is to run, as the client asked; the record
	// says where it does.
	Pool     string            `json:"pool,omitempty"`
	Class    string            `json:"class,omitempty"`
	Priority int               `json:"priority"` // 0 (first) to 9
	Labels   map[string]string `json:"labels,omitempty"`

	// NotBefore is when the job may run first. Optional.
	NotBefore time.Time `json:"not_before,omitzero"`
	// Budgets bound how long the job may take from its acceptance. Optional.
	Budgets Budgets `json:"budgets,omitzero"`
	// Retry names verdicts after which the job is tried again. Optional.
	Retry Retry `json:"retry,omitzero"`
}

// Image is a name and the digest that it stood for when the job was accepted.
type Image struct {
	Name string `json:"name"`
	// Digest is that of the OCI manifest, "sha256:…".
	Digest string `json:"digest"`
}

// File is one input. Content is text; Base64 is for everything else. Exactly
// one of them is set, except for an empty file.
type File struct {
	Path    string `json:"path"`
	Content string `json:"content,omitempty"`
	Base64  []byte `json:"base64,omitempty"`
	// Executable sets mode 0755 instead of 0644.
	Executable bool `json:"executable,omitempty"`
}

// Bytes is what the file holds.
func (f File) Bytes() []byte {
	if f.Base64 != nil {
		return f.Base64
	}
	return []byte(f.Content)
}

// Step is one command run to its end in the job's sandbox.
type Step struct {
	// Name is unique in the job; "run" when the job has only one step.
	Name string `json:"name"`
	// Command is the argument vector. Required; no shell is involved.
	Command []string `json:"command"`
	// Stdin is given to the program as its standard input; StdinBase64 is
	// for bytes that are not text.
	Stdin       string            `json:"stdin,omitempty"`
	StdinBase64 []byte            `json:"stdin_base64,omitempty"`
	Env         map[string]string `json:"env,omitempty"`
	// Workdir is where the command starts; "/work" by default.
	Workdir string `json:"workdir,omitempty"`
	// Wall and CPUTime end the step; never above those of the job. 0: as the job's.
	Wall    Millis `json:"wall_ms,omitempty"`
	CPUTime Millis `json:"cpu_time_ms,omitempty"`
	// ContinueOnError lets the next step run although this one did not exit
	// with 0. A limit always ends the job.
	ContinueOnError bool `json:"continue_on_error,omitempty"`
}

// Input is what the program reads from its standard input.
func (s Step) Input() []byte {
	if s.StdinBase64 != nil {
		return s.StdinBase64
	}
	return []byte(s.Stdin)
}

// Limits bound what a job may use. Each is enforced, and reported when hit.
type Limits struct {
	// CPU is how many cores the job may use at one moment.
	CPU float64 `json:"cpu"`
	// Memory covers the program and the files that it writes.
	Memory Bytes `json:"memory"`
	// PIDs is how many processes (not threads) may exist at once.
	PIDs int `json:"pids"`
	// Disk caps the files written; they live in memory, so it is at most Memory.
	Disk Bytes `json:"disk"`
	// Output caps standard output and error of all steps together.
	Output Bytes `json:"output"`
	// Wall caps the time from the start of the first step to the end of the
	// last, without what the platform needs before and after.
	Wall Millis `json:"wall_ms"`
	// CPUTime caps the processor time of all steps together.
	CPUTime Millis `json:"cpu_time_ms"`
}

// DefaultLimits are those of a job that names none.
func DefaultLimits() Limits {
	return Limits{CPU: 1, Memory: 512 * MiB, PIDs: 64, Disk: 256 * MiB, Output: 64 * MiB, Wall: 10_000}
}

// Filled is l with every zero replaced by its default. The processor time
// defaults to wall time × cores, the disk to what the memory allows.
func (l Limits) Filled() Limits {
	d := DefaultLimits()
	fill(&l.CPU, d.CPU)
	fill(&l.Memory, d.Memory)
	fill(&l.PIDs, d.PIDs)
	fill(&l.Disk, min(d.Disk, l.Memory))
	fill(&l.Output, d.Output)
	fill(&l.Wall, d.Wall)
	fill(&l.CPUTime, Millis(float64(l.Wall)*l.CPU))
	return l
}

func fill[T comparable](field *T, value T) {
	var zero T
	if *field == zero {
		*field = value
	}
}

// Attempt is one try of a worker to run the job; kept beside the result.
type Attempt struct {
	// Number starts at 1.
	Number int    `json:"number"`
	Worker string `json:"worker"`
	// Outcome is how the attempt ended: "finished", "failed", "fault", "lost",
	// "drained", "canceled", "expired"; empty while it runs.
	Outcome Outcome `json:"outcome,omitempty"`
	// Reason is that of the verdict on the attempt.
	Reason Reason `json:"reason,omitempty"`
	// Detail is one sentence for a reader.
	Detail    string    `json:"detail,omitempty"`
	StartedAt time.Time `json:"started_at"`
	EndedAt   time.Time `json:"ended_at,omitzero"`
}

// Outcome is how an attempt ended.
type Outcome string

// The outcomes of an attempt.
const (
	Finished        Outcome = "finished" // it decided the job
	AttemptFailed   Outcome = "failed"   // its verdict is one to retry; uses up one of the user's attempts
	Fault           Outcome = "fault"    // the platform failed; counts against its budget
	Lost            Outcome = "lost"     // the worker vanished; counts against the platform's budget
	Drained         Outcome = "drained"  // the worker was stopped; uses up nothing
	AttemptCanceled Outcome = "canceled" // ended by a cancel
	AttemptExpired  Outcome = "expired"  // ended because budgets.total was over
)

// PlatformAttempts is how many attempts that end in a fault or are lost a job
// may have; after them it is dead.
const PlatformAttempts = 5

// PlatformFaults counts the attempts that were the platform's failure.
func PlatformFaults(attempts []Attempt) int {
	n := 0
	for _, a := range attempts {
		if a.Outcome == Fault || a.Outcome == Lost {
			n++
		}
	}
	return n
}
