package queue

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/sandlot-dev/sandlot/pkg/job"
)

// Get is the record of a job, or job.ErrNotFound.
func (q *Queue) Get(ctx context.Context, tenant, id string) (job.Record, error) {
	s, err := q.read(ctx, tenant, id)
	if err == nil && q.layout.replicated() && !s.State.Final() {
		// Who was told of the end must not be shown an older state by a
		// replica that lags.
		s, err = q.readAtLeader(ctx, tenant, id)
	}
	if err != nil {
		return job.Record{}, fmt.Errorf("get job %s: %w", id, err)
	}
	return s.Record, nil
}

// Cancel ends a job that waits, or asks the worker of one that runs to end
// it; the record's state says which. A job that has ended stays as it is: its
// record and job.ErrStale. Canceling twice is harmless.
func (q *Queue) Cancel(ctx context.Context, tenant, id string) (job.Record, error) {
	return q.CancelFor(ctx, tenant, id, "")
}

// CancelFor is Cancel, with a sentence that says why.
func (q *Queue) CancelFor(ctx context.Context, tenant, id, why string) (job.Record, error) {
	return q.cancelBy(ctx, tenant, id, why, "")
}

// cancelBy is CancelFor by an order.
func (q *Queue) cancelBy(ctx context.Context, tenant, id, why, order string) (job.Record, error) {
	ctx, cancel := context.WithTimeout(ctx, acceptTimeout)
	defer cancel()
	for {
		s, err := q.readAtLeader(ctx, tenant, id)
		if err != nil {
			return job.Record{}, fmt.Errorf("cancel job %s: %w", id, err)
		}
		if s.State == job.Canceling {
			q.sendControl(s)
			return s.Record, nil
		}
		before := s.summary()
		if err := s.cancel(time.Now().UTC(), why, order); err != nil {
			return s.Record, fmt.Errorf("cancel job %s: %w", id, err)
		}
		seq, err := q.put(ctx, s)
		if errors.Is(err, errMoved) {
			continue // it moved, perhaps by ourselves: look again
		}
		if err != nil {
			return s.Record, fmt.Errorf("cancel job %s: %w", id, err)
		}
		s.seq = seq
		q.tellCanceled(s, before)
		return s.Record, nil
	}
}

// cancel is the record once its end was asked for.
func (s *stored) cancel(now time.Time, why, order string) error {
	to := job.Canceling
	if s.State != job.Running {
		to = job.Canceled
	}
	if err := job.Change(s.State, s.Attempt, job.EventCancel, s.Attempt, to); err != nil {
		return err
	}
	s.State, s.UpdatedAt, s.CancelReason, s.CanceledBy = to, now, why, order
	if to == job.Canceled {
		s.end(now, job.Verdict{Blame: job.BlameNone, Reason: job.WasCanceled, Evidence: job.Evidence{Detail: why}})
	}
	return nil
}

// tellCanceled has the worker of a canceled job end it, or drops the timers
// of one that waited.
func (q *Queue) tellCanceled(s stored, before Summary) {
	if s.State == job.Canceling {
		q.sendControl(s)
	} else {
		q.dropTimers(before)
	}
}

// end fills in what every final record has.
func (s *stored) end(now time.Time, v job.Verdict) {
	if s.Result == nil {
		s.Result = &job.Result{Steps: []job.StepResult{}}
	}
	s.Result.Verdict = v
	s.finalize(now)
}

// finalize stamps a record that has become final.
func (s *stored) finalize(now time.Time) {
	if s.Retention <= 0 {
		s.Retention = DefaultRetention
	}
	s.UpdatedAt, s.ExpiresAt, s.NotBefore, s.Spill = now, now.Add(s.Retention), time.Time{}, nil
	if s.Timings.Commit.IsZero() {
		s.Timings.Commit = now
	}
}

// Remove forgets a job that has ended, with its logs and objects;
// job.ErrNotFinal if it has not ended.
func (q *Queue) Remove(ctx context.Context, tenant, id string) error {
	for {
		s, err := q.readAtLeader(ctx, tenant, id)
		if err != nil {
			return fmt.Errorf("remove job %s: %w", id, err)
		}
		if !s.State.Final() {
			return fmt.Errorf("remove job %s: it is %s: %w", id, s.State, job.ErrNotFinal)
		}
		err = q.replaceByTombstone(ctx, s)
		if errors.Is(err, errMoved) {
			continue
		}
		if err != nil {
			return fmt.Errorf("remove job %s: %w", id, err)
		}
		if err := q.removeTraces(ctx, s); err != nil {
			// The reconcile pass finds what is left.
			q.log.Warn("remove logs and objects", "job", id, "error", err)
		}
		return nil
	}
}

// replaceByTombstone removes a record so that those who follow can see it. Of
// a schedule's job it stays as long as the record would have, lest the tick
// have another one.
func (q *Queue) replaceByTombstone(ctx context.Context, s stored) error {
	msg := q.message(recordSubject(q.shard(s.ID), s.Tenant, s.ID))
	msg.Header.Set(headerOperation, purged)
	ttl := markerTTL
	if s.ofTick() {
		ttl = max(ttl, s.Retention.Round(time.Second))
	}
	msg.Header.Set(jetstream.MsgTTLHeader, ttl.String())
	msg.Header.Set(jetstream.ExpectedLastSubjSeqHeader, strconv.FormatUint(s.seq, 10))
	_, err := q.publish(ctx, msg)
	return err
}

// removeTraces removes the logs of a job and the objects its record names.
func (q *Queue) removeTraces(ctx context.Context, s stored) error {
	logs, err := q.js.Stream(ctx, logStream)
	if err != nil {
		return fmt.Errorf("remove logs of %s: %w", s.ID, err)
	}
	if err := logs.Purge(ctx, jetstream.WithPurgeSubject(logSubject(q.shard(s.ID), s.ID))); err != nil {
		return fmt.Errorf("remove logs of %s: %w", s.ID, err)
	}
	var all []error
	if s.SpecRef != "" {
		all = append(all, q.Delete(ctx, Inputs, s.SpecRef))
	}
	for _, ref := range outputs(s.Result) {
		all = append(all, q.Delete(ctx, Outputs, ref))
	}
	return errors.Join(all...)
}

// outputs names the objects of a result.
func outputs(r *job.Result) []string {
	if r == nil {
		return nil
	}
	var refs []string
	add := func(ref string) {
		if ref != "" {
			refs = append(refs, ref)
		}
	}
	for _, s := range r.Steps {
		add(s.Stdout.Ref)
		add(s.Stderr.Ref)
	}
	for _, a := range r.Artifacts {
		add(a.Ref)
	}
	return refs
}
