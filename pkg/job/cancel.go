package job

import "time"

// CancelOrder asks for the end of all jobs of a tenant that a filter picks and
// that were accepted before it. One is stored per order, before anything is
// canceled, and changed by compare-and-set, so that whoever leads finishes it.
type CancelOrder struct {
	Schema int    `json:"schema"`
	ID     string `json:"id"`
	Tenant string `json:"tenant"`
	CancelFilter
	// Reason is a sentence for those who ask why; optional.
	Reason string `json:"reason,omitempty"`

	CreatedAt time.Time `json:"created_at"`
	// Since are the sequences of the record streams when it was given: a job
	// that was accepted after them goes on.
	Since []uint64 `json:"since"`
	// Canceled counts jobs that waited and are final, Ending those that ran
	// and were told to end, both as of UpdatedAt.
	Canceled  int       `json:"canceled"`
	Ending    int       `json:"ending"`
	UpdatedAt time.Time `json:"updated_at"`
	// FinishedAt is when all that it picks was canceled or told to end.
	FinishedAt time.Time `json:"finished_at,omitzero"`
}

// CancelFilter picks jobs; empty fields match all.
type CancelFilter struct {
	Queue string `json:"queue,omitempty" doc:"Only jobs of this queue."`
	Pool  string `json:"pool,omitempty" doc:"Only jobs of this pool."`
	Batch string `json:"batch,omitempty" doc:"Only jobs of this batch."`
	// State is one that is not final.
	State  State             `json:"state,omitempty" enum:"queued,running,retrying" doc:"Only jobs in this state."`
	Labels map[string]string `json:"labels,omitempty" doc:"Only jobs with all of these labels."`
}

// Whole reports whether a batch matches as a whole or not at all.
func (f CancelFilter) Whole() bool {
	return f.Queue == "" && f.Pool == "" && f.State == "" && len(f.Labels) == 0
}

// Picks reports whether a job is one of those.
func (f CancelFilter) Picks(queue, pool, batch string, state State, labels map[string]string) bool {
	if f.Queue != "" && f.Queue != queue || f.Pool != "" && f.Pool != pool || f.Batch != "" && f.Batch != batch || f.State != "" && f.State != state {
		return false
	}
	for k, v := range f.Labels {
		if have, ok := labels[k]; !ok || have != v {
			return false
		}
	}
	return true
}

// CoversBatch reports whether a batch was opened before the order: by the
// sequences of both, and by the time where nothing was stored in between.
func (o CancelOrder) CoversBatch(b Batch) bool {
	if !b.OpenedAt.Before(o.CreatedAt) {
		return false
	}
	for i, seq := range b.Since {
		if i >= len(o.Since) || seq > o.Since[i] {
			return false
		}
	}
	return true
}
