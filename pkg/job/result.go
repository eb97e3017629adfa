package job

import (
	"fmt"
	"time"
)

// Result is everything that is known of a job that has ended.
type Result struct {
	Verdict   Verdict      `json:"verdict"`
	Steps     []StepResult `json:"steps"`
	Artifacts []Artifact   `json:"artifacts,omitempty"`
	// Applied are the limits as they were read back from the host.
	Applied Applied `json:"applied,omitzero"`
	// Runtime names the versions that ran the job.
	Runtime Runtime `json:"runtime,omitzero"`
}

// Applied are the limits as the host enforces them.
type Applied struct {
	Limits
	// SandboxMemory is the cgroup's limit: Memory plus the allowance for the
	// sandbox itself.
	SandboxMemory Bytes `json:"sandbox_memory"`
	// SandboxPIDs is the host's guard on tasks, well above PIDs.
	SandboxPIDs int64 `json:"sandbox_pids"`
}

// Runtime names the versions that ran a job.
type Runtime struct {
	Runsc      string `json:"runsc,omitempty"`
	Containerd string `json:"containerd,omitempty"`
	Sandlot    string `json:"sandlot,omitempty"`
}

// StepResult is what one step did. Steps after the one that ended the job are
// absent.
type StepResult struct {
	Name string `json:"name"`
	// ExitCode is null when the step was ended by a signal.
	ExitCode *int `json:"exit_code"`
	// Signal is the name of the signal that ended the step, such as
	// "SIGSEGV"; empty when it exited.
	Signal     string `json:"signal,omitempty"`
	Stdout     Output `json:"stdout"`
	Stderr     Output `json:"stderr"`
	Wall       Millis `json:"wall_ms"`
	CPU        Millis `json:"cpu_ms"`
	PeakMemory Bytes  `json:"peak_memory"`
}

// Output is what a step wrote to one of its streams.
type Output struct {
	// Text holds the output when it is valid UTF-8, Base64 when it is not. Of
	// output that is too long only head and tail are kept here.
	Text   string `json:"text,omitempty"`
	Base64 []byte `json:"base64,omitempty"`
	// Bytes counts all that was written, SHA256 is its digest in hex.
	Bytes  int64  `json:"bytes"`
	SHA256 string `json:"sha256"`
	// Truncated says that Text or Base64 is head and tail only.
	Truncated bool `json:"truncated,omitempty"`
	// Ref names the object that holds the whole.
	Ref string `json:"ref,omitempty"`
}

// Artifact is a file that the job left behind on request.
type Artifact struct {
	Path   string `json:"path"` // relative to the work directory
	Bytes  int64  `json:"bytes"`
	SHA256 string `json:"sha256"`
	// Ref names the object that holds it.
	Ref string `json:"ref"`
}

// Timings is when each of the ten steps of a job ended; one field per word.
type Timings struct {
	Submit  time.Time `json:"submit,omitzero"`
	Accept  time.Time `json:"accept,omitzero"`
	Release time.Time `json:"release,omitzero"`
	Take    time.Time `json:"take,omitzero"`
	Claim   time.Time `json:"claim,omitzero"`
	Prepare time.Time `json:"prepare,omitzero"`
	Run     time.Time `json:"run,omitzero"`
	Decide  time.Time `json:"decide,omitzero"`
	Commit  time.Time `json:"commit,omitzero"`
	Answer  time.Time `json:"answer,omitzero"`
}

// Span is one stage of a job as it stands in the job's trace, kept with the
// record so that a trace can be read without a collector.
type Span struct {
	Name   string `json:"name"`
	ID     string `json:"id"`               // 16 hex digits
	Parent string `json:"parent,omitempty"` // 16 hex digits
	// Service is the role that did it: scheduler or worker.
	Service string            `json:"service"`
	Start   time.Time         `json:"start"`
	End     time.Time         `json:"end"`
	Attrs   map[string]string `json:"attrs,omitempty"`
	Error   string            `json:"error,omitempty"`
}

