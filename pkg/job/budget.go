package job

import (
	"fmt"
	"time"
)

// Budgets bound how long a job may take in all, counted from its acceptance;
// zero means without bound. Unlike limits they are never the program's fault.
type Budgets struct {
	// StartBy is when the first attempt must have been claimed; else the job
	// is expired.
	StartBy Millis `json:"start_by_ms,omitempty"`
	// Startup is what each attempt may take from its claim until its sandbox
	// is ready; else that attempt is a fault of the platform.
	Startup Millis `json:"startup_ms,omitempty"`
	// Total is when the job must have ended, its retries included. One that
	// runs then is stopped; it is expired.
	Total Millis `json:"total_ms,omitempty"`
}

// EndBy is when Total is over, zero if never.
func (b Budgets) EndBy(accepted time.Time) time.Time { return after(accepted, b.Total) }

// Deadline is when a job that waits expires, zero if never. attempt is the
// number of the last one, 0 before the first.
func (b Budgets) Deadline(accepted time.Time, attempt int) time.Time {
	end := b.EndBy(accepted)
	if attempt > 0 || b.StartBy == 0 {
		return end
	}
	start := after(accepted, b.StartBy)
	if !end.IsZero() && end.Before(start) {
		return end
	}
	return start
}

func after(accepted time.Time, m Millis) time.Time {
	if m == 0 {
		return time.Time{}
	}
	return accepted.Add(m.Duration())
}

// Expiry is the verdict on a job whose budgets are over; false while they are
// not. A job that runs is bound by Total alone.
func (b Budgets) Expiry(accepted time.Time, attempt int, now time.Time) (Verdict, bool) {
	deadline := b.Deadline(accepted, attempt)
	if deadline.IsZero() || now.Before(deadline) {
		return Verdict{}, false
	}
	name, limit := "total_ms", b.Total
	if !deadline.Equal(b.EndBy(accepted)) {
		name, limit = "start_by_ms", b.StartBy
	}
	age := MillisOf(now.Sub(accepted))
	return Verdict{Blame: BlameNone, Reason: HasExpired, Evidence: Evidence{
		Limit: float64(limit), Applied: float64(limit), Measured: float64(age), Unit: "ms",
		Detail: fmt.Sprintf("budgets.%s is %s, counted from the job's acceptance", name, limit),
	}}, true
}
