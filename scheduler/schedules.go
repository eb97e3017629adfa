package scheduler

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/sandlot-dev/sandlot/pkg/api"
	"github.com/sandlot-dev/sandlot/pkg/cron"
	"github.com/sandlot-dev/sandlot/pkg/job"
	"github.com/sandlot-dev/sandlot/pkg/queue"
	"github.com/sandlot-dev/sandlot/pkg/telemetry"
)

// scheduleSetting is a schedule as a scheduler knows it.
type scheduleSetting struct {
	job.Schedule
	revision uint64
	// next is when its next tick is; zero for none. A tick that is under way
	// goes first.
	next time.Time
}

func newScheduleSetting(s job.Schedule, revision uint64) scheduleSetting {
	set := scheduleSetting{Schedule: s, revision: revision}
	if !s.Paused {
		if plan, err := cron.Parse(s.Cron, s.TimeZone); err == nil {
			set.next = plan.Next(s.After)
		}
	}
	return set
}

// due is when something is to be done for it; zero for never.
func (s scheduleSetting) due() time.Time {
	if s.Firing != nil {
		return s.Firing.Tick
	}
	return s.next
}

// schedule is a schedule of a tenant; false if there is none of that name.
func (s *settings) schedule(tenant, name string) (scheduleSetting, bool) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	set, ok := s.schedules[scoped{tenant, name}]
	return set, ok
}

// schedulesOf lists the schedules of a tenant by name.
func (s *settings) schedulesOf(tenant string) []scheduleSetting {
	s.mu.RLock()
	defer s.mu.RUnlock()
	var list []scheduleSetting
	for name, set := range s.schedules {
		if name.tenant == tenant {
			list = append(list, set)
		}
	}
	slices.SortFunc(list, func(a, b scheduleSetting) int { return strings.Compare(a.Name, b.Name) })
	return list
}

func (s scheduleSetting) view() api.Schedule {
	v := api.Schedule{
		Name: s.Name, Cron: s.Cron, TimeZone: s.TimeZone, Job: s.Job, Missed: s.Missed, Overlap: s.Overlap, Paused: s.Paused, NextAt: s.next,
		LastAt: s.LastAt, LastJob: s.LastJob, LastError: s.LastError, LastSkipped: s.LastSkipped,
		CreatedAt: s.CreatedAt, UpdatedAt: s.UpdatedAt, Revision: s.revision,
	}
	setDefault(&v.TimeZone, "UTC")
	return v
}

func noSchedule(tenant, name string) *api.Problem {
	return api.NewProblem(http.StatusNotFound, api.TypeNotFound, "tenant %q has no schedule %q", tenant, clean(name))
}

func (s *Scheduler) handleSchedules(w http.ResponseWriter, r *http.Request) error {
	if err := s.settingsRead(r.Context()); err != nil {
		return err
	}
	list := []api.Schedule{}
	for _, set := range s.settings.schedulesOf(tenantOf(r.Context())) {
		list = append(list, set.view())
	}
	return writeJSON(w, http.StatusOK, api.Schedules{Schedules: list})
}

// scheduleAsked is the schedule that a request names.
func (s *Scheduler) scheduleAsked(r *http.Request) (scheduleSetting, error) {
	if err := s.settingsRead(r.Context()); err != nil {
		return scheduleSetting{}, err
	}
	tenant, name := tenantOf(r.Context()), r.PathValue("schedule")
	set, ok := s.settings.schedule(tenant, name)
	if !ok {
		return set, noSchedule(tenant, name)
	}
	return set, nil
}

func (s *Scheduler) handleSchedule(w http.ResponseWriter, r *http.Request) error {
	set, err := s.scheduleAsked(r)
	if err != nil {
		return err
	}
	return writeJSON(w, http.StatusOK, set.view())
}

func (s *Scheduler) handlePutSchedule(w http.ResponseWriter, r *http.Request) error {
	name := r.PathValue("schedule")
	if why := api.BadSchedule(name); why != "" {
		return invalid("schedule", clean(name), "%s", why)
	}
	body, release, err := s.body(w, r)
	if err != nil {
		return err
	}
	settings, in, problem := api.DecodeScheduleSettings(body)
	release()
	if problem != nil {
		return problem
	}
	if err := s.settingsRead(r.Context()); err != nil {
		return err
	}
	// Nothing comes of this draft: it would be refused now as at a tick.
	if _, err := s.draft(r.Context(), in, Origin{}); err != nil {
		return belowJob(err)
	}
	set, err := s.setSchedule(r.Context(), name, settings)
	if err != nil {
		return err
	}
	return writeJSON(w, http.StatusOK, set.view())
}

