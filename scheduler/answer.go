package scheduler

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/sandlot-dev/sandlot/pkg/api"
	"github.com/sandlot-dev/sandlot/pkg/job"
	"github.com/sandlot-dev/sandlot/pkg/queue"
	"github.com/sandlot-dev/sandlot/pkg/telemetry"
)

// answer is the job as a client sees it. The first answer with the result is
// the last of the ten steps.
func (s *Scheduler) answer(ctx context.Context, rec job.Record) (api.Job, error) {
	v := api.Job{
		ID: rec.ID, State: rec.State, Key: rec.Key, Batch: rec.Batch, IdempotencyKey: rec.IdempotencyKey,
		Image: rec.Image, Pool: rec.Pool, Class: rec.Class, Queue: rec.Queue, Priority: rec.Priority, Labels: rec.Labels, Schedule: rec.Schedule,
		AcceptedAt: rec.AcceptedAt, UpdatedAt: rec.UpdatedAt, ExpiresAt: rec.ExpiresAt, NotBefore: rec.NotBefore, Budgets: rec.Budgets,
		Timings: rec.Timings, Attempts: rec.Attempts, Worker: rec.Worker, TraceID: telemetry.TraceIDOf(rec.TraceParent),
		RedriveOf: rec.RedriveOf,
	}
	var err error
	if rec.State == job.Dead {
		if v.RedrivenAs, _, err = s.redrivenAs(ctx, rec.ID); err != nil {
			return api.Job{}, err
		}
	}
	if v.Limits, err = s.limitsOf(ctx, rec); err != nil {
		return api.Job{}, err
	}
	if r := rec.Result; r != nil {
		v.Verdict, v.Steps, v.Artifacts = &r.Verdict, r.Steps, r.Artifacts
		if r.Applied != (job.Applied{}) {
			v.Applied = &r.Applied
		}
		if r.Runtime != (job.Runtime{}) {
			v.Runtime = &r.Runtime
		}
	}
	if rec.State.Final() {
		v.Timings.Answer = s.index.answered(rec.ID, time.Now().UTC())
	}
	return v, nil
}

// wait returns the record once it is final, or as it stands when d is over or
// the scheduler stops. changes must have been watched before the record was
// read.
func (s *Scheduler) wait(ctx context.Context, rec job.Record, changes <-chan struct{}, d time.Duration) (job.Record, error) {
	if rec.State.Final() || d <= 0 {
		return rec, nil
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	// A change may be heard of a moment before the server that is asked for
	// the record knows it; there is no second word of the end.
	again := time.NewTimer(d)
	defer again.Stop()
	for {
		select {
		case <-ctx.Done():
			return rec, context.Cause(ctx)
		case <-timer.C:
			return s.record(ctx, rec.ID)
		case <-s.stopping:
			return s.record(ctx, rec.ID)
		case <-changes:
		case <-again.C:
		}
		if state, known := s.index.state(rec.ID); known && !state.Final() {
			continue
		}
		current, err := s.record(ctx, rec.ID)
		if err != nil || current.State.Final() {
			return current, err
		}
		again.Reset(20 * time.Millisecond)
	}
}

// limitsOf are the limits as asked. Records of schema 1 kept those of a large
// spec in its object alone.
func (s *Scheduler) limitsOf(ctx context.Context, rec job.Record) (job.Limits, error) {
	switch {
	case rec.Spec != nil:
		return rec.Spec.Limits, nil
	case rec.Limits != nil:
		return *rec.Limits, nil
	}
	object, _, err := s.Queue.Open(ctx, queue.Inputs, rec.SpecRef)
	if errors.Is(err, job.ErrNotFound) && rec.State.Final() { // its inputs were cleared away
		if rec.Result == nil {
			return job.Limits{}, nil
		}
		return rec.Result.Applied.Limits, nil
	}
	if err != nil {
		return job.Limits{}, fmt.Errorf("open spec of job %s: %w", rec.ID, err)
	}
	defer object.Close()
	var spec struct {
		Limits job.Limits `json:"limits"`
	}
	if err := json.NewDecoder(object).Decode(&spec); err != nil {
		return job.Limits{}, fmt.Errorf("read spec of job %s: %w", rec.ID, err)
	}
	return spec.Limits, nil
}
