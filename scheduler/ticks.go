package scheduler

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/sandlot-dev/sandlot/pkg/api"
	"github.com/sandlot-dev/sandlot/pkg/cron"
	"github.com/sandlot-dev/sandlot/pkg/job"
	"github.com/sandlot-dev/sandlot/pkg/queue"
)

const (
	// ticksAtOnce is how many schedules are dealt with at the same time.
	ticksAtOnce = 16
	// lateTick is how late a tick may be found and still count as on time:
	// longer than another scheduler takes to lead.
	lateTick = time.Minute
	// ticksPoll bounds what a step of the clock can cost.
	ticksPoll = 10 * time.Second
	// ticksAgain is when a tick is first tried again whose job could not be
	// submitted; the pause doubles up to ticksPoll.
	ticksAgain = 500 * time.Millisecond
)

// ticks has schedules submit their jobs, while this process leads.
//
// A tick takes three writes: the schedule says that the tick is under way and
// which ID its job has; the job is accepted under that ID; the schedule says
// that the tick is dealt with. Each of the three is a compare-and-set, so of
// two who do the same one succeeds and the other sees that it is done. Whoever
// finds a tick under way goes on where the other stopped: if its job was there
// it is not submitted again. Once a job could have been there and be forgotten,
// nothing is submitted any more.
type ticks struct {
	s *Scheduler
	// again holds what failed back. The loop's alone.
	again map[scoped]hold
}

// hold is until when a schedule is left alone, and for how long it was.
type hold struct {
	until time.Time
	pause time.Duration
}

func (t *ticks) run(ctx context.Context) error {
	t.again = map[scoped]hold{}
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		changed := t.s.settings.changes()
		now := time.Now()
		names, next := t.due(now)
		t.deal(ctx, names)
		if len(names) > 0 {
			next = now // what is dealt with may be due again
		}
		timer.Reset(max(time.Until(next), time.Millisecond))
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-changed:
		case <-timer.C:
		}
	}
}

// due lists the schedules for which there is something to do, and says when
// there will be next.
func (t *ticks) due(now time.Time) (names []scoped, next time.Time) {
	s := t.s.settings
	s.mu.RLock()
	defer s.mu.RUnlock()
	next = now.Add(ticksPoll)
	if s.filling {
		return nil, next // what a backup says must not be written over
	}
	for name := range t.again {
		if _, there := s.schedules[name]; !there {
			delete(t.again, name)
		}
	}
	for name, set := range s.schedules {
		at := set.due()
		if at.IsZero() {
			continue
		}
		if held := t.again[name].until; held.After(at) {
			at = held
		}
		if at.After(now) {
			next = earlier(next, at)
		} else {
			names = append(names, name)
		}
	}
	return names, next
}

func earlier(a, b time.Time) time.Time {
	if b.Before(a) {
		return b
	}
	return a
}

// deal deals with what is due, and holds back what failed.
func (t *ticks) deal(ctx context.Context, names []scoped) {
	failed := make([]error, len(names))
	var group errgroup.Group
	group.SetLimit(ticksAtOnce)
	for i, name := range names {
		group.Go(func() error {
			failed[i] = t.tick(ctx, name)
			return nil
		})
	}
	_ = group.Wait()
	for i, name := range names {
		if failed[i] == nil {
			delete(t.again, name)
			continue
		}
		pause := min(max(2*t.again[name].pause, ticksAgain), ticksPoll)
		t.again[name] = hold{time.Now().Add(pause), pause}
		if ctx.Err() == nil {
			t.s.log.Warn("tick of a schedule", "tenant", name.tenant, "schedule", name.name, "error", failed[i])
		}
	}
}

// tick deals with the next tick of a schedule, or goes on with the one that is
// under way.
func (t *ticks) tick(ctx context.Context, name scoped) error {
	ctx = withCaller(ctx, caller{tenant: name.tenant})
	set, revision, err := t.s.Queue.Schedule(ctx, name.tenant, name.name)
	if errors.Is(err, job.ErrNotFound) {
		return t.heard(ctx, revision)
	}
	if err == nil && set.Firing == nil {
		set, revision, err = t.begin(ctx, set, revision)
	}
	if err == nil && set.Firing != nil {
		revision, err = t.finish(ctx, set, revision)
	}
	if errors.Is(err, queue.ErrChanged) {
		return nil // the change is told soon, and has this looked at again
	}
	if err != nil {
		return err
	}
	return t.heard(ctx, revision)
}

