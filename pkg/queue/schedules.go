package queue

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/sandlot-dev/sandlot/pkg/job"
)

// scheduleShare is how much of the room for settings schedules may take up, so
// that those of the operator always fit.
const scheduleShare = 0.5

// Schedule is a schedule as it stands, and at which revision; job.ErrNotFound.
func (q *Queue) Schedule(ctx context.Context, tenant, name string) (job.Schedule, uint64, error) {
	s := job.Schedule{Tenant: tenant, Name: name}
	if checkToken(tenant) != nil || checkToken(name) != nil {
		return s, 0, job.ErrNotFound // none can have this name
	}
	revision, err := q.readSetting(ctx, cronKey(tenant, name), &s)
	if err != nil {
		return s, revision, fmt.Errorf("schedule %s of tenant %s: %w", name, tenant, err)
	}
	return s, revision, nil
}

// SetSchedule stores what a tenant asks for in place of what was read at a
// revision, 0 if nothing was; ErrChanged if it has changed since, a *FullError
// if there is no room.
func (q *Queue) SetSchedule(ctx context.Context, s job.Schedule, revision uint64) (job.Schedule, uint64, error) {
	for _, name := range []string{s.Tenant, s.Name} {
		if err := checkToken(name); err != nil {
			return s, 0, fmt.Errorf("set schedule: %w", err)
		}
	}
	room, err := q.roomIn(ctx, configStream, scheduleShare)
	if err != nil {
		return s, 0, fmt.Errorf("set schedule %s of tenant %s: %w", s.Name, s.Tenant, err)
	}
	if room < int64(job.MaxScheduledJob) {
		return s, 0, fmt.Errorf("set schedule %s of tenant %s: %w", s.Name, s.Tenant,
			&FullError{What: fmt.Sprintf("settings are at %.0f %% of their space, and no more schedules fit", 100*scheduleShare), RetryAfter: 30 * time.Second})
	}
	s.UpdatedAt = time.Now().UTC()
	return q.MarkSchedule(ctx, s, revision)
}

// MarkSchedule stores how far the ticks of a schedule are dealt with, in place
// of what was read at a revision; ErrChanged if it has changed since.
func (q *Queue) MarkSchedule(ctx context.Context, s job.Schedule, revision uint64) (job.Schedule, uint64, error) {
	s.Schema = job.Schema
	msg := q.message(configSubject(cronKey(s.Tenant, s.Name)))
	// There is no history of ticks.
	msg.Header.Set(jetstream.MsgRollup, jetstream.MsgRollupSubject)
	revision, err := q.writeSettingAs(ctx, msg, s, revision)
	if err != nil {
		return s, 0, fmt.Errorf("set schedule %s of tenant %s: %w", s.Name, s.Tenant, err)
	}
	return s, revision, nil
}

// RemoveSchedule forgets a schedule. Its jobs stay.
func (q *Queue) RemoveSchedule(ctx context.Context, tenant, name string, revision uint64) error {
	if err := q.removeSetting(ctx, cronKey(tenant, name), revision); err != nil {
		return fmt.Errorf("remove schedule %s of tenant %s: %w", name, tenant, err)
	}
	return nil
}

// ofTick: it is the one job that a tick of a schedule may have.
func (s stored) ofTick() bool { return s.Schedule != nil && !s.Schedule.Manual }

// WasThere reports whether a job of that ID is, or is known to have been.
func (q *Queue) WasThere(ctx context.Context, tenant, id string) (bool, error) {
	s, err := q.readAtLeader(ctx, tenant, id)
	if s.seq != 0 {
		return true, nil
	}
	if errors.Is(err, job.ErrNotFound) {
		return false, nil
	}
	return err == nil, err
}
