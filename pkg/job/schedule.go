package job

import (
	"encoding/json"
	"time"
)

// Schedule is a job that is submitted again and again, at the ticks of a line
// of cron. It is one record, changed by compare-and-set: what its tenant asks
// for, and how far its ticks are dealt with.
type Schedule struct {
	Schema int    `json:"schema"`
	Tenant string `json:"tenant"`
	Name   string `json:"name"`
	// Cron and TimeZone say when it ticks; an empty zone is UTC.
	Cron     string `json:"cron"`
	TimeZone string `json:"time_zone,omitempty"`
	// Job is the submit, as the tenant wrote it.
	Job json.RawMessage `json:"job"`
	// Missed is what becomes of ticks at which no scheduler ran.
	Missed MissedTicks `json:"missed"`
	// Overlap is what becomes of a tick while the job of the last one runs.
	Overlap Overlap `json:"overlap"`
	Paused  bool    `json:"paused,omitempty"`

	CreatedAt time.Time `json:"created_at"`
	UpdatedAt time.Time `json:"updated_at"`

	// After: ticks up to then are dealt with, or of no concern.
	After time.Time `json:"after"`
	// Firing is the tick whose job is being submitted. It is written before
	// the job is, and cleared after it.
	Firing *Firing `json:"firing,omitempty"`
	// LastAt is the last tick of which a job came, LastJob that job.
	LastAt  time.Time `json:"last_at,omitzero"`
	LastJob string    `json:"last_job,omitempty"`
	// LastError is the last tick whose job was refused, LastSkipped the last
	// one that was passed over as the schedule says.
	LastError   *TickNote `json:"last_error,omitempty"`
	LastSkipped *TickNote `json:"last_skipped,omitempty"`
}

// MissedTicks says what becomes of ticks at which no scheduler ran.
type MissedTicks string

// What may become of missed ticks.
const (
	MissedOnce MissedTicks = "once" // the last of them has its job, late
	MissedSkip MissedTicks = "skip" // none has
)

// Overlap says what becomes of a tick while the job of the last one has not
// ended.
type Overlap string

// What may become of a tick then.
const (
	OverlapAllow Overlap = "allow" // it has its job
	OverlapSkip  Overlap = "skip"  // it has none
)

// Firing is a tick that is under way.
type Firing struct {
	Tick time.Time `json:"tick"`
	// Job is the ID that its job has, or will have.
	Job string `json:"job"`
	// Since is when it began. For Retention from then on, a job that is not
	// there has never been.
	Since     time.Time     `json:"since"`
	Retention time.Duration `json:"retention"`
}

// TickNote says why a tick has no job.
type TickNote struct {
	Tick time.Time `json:"tick"`
	// At is when that was found.
	At time.Time `json:"at"`
	// Reason is one word: overlap, missed, unknown, or that of the problem
	// with which the job was refused, such as full or invalid.
	Reason string `json:"reason"`
	Detail string `json:"detail,omitempty"`
}

// Reasons for a tick without a job that are not those of a problem.
const (
	TickOverlap = "overlap" // the job of the last tick had not ended
	TickMissed  = "missed"  // no scheduler ran
	TickUnknown = "unknown" // whether its job was submitted cannot be known
)

// Tick says of a job which schedule it is from.
type Tick struct {
	// Name is the schedule's.
	Name string `json:"name"`
	// At is when it was to be; Manual: somebody asked for it then, without a
	// tick.
	At     time.Time `json:"tick"`
	Manual bool      `json:"manual,omitempty"`
}

// MaxSchedules is how many schedules a tenant may have, MaxScheduledJob how
// large the job of one may be: all of them are kept in memory.
const (
	MaxSchedules    = 1000
	MaxScheduledJob = 32 * KiB
)
