// Package check judges a run of a Sandlot under faults by what could be seen
// of it from outside: every revision of every record, what clients asked and
// were answered, and what the sandboxes' own logs say.
//
//	history -> Check -> findings
//
// It is a second opinion. It shares no code with the product: its own decoder
// of records, its own table of states, its own arithmetic. So it imports
// nothing but the standard library, which the linter guards. What it promises
// is that a finding is a fault of the product or of the harness, never of the
// weather; what it cannot see (such as a revision that a dying server stored
// and told nobody) it counts and does not judge.
package check

import "time"

// History is all that is known of a run.
type History struct {
	// Revisions are those of all records, in any order; the same one may stand
	// there twice.
	Revisions []Revision
	// Records is every record there is at the end.
	Records []Record
	// Asks are what clients asked, in any order.
	Asks []Ask
	// Executions are what the scripted sandboxes say of themselves; nil if
	// nobody wrote that down, as with real sandboxes.
	Executions []Execution
	// Processes are the lives of the workers' processes.
	Processes []Process
	// Batches are what the API says of batches at the end.
	Batches []Batch
	// Uploads are the batches that were asked for as objects, Objects what
	// each scheduler says of each at the end, Results what was told of theirs.
	Uploads []Upload
	Objects []Object
	Results []Results
	// Releases and Leases are what could be seen of hints in READY, and all
	// holders of the lease.
	Releases []Release
	Leases   []Lease
	// Quiet is when the run was given up waiting for, or all was done.
	Quiet time.Time
}

// Revision is one change of one record, as the server told it.
type Revision struct {
	Stream string `json:"stream"`
	Seq    uint64 `json:"seq"`
	// Last is the sequence of the revision before it, 0 if it is the first.
	Last    uint64    `json:"last"`
	At      time.Time `json:"at"`
	Subject string    `json:"subject"`
	Tenant  string    `json:"tenant"`
	Job     string    `json:"job"`
	// Removed: the record is gone with this; nothing below is set.
	Removed bool   `json:"removed,omitempty"`
	State   string `json:"state,omitempty"`
	Attempt int    `json:"attempt,omitempty"`
	Worker  string `json:"worker,omitempty"`
	Life    string `json:"life,omitempty"`
	Reason  string `json:"reason,omitempty"`
	// Ask is the label by which the record names the ask it came from.
	Ask string `json:"ask,omitempty"`
}

// Record is a record as it lies in its stream at the end.
type Record struct {
	Seq     uint64
	ID      string            `json:"id"`
	Tenant  string            `json:"tenant"`
	State   string            `json:"state"`
	Batch   string            `json:"batch"`
	Key     string            `json:"key"`
	Labels  map[string]string `json:"labels"`
	Attempt int               `json:"attempt"`
	Worker  string            `json:"worker"`
	Life    string            `json:"life"`

	Attempts []Attempt `json:"attempts"`
	Result   *struct {
		Verdict struct {
			Blame  string `json:"blame"`
			Reason string `json:"reason"`
		} `json:"verdict"`
		Steps []struct {
			Stdout struct {
				Text string `json:"text"`
			} `json:"stdout"`
		} `json:"steps"`
	} `json:"result"`
}

// Attempt is one attempt as the record remembers it.
type Attempt struct {
	Number  int    `json:"number"`
	Worker  string `json:"worker"`
	Outcome string `json:"outcome"`
	Reason  string `json:"reason"`
}

// What a client may ask.
const (
	AskSubmit  = "submit"  // one job
	AskLine    = "line"    // one line of a batch
	AskGet     = "get"     // a job that was accepted
	AskCancel  = "cancel"  // a job that was accepted
	AskRemove  = "remove"  // a job that was seen to be final
	AskNothing = "nothing" // a job that never was
	// Of batches that are objects, ID being the batch's.
	AskUpload      = "upload"       // all of it, or what is missing
	AskItem        = "item"         // one line of an upload
	AskBatchGet    = "batch get"    // a batch whose upload is complete
	AskBatchCancel = "batch cancel" // likewise
)

// Ask is one request of a client, or one line of one, and its answer.
type Ask struct {
	N    int       `json:"n"`
	Kind string    `json:"kind"`
	Sent time.Time `json:"sent"`
	To   string    `json:"to"` // which scheduler
	// ID is the job that is asked for, of all kinds but submits and lines.
	ID string `json:"id,omitempty"`
	// Tenant is whom the request speaks for.
	Tenant string `json:"tenant,omitempty"`
	// Batch and Key identify the line, Key alone the submit, if it has one.
	Batch string `json:"batch,omitempty"`
	Key   string `json:"key,omitempty"`
	// Body tells two bodies under one key apart; Label stands in the record.
	Body  string `json:"body,omitempty"`
	Label string `json:"label,omitempty"`
	// Want is the state that the program leads to if nobody interferes.
	Want string `json:"want,omitempty"`
	// NotBefore is when the program may begin; Budget is after how long at
	// the soonest the job may expire, 0: never.
	NotBefore time.Time     `json:"not_before,omitzero"`
	Budget    time.Duration `json:"budget_ns,omitempty"`
	// Again says that the same was asked before.
	Again bool `json:"again,omitempty"`

	// Got is when the answer was there; zero if none came.
	Got    time.Time `json:"got,omitzero"`
	Status int       `json:"status,omitempty"`
	Error  string    `json:"error,omitempty"`
	// JobID, State and Attempt are what the answer says.
	JobID   string `json:"job_id,omitempty"`
	State   string `json:"state,omitempty"`
	Attempt int    `json:"attempt,omitempty"`
}

// OK reports whether the answer says that it was done.
func (a Ask) OK() bool { return a.Status >= 200 && a.Status < 300 }

// submits reports whether the ask may make a job.
func (a Ask) submits() bool { return a.Kind == AskSubmit || a.Kind == AskLine || a.Kind == AskItem }

// ofBatch reports whether the ask is about a batch as a whole.
func (a Ask) ofBatch() bool {
	return a.Kind == AskUpload || a.Kind == AskBatchGet || a.Kind == AskBatchCancel
}

// Execution is one run of a job's program in one sandbox.
type Execution struct {
	// ID is printed by the program first of all, so that a result tells which
	// execution it is from.
	ID      string
	Job     string
	Attempt int
	Worker  string
	Process string
	Start   time.Time
	// End is zero if the process died before.
	End time.Time
	// Complete: the program came to its own end.
	Complete bool
}

// Process is one life of a process that runs sandboxes.
type Process struct {
	Name string
	// Died is when it was gone for certain; zero if it lives.
	Died time.Time
	// Pauses are when it was stopped, as by SIGSTOP.
	Pauses []Pause
}

// Pause is a time during which nothing of a process ran.
type Pause struct{ From, To time.Time }

// Batch is what one scheduler says of a batch.
type Batch struct {
	From   string
	ID     string         `json:"id"`
	Jobs   int            `json:"jobs"`
	Final  int            `json:"final"`
	States map[string]int `json:"states"`
	// Status is that of the HTTP answer.
	Status int
}

// Release is a hint in READY.
type Release struct {
	Seq uint64
	Job string
	// Fence is the sequence of the lease that the release names; 0 if none.
	// Follows says that it is a later message of an atomic batch, which the
	// fence of the first one covers.
	Fence   uint64
	Follows bool
}

// Lease is one revision of the lease.
type Lease struct {
	Seq uint64
	// Gone: nobody holds it from here on.
	Gone bool
}