// DefaultTenant is whose jobs are those of an installation that names no
// tenants.
const DefaultTenant = "default"

// Schema is the version of what this release writes: records, hints, worker
// keys, settings. It reads all from OldestSchema on; what it has read it
// writes as its own at the next change.
const (
	Schema       = 2
	OldestSchema = 1
)

// CheckSchema refuses with ErrSchema what this release cannot read.
func CheckSchema(version int) error {
	if version < OldestSchema || version > Schema {
		return fmt.Errorf("schema %d is not one of %d to %d: %w", version, OldestSchema, Schema, ErrSchema)
	}
	return nil
}

// Record is all that is known of a job. One is stored per job; each change of
// state replaces it by compare-and-set. It is the truth: messages are hints.
type Record struct {
	Schema int    `json:"schema"`
	ID     string `json:"id"`
	Tenant string `json:"tenant"`
	Pool   string `json:"pool"`
	Class  string `json:"class"`
	State  State  `json:"state"`
	// Preferred is the pool that its image preferred when it was accepted, if
	// it went there for that. Spill is where it may go on waiting instead; nil
	// if nowhere, or once it does.
	Preferred string `json:"preferred,omitempty"`
	Spill     *Spill `json:"spill,omitempty"`

	// Spec is inline when it is small; SpecRef names the object otherwise.
	Spec    *Spec  `json:"spec,omitempty"`
	SpecRef string `json:"spec_ref,omitempty"`
	// Limits repeats that of a Spec that is an object.
	Limits *Limits `json:"limits,omitempty"`
	// BodyHash tells two submits under one key apart.
	BodyHash string `json:"body_hash"`
	// Image, Queue, Priority and Labels repeat those of Spec, so that a
	// record with SpecRef can be listed.
	Image    Image             `json:"image"`
	Queue    string            `json:"queue"`
	Priority int               `json:"priority"`
	Labels   map[string]string `json:"labels,omitempty"`

	// Budgets repeats that of Spec; it counts from AcceptedAt.
	Budgets Budgets `json:"budgets,omitzero"`

	// IdempotencyKey is the client's; Batch and Key identify a batch's item.
	IdempotencyKey string `json:"idempotency_key,omitempty"`
	Batch          string `json:"batch,omitempty"`
	Key            string `json:"key,omitempty"`
	// Group is that of a batch's item, for StopAfter.
	Group string `json:"group,omitempty"`
	// Schedule is the tick that the job is from.
	Schedule *Tick `json:"schedule,omitempty"`
	// RedriveOf is the dead job that this one runs again.
	RedriveOf string `json:"redrive_of,omitempty"`

	AcceptedAt time.Time `json:"accepted_at"`
	UpdatedAt  time.Time `json:"updated_at"`
	// ExpiresAt is when the server forgets the final record.
	ExpiresAt time.Time `json:"expires_at,omitzero"`
	// Retention is how long a final record is kept.
	Retention time.Duration `json:"retention"`

	// Attempt is the number of the current attempt, 0 before the first.
	Attempt int    `json:"attempt"`
	Worker  string `json:"worker,omitempty"`
	// NotBefore is when the next attempt may begin; zero: at once. A claim
	// clears it.
	NotBefore time.Time `json:"not_before,omitzero"`
	Attempts  []Attempt `json:"attempts,omitempty"`
	// CancelReason is a sentence on why its end was asked for, if that was
	// said.
	CancelReason string `json:"cancel_reason,omitempty"`
	// CanceledBy is the order that asked for it, if one did.
	CanceledBy string `json:"canceled_by,omitempty"`

	Result  *Result `json:"result,omitempty"`
	Timings Timings `json:"timings"`

	// TraceParent is the W3C context of the job's root span.
	TraceParent string `json:"trace_parent"`
	Spans       []Span `json:"spans,omitempty"`
}