// belowJob is what is wrong with the job of a schedule.
func belowJob(err error) error {
	var p *api.Problem
	if !errors.As(err, &p) || p.Type != api.TypeInvalid {
		return err
	}
	return api.Invalid(api.Below("job", p.Errors))
}

// setSchedule makes a schedule or changes it. How far its ticks are dealt with
// stays, unless it has other ticks from now on.
func (s *Scheduler) setSchedule(ctx context.Context, name string, in api.ScheduleSettings) (scheduleSetting, error) {
	tenant := tenantOf(ctx)
	for {
		now := time.Now().UTC()
		set, have, err := s.Queue.Schedule(ctx, tenant, name)
		former := set
		switch {
		case errors.Is(err, job.ErrNotFound):
			if n := len(s.settings.schedulesOf(tenant)); n >= job.MaxSchedules {
				return scheduleSetting{}, api.NewProblem(http.StatusTooManyRequests, api.TypeFull,
					"tenant %q has %d schedules, which is all that it may have; remove one with `sandlot schedules rm`", tenant, n)
			}
			set, have = job.Schedule{Tenant: tenant, Name: name, CreatedAt: now, After: now}, 0
		case err != nil:
			return scheduleSetting{}, fmt.Errorf("read schedule: %w", err)
		case former.Paused || former.Cron != in.Cron || former.TimeZone != in.TimeZone:
			set.After = now
		}
		if in.Revision != 0 && in.Revision != have {
			return scheduleSetting{}, changedMeanwhile(have)
		}
		set.Cron, set.TimeZone, set.Job, set.Missed, set.Overlap, set.Paused = in.Cron, in.TimeZone, in.Job, in.Missed, in.Overlap, in.Paused
		set, revision, err := s.Queue.SetSchedule(ctx, set, have)
		if errors.Is(err, queue.ErrChanged) {
			continue
		}
		if err != nil {
			return scheduleSetting{}, fmt.Errorf("set schedule: %w", err)
		}
		return newScheduleSetting(set, revision), s.settings.await(ctx, func() bool { return s.settings.revision >= revision })
	}
}

func (s *Scheduler) handleDeleteSchedule(w http.ResponseWriter, r *http.Request) error {
	tenant, name := tenantOf(r.Context()), r.PathValue("schedule")
	for {
		_, have, err := s.Queue.Schedule(r.Context(), tenant, name)
		if errors.Is(err, job.ErrNotFound) {
			return noSchedule(tenant, name)
		}
		if err == nil {
			err = s.Queue.RemoveSchedule(r.Context(), tenant, name, have)
		}
		if errors.Is(err, queue.ErrChanged) {
			continue
		}
		if err != nil {
			return fmt.Errorf("remove schedule: %w", err)
		}
		err = s.settings.await(r.Context(), func() bool { _, there := s.settings.schedules[scoped{tenant, name}]; return !there })
		if err != nil {
			return err
		}
		w.WriteHeader(http.StatusNoContent)
		return nil
	}
}

// handleRunSchedule submits the job of a schedule beside its ticks.
func (s *Scheduler) handleRunSchedule(w http.ResponseWriter, r *http.Request) error {
	received := time.Now().UTC()
	wait, err := s.waitOf(r)
	if err != nil {
		return err
	}
	set, err := s.scheduleAsked(r)
	if err != nil {
		return err
	}
	in, problem := api.DecodeSubmit(set.Job)
	if problem != nil {
		return belowJob(problem)
	}
	if err := keyOf(r, &in); err != nil {
		return err
	}
	from := Origin{Received: received, Schedule: &job.Tick{Name: set.Name, At: received.Truncate(time.Millisecond), Manual: true}}
	rec, err := s.Submit(telemetry.Extract(r.Context(), r.Header), in, from)
	if err != nil {
		return belowJob(err)
	}
	w.Header().Set("Location", "/v1/jobs/"+rec.ID)
	return s.answerWithin(w, r, rec, wait)
}
