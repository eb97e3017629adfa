package api

import (
	"time"

	"github.com/sandlot-dev/sandlot/pkg/job"
)

// Cancel asks for the end of many jobs.
type Cancel struct {
	job.CancelFilter
	// All is needed where no filter is given.
	All    bool   `json:"all,omitempty" doc:"All jobs of the tenant. Needed if nothing else is named, refused beside filters."`
	Reason string `json:"reason,omitempty" doc:"A sentence that the results give as the reason; at most 500 bytes."`
}

// CancelOrder is how far a Cancel is.
type CancelOrder struct {
	ID    string `json:"id"`
	State string `json:"state" enum:"running,finished"`
	job.CancelFilter
	Reason string `json:"reason,omitempty"`
	// Canceled counts jobs that waited, and are final; Ending those that ran
	// and were told to end, which takes about a second. Items of batches that
	// were not jobs yet are in neither; their batch counts them.
	Canceled   int       `json:"canceled"`
	Ending     int       `json:"ending"`
	CreatedAt  time.Time `json:"created_at"`
	UpdatedAt  time.Time `json:"updated_at"`
	FinishedAt time.Time `json:"finished_at,omitzero"`
}

// DecodeCancel reads whose end is asked for.
func DecodeCancel(body []byte) (c Cancel, problem *Problem) {
	if len(body) == 0 {
		body = []byte("{}")
	}
	problem = decode(body, func(o *object) {
		c.CancelFilter = job.CancelFilter{
			Queue: o.text("queue"), Pool: o.text("pool"), Batch: o.text("batch"), State: job.State(o.text("state")), Labels: o.dict("labels"),
		}
		c.All, c.Reason = o.flag("all"), o.text("reason")
		if f := c.CancelFilter; f.State != "" && f.State != job.Queued && f.State != job.Running && f.State != job.Retrying {
			o.out.add("state", clip(string(f.State)), "write queued, running or retrying")
		}
		if len(c.Reason) > 500 {
			o.out.add("reason", clip(c.Reason), "must be at most 500 bytes")
		}
		named := !c.Whole() || c.Batch != ""
		if named == c.All {
			o.out.add("all", c.All, "name what to cancel by queue, pool, batch, state or labels, or write all: true and none of them")
		}
	})
	return c, problem
}
