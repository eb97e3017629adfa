package api

import (
	"time"

	"github.com/sandlot-dev/sandlot/pkg/job"
)

// DeadJob is an entry of the index of dead jobs: the job as it died.
type DeadJob struct {
	ID       string            `json:"id"`
	Pool     string            `json:"pool"`
	Class    string            `json:"class,omitempty"`
	Queue    string            `json:"queue,omitempty"`
	Batch    string            `json:"batch,omitempty"`
	Key      string            `json:"key,omitempty"`
	Image    string            `json:"image,omitempty"`
	Labels   map[string]string `json:"labels,omitempty"`
	Reason   job.Reason        `json:"reason,omitempty"`
	Attempts int               `json:"attempts"`
	// AcceptedAt is zero in entries of the first releases.
	AcceptedAt time.Time `json:"accepted_at,omitzero"`
	DiedAt     time.Time `json:"died_at"`
	// Expired: the record is gone, expired or removed, and with it what it
	// takes to run the job again.
	Expired bool `json:"expired,omitempty"`
	// RedriveOf is the dead job that this one ran again; RedrivenAs the last
	// job that ran this one again, and RedrivenState where that stands.
	RedriveOf     string    `json:"redrive_of,omitempty"`
	RedrivenAs    string    `json:"redriven_as,omitempty"`
	RedrivenState job.State `json:"redriven_state,omitempty" enum:"queued,running,canceling,retrying,succeeded,failed,canceled,expired,dead"`
}

// DeadList is one page of the index of dead jobs.
type DeadList struct {
	Jobs []DeadJob `json:"jobs"`
	// Next asks for the page after this one; empty on the last.
	Next string `json:"next,omitempty"`
}

// DeadFilter picks dead jobs; fields left out match all.
type DeadFilter struct {
	Job    string            `json:"job,omitempty" doc:"Only this job."`
	Pool   string            `json:"pool,omitempty" doc:"Only jobs of this pool."`
	Queue  string            `json:"queue,omitempty" doc:"Only jobs of this queue."`
	Batch  string            `json:"batch,omitempty" doc:"Only items of this batch."`
	Reason job.Reason        `json:"reason,omitempty" doc:"Only jobs that died for this reason, such as worker_lost."`
	Labels map[string]string `json:"labels,omitempty" doc:"Only jobs with all of these labels."`
	Since  time.Time         `json:"since,omitzero" doc:"Only jobs that died then or later."`
	Until  time.Time         `json:"until,omitzero" doc:"Only jobs that died before then."`
}

// Redrive asks to run dead jobs again, the oldest first.
type Redrive struct {
	DeadFilter
	// Limit is how many dead jobs are looked at in one request.
	Limit int `json:"limit,omitempty" minimum:"1" maximum:"1000" doc:"How many dead jobs are looked at in this request, at most 1000; 100 by default. next goes on after them."`
	// Cursor is the Next of the answer before.
	Cursor string `json:"cursor,omitempty" doc:"The next of the answer before."`
	DryRun bool   `json:"dry_run,omitempty" doc:"Say what would be done, and do nothing."`
}

// What became of a dead job that was to be redriven.
const (
	// Redriven: a new job was made of it, or would be.
	RedriveDone = "redriven"
	// RedriveKnown: it was redriven before, and that job is not dead.
	RedriveKnown = "already_redriven"
	// RedriveExpired: its record is gone.
	RedriveExpired = "expired"
	// RedriveRefused: it cannot be run again; Error says why.
	RedriveRefused = "refused"
)

// RedriveAnswer is what became of one dead job.
type RedriveAnswer struct {
	ID      string `json:"id"`
	Outcome string `json:"outcome" enum:"redriven,already_redriven,expired,refused"`
	// RedrivenAs is the new job; of a dry run only one that was there.
	RedrivenAs string   `json:"redriven_as,omitempty"`
	Error      *Problem `json:"error,omitempty"`
}

// Redriven is what became of the dead jobs of one request.
type Redriven struct {
	Redriven int `json:"redriven"`
	// Skipped counts the others by outcome.
	Skipped map[string]int  `json:"skipped"`
	Jobs    []RedriveAnswer `json:"jobs"`
	// Next goes on after the last of them; empty when there are no more.
	Next string `json:"next,omitempty"`
	// Stopped says why the request ended before its limit, such as at a cap.
	// Those that were redriven stay so; the same request again goes on.
	Stopped *Problem `json:"stopped,omitempty"`
	DryRun  bool     `json:"dry_run,omitempty"`
}

// DecodeRedrive reads what is to be redriven; an empty body asks for all.
func DecodeRedrive(body []byte) (r Redrive, problem *Problem) {
	r.Limit = 100
	if len(body) == 0 {
		return r, nil
	}
	problem = decode(body, func(o *object) {
		r.DeadFilter = DeadFilter{
			Job: o.text("job"), Pool: o.text("pool"), Queue: o.text("queue"), Batch: o.text("batch"), Reason: job.Reason(o.text("reason")),
			Labels: o.dict("labels"), Since: o.time("since"), Until: o.time("until"),
		}
		r.Cursor, r.DryRun = o.text("cursor"), o.flag("dry_run")
		if n, ok := o.integer("limit"); ok {
			r.Limit = int(n)
			if n < 1 || n > 1000 {
				o.out.add("limit", n, "must be between 1 and 1000")
			}
		}
	})
	return r, problem
}