// heard waits until this process knows of its own change, which else would be
// seen to be due still.
func (t *ticks) heard(ctx context.Context, revision uint64) error {
	return t.s.settings.await(ctx, func() bool { return t.s.settings.revision >= revision })
}

// begin decides what becomes of the ticks that are due: the last of them is
// under way then, or all are passed over.
func (t *ticks) begin(ctx context.Context, set job.Schedule, revision uint64) (job.Schedule, uint64, error) {
	plan, err := cron.Parse(set.Cron, set.TimeZone)
	if err != nil {
		return set, revision, fmt.Errorf("cron %q %w", set.Cron, err)
	}
	now := time.Now().UTC()
	at := plan.Last(set.After, now).UTC()
	if set.Paused || at.IsZero() {
		return set, revision, nil // it was changed
	}
	if first := plan.Next(set.After).UTC(); first.Before(at) {
		t.skipped(ctx, &set, first, job.TickMissed, fmt.Sprintf("no scheduler dealt with it before the tick at %s, which stands for it", at.Format(time.RFC3339)))
	}
	set.After = at
	reason, why, err := t.passOver(ctx, set, at, now)
	if err != nil {
		return set, revision, err
	}
	if reason != "" {
		t.skipped(ctx, &set, at, reason, why)
	} else {
		set.Firing = &job.Firing{
			Tick: at, Job: derivedID(set.Tenant, "schedule", set.Name, at.Format(time.RFC3339Nano)),
			Since: now, Retention: t.s.retention(set.Tenant),
		}
	}
	return t.s.Queue.MarkSchedule(ctx, set, revision)
}

// passOver says why a tick is to have no job, "" if it is to have one.
func (t *ticks) passOver(ctx context.Context, set job.Schedule, at, now time.Time) (reason, why string, err error) {
	if set.Missed == job.MissedSkip && now.Sub(at) > lateTick {
		return job.TickMissed, fmt.Sprintf("no scheduler dealt with it in time; it was found %s late", now.Sub(at).Round(time.Second)), nil
	}
	if set.Overlap != job.OverlapSkip || set.LastJob == "" {
		return "", "", nil
	}
	last, err := t.s.Queue.Get(ctx, set.Tenant, set.LastJob)
	switch {
	case errors.Is(err, job.ErrNotFound), err == nil && last.State.Final():
		return "", "", nil
	case err != nil:
		return "", "", fmt.Errorf("read the last job: %w", err)
	}
	return job.TickOverlap, fmt.Sprintf("job %s of the tick at %s is %s", last.ID, set.LastAt.Format(time.RFC3339), last.State), nil
}

// skipped notes ticks that have no job because the schedule says so.
func (t *ticks) skipped(ctx context.Context, set *job.Schedule, at time.Time, reason, why string) {
	set.LastSkipped = &job.TickNote{Tick: at, At: time.Now().UTC(), Reason: reason, Detail: why}
	t.told(ctx, slog.LevelInfo, *set, at, reason, why)
}

// told counts and logs what became of a tick.
func (t *ticks) told(ctx context.Context, level slog.Level, set job.Schedule, at time.Time, outcome, why string) {
	t.s.metrics.ticks.WithLabelValues(set.Tenant, outcome).Inc()
	t.s.log.Log(ctx, level, "tick without a job", "tenant", set.Tenant, "schedule", set.Name, "tick", at, "reason", outcome, "detail", why)
}

