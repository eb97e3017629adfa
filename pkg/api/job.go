package api

import (
	"time"

	"github.com/sandlot-dev/sandlot/pkg/job"
)

// Job is all that a client sees of a job.
type Job struct {
	ID             string            `json:"id"`
	State          job.State         `json:"state" enum:"queued,running,canceling,retrying,succeeded,failed,canceled,expired,dead"`
	Key            string            `json:"key,omitempty"`
	Batch          string            `json:"batch,omitempty"`
	IdempotencyKey string            `json:"idempotency_key,omitempty"`
	Image          job.Image         `json:"image"`
	Queue          string            `json:"queue"`
	Pool           string            `json:"pool,omitempty"`
	Class          string            `json:"class,omitempty"`
	Priority       int               `json:"priority"`
	Labels         map[string]string `json:"labels,omitempty"`
	// Schedule is the tick that it is from.
	Schedule   *job.Tick `json:"schedule,omitempty"`
	AcceptedAt time.Time `json:"accepted_at"`
	UpdatedAt  time.Time `json:"updated_at"`
	// NotBefore is when the next attempt may begin, while the job waits for
	// that time.
	NotBefore time.Time `json:"not_before,omitzero"`
	// Budgets count from AcceptedAt.
	Budgets job.Budgets `json:"budgets,omitzero"`
	// ExpiresAt is when the server forgets a final job.
	ExpiresAt time.Time `json:"expires_at,omitzero"`

	// Verdict, Steps, Artifacts, Applied and Runtime are there once the job
	// has ended.
	Verdict   *job.Verdict     `json:"verdict,omitempty"`
	Steps     []job.StepResult `json:"steps,omitempty"`
	Artifacts []job.Artifact   `json:"artifacts,omitempty"`
	// Limits are as asked, with the defaults filled in.
	Limits  job.Limits   `json:"limits"`
	Applied *job.Applied `json:"applied,omitempty"`
	Runtime *job.Runtime `json:"runtime,omitempty"`

	Timings  job.Timings   `json:"timings"`
	Attempts []job.Attempt `json:"attempts,omitempty"`
	// Worker is who runs it, or ran it last.
	Worker  string `json:"worker,omitempty"`
	TraceID string `json:"trace_id,omitempty"`
	// RedriveOf is the dead job that this one runs again; RedrivenAs the last
	// job that ran this one again.
	RedriveOf  string `json:"redrive_of,omitempty"`
	RedrivenAs string `json:"redriven_as,omitempty"`
}

// Summary is a job as it stands in a list.
type Summary struct {
	ID         string            `json:"id"`
	State      job.State         `json:"state"`
	Key        string            `json:"key,omitempty"`
	Batch      string            `json:"batch,omitempty"`
	Image      string            `json:"image"`
	Queue      string            `json:"queue"`
	Priority   int               `json:"priority"`
	Labels     map[string]string `json:"labels,omitempty"`
	Schedule   *job.Tick         `json:"schedule,omitempty"`
	AcceptedAt time.Time         `json:"accepted_at"`
	UpdatedAt  time.Time         `json:"updated_at"`
	NotBefore  time.Time         `json:"not_before,omitzero"`
	Blame      job.Blame         `json:"blame,omitempty"`
	Reason     job.Reason        `json:"reason,omitempty"`
	Attempt    int               `json:"attempt"`
	Worker     string            `json:"worker,omitempty"`
}

// List is one page of jobs, newest first.
type List struct {
	Jobs []Summary `json:"jobs"`
	// Next asks for the page after this one; empty on the last.
	Next string `json:"next,omitempty"`
	// Dropped counts older jobs that lists no longer know; they still answer
	// by id.
	Dropped int64 `json:"dropped,omitempty"`
}

// LineAnswer is what became of one line of a batch.
type LineAnswer struct {
	// Line starts at 1.
	Line int    `json:"line"`
	Key  string `json:"key,omitempty"`
	ID   string `json:"id,omitempty"`
	// State is that of the job, or Rejected.
	State job.State `json:"state"`
	Error *Problem  `json:"error,omitempty"`
}

// Rejected is the answer to a line of a batch of which no job came. It is not
// a state of a job.
const Rejected job.State = "rejected"

// Batch counts the jobs of a batch.
type Batch struct {
	ID string `json:"id"`
	// Jobs is how many were accepted, Final how many of them have ended.
	Jobs     int               `json:"jobs"`
	Final    int               `json:"final"`
	States   map[job.State]int `json:"states"`
	Verdicts []VerdictCount    `json:"verdicts"`
	// Dropped counts jobs of any batch that the counts no longer know.
	Dropped int64 `json:"dropped,omitempty"`
	// BatchProgress is there for a batch that is an object.
	*BatchProgress
}

// VerdictCount is how many jobs ended with one verdict.
type VerdictCount = job.VerdictCount

// BatchResult is one line of a batch's results.
type BatchResult struct {
	Job
	// Line and Error are those of a line of which no job came; its state is
	// Rejected.
	Line  int      `json:"line,omitempty"`
	Error *Problem `json:"error,omitempty"`
	// Cursor asks for the results after this one.
	Cursor string `json:"cursor,omitempty"`
}

// Trace is the waterfall of a job.
type Trace struct {
	TraceID string     `json:"trace_id"`
	Job     string     `json:"job"`
	State   job.State  `json:"state"`
	Spans   []job.Span `json:"spans"`
}

// Explain says in sentences why a job stands where it stands.
type Explain struct {
	ID        string    `json:"id"`
	State     job.State `json:"state"`
	Sentences []string  `json:"sentences"`
}

// LogChunk is a piece of output while a job runs.
type LogChunk struct {
	// Cursor is the id of the event: sent back as Last-Event-ID, the log goes
	// on after it.
	Cursor  string `json:"-"`
	Attempt int    `json:"attempt"`
	// Step is the name of the step.
	Step   string `json:"step"`
	Stream string `json:"stream" enum:"stdout,stderr"`
	// Offset is where the chunk begins in its stream. Chunks of a stream come
	// in order and without gaps, but for Dropped.
	Offset int64     `json:"offset"`
	Time   time.Time `json:"time,omitzero"`
	Text   string    `json:"text,omitempty"`
	Base64 []byte    `json:"base64,omitempty"`
	// Dropped is how many bytes before the chunk are not known any more; the
	// result has them.
	Dropped int64 `json:"dropped,omitempty"`
}

// Bytes is what the chunk holds.
func (c LogChunk) Bytes() []byte {
	if c.Base64 != nil {
		return c.Base64
	}
	return []byte(c.Text)
}

// Artifacts lists what a job left behind.
type Artifacts struct {
	Artifacts []job.Artifact `json:"artifacts"`
}
