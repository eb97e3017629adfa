package api

import (
	"encoding/json"
	"errors"
	"time"

	"github.com/sandlot-dev/sandlot/pkg/cron"
	"github.com/sandlot-dev/sandlot/pkg/job"
)

// Schedule is a job that is submitted again and again.
type Schedule struct {
	Name     string          `json:"name"`
	Cron     string          `json:"cron"`
	TimeZone string          `json:"time_zone"`
	Job      json.RawMessage `json:"job"`
	Missed   job.MissedTicks `json:"missed" enum:"once,skip"`
	Overlap  job.Overlap     `json:"overlap" enum:"allow,skip"`
	Paused   bool            `json:"paused"`
	// NextAt is the next tick; none while it is paused.
	NextAt time.Time `json:"next_at,omitzero"`
	// LastAt is the last tick of which a job came, LastJob that job.
	LastAt  time.Time `json:"last_at,omitzero"`
	LastJob string    `json:"last_job,omitempty"`
	// LastError is the last tick whose job was refused, LastSkipped the last
	// one that was passed over as missed and overlap say.
	LastError   *job.TickNote `json:"last_error,omitempty"`
	LastSkipped *job.TickNote `json:"last_skipped,omitempty"`
	CreatedAt   time.Time     `json:"created_at"`
	UpdatedAt   time.Time     `json:"updated_at"`
	Revision    uint64        `json:"revision"`
}

// Schedules is the list of schedules of a tenant.
type Schedules struct {
	Schedules []Schedule `json:"schedules"`
}

// ScheduleSettings is what can be set for a schedule. What is left out is as
// if it had never been set.
type ScheduleSettings struct {
	Cron     string          `json:"cron" doc:"Minute, hour, day of month, month, day of week; or six fields with the second first; or @hourly, @daily, @weekly, @monthly, @yearly, @every 10m. At least 10 s lie between two ticks." example:"0 3 * * *"`
	TimeZone string          `json:"time_zone,omitempty" doc:"Of the IANA data base; UTC by default." example:"Europe/Berlin"`
	Job      json.RawMessage `json:"job" doc:"What is submitted at each tick; at most 32 KiB."`
	Missed   job.MissedTicks `json:"missed,omitempty" enum:"once,skip" doc:"What becomes of ticks at which no scheduler ran: once (the default) submits one job for all of them, skip none."`
	Overlap  job.Overlap     `json:"overlap,omitempty" enum:"allow,skip" doc:"What becomes of a tick while the job of the last one has not ended: allow (the default) submits another, skip passes over the tick."`
	Paused   bool            `json:"paused,omitempty" doc:"No ticks; those that pass meanwhile are not made up for."`
	Revision uint64          `json:"revision,omitempty" doc:"That of the schedule that was read, to have it changed only if it is still the same."`
}

// DecodeScheduleSettings reads settings of a schedule, its job among them, as
// strictly as a submit.
func DecodeScheduleSettings(body []byte) (s ScheduleSettings, in Submit, problem *Problem) {
	problem = decode(body, func(o *object) {
		s.Cron, s.TimeZone = o.text("cron"), o.text("time_zone")
		s.Missed, s.Overlap = job.MissedTicks(o.text("missed")), job.Overlap(o.text("overlap"))
		s.Paused, s.Revision = o.flag("paused"), readRevision(o)
		checkTicks(&s, o)
		in = readScheduled(o)
	})
	if problem != nil {
		return s, in, problem
	}
	var written struct {
		Job json.RawMessage `json:"job"`
	}
	if err := json.Unmarshal(body, &written); err != nil {
		return s, in, NewProblem(400, TypeSyntax, "%s", err)
	}
	s.Job = written.Job
	if len(s.Job) > int(job.MaxScheduledJob) {
		return s, in, Invalid([]FieldError{{Location: "job", Message: "has more than 32 KiB, which is what the job of a schedule may have; build its data into an image"}})
	}
	return s, in, nil
}

// MinInterval is the least time between two ticks of a schedule.
const MinInterval = 10 * time.Second

// checkTicks checks when it ticks and what becomes of ticks, and fills in what
// is left out.
func checkTicks(s *ScheduleSettings, o *object) {
	var bad *cron.Error
	plan, err := cron.Parse(s.Cron, s.TimeZone)
	switch {
	case o.out.has("cron"), o.out.has("time_zone"):
	case !o.has("cron"):
		o.out.add("cron", nil, `is missing; write when, such as "0 3 * * *" for every day at 3:00`)
	case errors.As(err, &bad) && bad.Zone:
		o.out.add("time_zone", clip(s.TimeZone), "%s", bad.Text)
		if _, err := cron.Parse(s.Cron, ""); errors.As(err, &bad) { // both are told
			o.out.add("cron", clip(s.Cron), "%s", bad.Text)
		}
	case errors.As(err, &bad):
		o.out.add("cron", clip(s.Cron), "%s", bad.Text)
	case plan.Interval() < MinInterval:
		o.out.add("cron", clip(s.Cron), `may tick %v after a tick; at least %v must lie between two, as in "*/10 * * * * *" or "@every 10s"`, plan.Interval(), MinInterval)
	}
	switch s.Missed {
	case "":
		s.Missed = job.MissedOnce
	case job.MissedOnce, job.MissedSkip:
	default:
		o.out.add("missed", clip(string(s.Missed)), `write "once", for one job in place of all that were missed, or "skip"`)
	}
	switch s.Overlap {
	case "":
		s.Overlap = job.OverlapAllow
	case job.OverlapAllow, job.OverlapSkip:
	default:
		o.out.add("overlap", clip(string(s.Overlap)), `write "allow", or "skip" for no job while the last one has not ended`)
	}
}

// readScheduled reads the job of a schedule.
func readScheduled(o *object) Submit {
	n, ok := o.take("job")
	if !ok {
		o.out.add("job", nil, "is missing; write a job as it would be submitted")
		return Submit{}
	}
	var inner problems // of a submit, whose places do not know where it stands
	at, ok := inner.object("", n)
	if !ok {
		o.out.add("job", n.short(), "is %s; write a job as it would be submitted", n.what())
		return Submit{}
	}
	s := readSubmit(at)
	at.done()
	check(s, &inner)
	for name, there := range map[string]bool{"idempotency_key": s.IdempotencyKey != "", "key": s.Key != "", "not_before": at.has("not_before")} {
		if there && !inner.has(name) {
			inner.add(name, nil, "is for a job that is submitted once; leave it out")
		}
	}
	o.out.list = append(o.out.list, Below("job", inner.list)...)
	return s
}

// Below is what is wrong with fields of an object, seen from outside of it.
func Below(object string, list []FieldError) []FieldError {
	var outer []FieldError
	for _, e := range list {
		if e.Location == "" {
			e.Location = object
		} else {
			e.Location = object + "." + e.Location
		}
		outer = append(outer, e)
	}
	return outer
}

// BadSchedule says what is wrong with the name of a schedule, "" if nothing is.
func BadSchedule(name string) string { return badName(name) }