// finish submits the job of the tick that is under way, unless it was there,
// and has the tick dealt with.
func (t *ticks) finish(ctx context.Context, set job.Schedule, revision uint64) (uint64, error) {
	firing := set.Firing
	fired, refused, err := t.submit(ctx, set)
	for {
		switch {
		case fired:
			set.LastAt, set.LastJob, set.Firing = firing.Tick, firing.Job, nil
			if set.LastError != nil && set.LastError.Tick.Equal(firing.Tick) {
				set.LastError = nil // it came through in the end
			}
		case refused != nil:
			set.LastError, set.Firing = refused, nil
		case set.LastError != nil && set.LastError.Tick.Equal(firing.Tick):
			return revision, err // told already
		default:
			set.LastError = &job.TickNote{Tick: firing.Tick, At: time.Now().UTC(), Reason: reasonOf(err), Detail: "it is tried again: " + detailOf(err)}
		}
		_, now, markErr := t.s.Queue.MarkSchedule(ctx, set, revision)
		if !errors.Is(markErr, queue.ErrChanged) {
			if markErr == nil && fired {
				t.s.metrics.ticks.WithLabelValues(set.Tenant, "fired").Inc()
			}
			if markErr == nil && refused != nil {
				t.told(ctx, slog.LevelWarn, set, firing.Tick, refused.Reason, refused.Detail)
			}
			return now, errors.Join(err, markErr)
		}
		// It was changed, or somebody else was faster.
		if set, revision, markErr = t.s.Queue.Schedule(ctx, set.Tenant, set.Name); markErr != nil {
			if errors.Is(markErr, job.ErrNotFound) {
				markErr = nil
			}
			return revision, markErr
		}
		if set.Firing == nil || set.Firing.Job != firing.Job {
			return revision, nil
		}
	}
}

// submit submits the job of a tick, unless it was there. An error is one that
// may be over soon, so that the tick stays under way.
func (t *ticks) submit(ctx context.Context, set job.Schedule) (fired bool, refused *job.TickNote, err error) {
	firing := set.Firing
	now := time.Now().UTC()
	if there, err := t.s.Queue.WasThere(ctx, set.Tenant, firing.Job); there || err != nil {
		return there, nil, err
	}
	refuse := func(reason, why string) (bool, *job.TickNote, error) {
		return false, &job.TickNote{Tick: firing.Tick, At: now, Reason: reason, Detail: why}, nil
	}
	if now.Sub(firing.Since) > firing.Retention {
		return refuse(job.TickUnknown, fmt.Sprintf("no scheduler ran for %s since it began, and results are kept for %s: its job may have been and gone", now.Sub(firing.Since).Round(time.Second), firing.Retention))
	}
	if _, known := t.s.settings.tenant(set.Tenant); !known {
		return refuse(reasonOf(unknownTenant(set.Tenant)), unknownTenant(set.Tenant).Detail)
	}
	in, problem := api.DecodeSubmit(set.Job)
	if problem != nil {
		return refuse(reasonOf(problem), detailOf(problem))
	}
	_, err = t.s.Submit(ctx, in, Origin{Received: now, Schedule: &job.Tick{Name: set.Name, At: firing.Tick}, Firing: firing})
	switch {
	case err == nil, errors.Is(err, job.ErrConflict), errors.Is(err, queue.ErrRemoved):
		// A conflict: it was submitted before the schedule got another job.
		return true, nil, nil
	case lasting(err):
		return refuse(reasonOf(err), detailOf(err))
	}
	return false, nil, err
}

// lasting reports whether a submit was refused in a way that another try would
// not mend, or that is the tenant's own business.
func lasting(err error) bool {
	var p *api.Problem
	if errors.As(err, &p) {
		return p.Status < 500
	}
	return errors.Is(err, job.ErrFull) || errors.Is(err, queue.ErrTooLarge) || errors.Is(err, job.ErrSchema)
}

// reasonOf is one word for why a submit came to nothing.
func reasonOf(err error) string {
	var p *api.Problem
	switch {
	case errors.As(err, &p):
		return p.Type[strings.LastIndex(p.Type, ":")+1:]
	case errors.Is(err, job.ErrFull):
		return "full"
	case errors.Is(err, queue.ErrTooLarge):
		return "too-large"
	case errors.Is(err, job.ErrSchema):
		return "schema"
	}
	return "unavailable"
}

// detailOf is a sentence for the tenant; what is internal stays in the log.
func detailOf(err error) string {
	var p *api.Problem
	var full *queue.FullError
	switch {
	case errors.As(err, &p):
		return p.Error()
	case errors.As(err, &full):
		return full.What
	case errors.Is(err, queue.ErrTooLarge):
		return "labels and names are too large together"
	}
	return "the queue did not take it"
}
