package queue

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/sandlot-dev/sandlot/pkg/job"
)

// Commit makes rec the final record of the claimed job, then ends its hint.
// rec is Claim.Record with State, Result, Timings and Spans set, and if wanted
// Outcome, Reason, Detail and EndedAt of its last attempt (finished, now).
// While the server is away it tries again until ctx ends.
//
// ErrCanceling: stop, and Commit again with job.Canceled. job.ErrLostClaim:
// somebody else may run the job; stop the sandbox, Drop, say nothing.
func (q *Queue) Commit(ctx context.Context, c *Claim, rec job.Record) error {
	now := time.Now().UTC()
	s := stored{Record: rec, Life: c.life}
	outcome := job.Finished
	switch rec.State {
	case job.Canceled:
		outcome = job.AttemptCanceled
	case job.Expired:
		outcome = job.AttemptExpired
	}
	s.Attempts = slices.Clone(rec.Attempts)
	s.closeAttempt(job.Attempt{Outcome: outcome, EndedAt: now})
	s.finalize(now)
	if err := q.settle(ctx, c, s, job.EventFinish); err != nil {
		return fmt.Errorf("commit job %s: %w", rec.ID, err)
	}
	if s.State == job.Dead {
		q.bury(ctx, s)
	}
	if s.Budgets != (job.Budgets{}) {
		q.dropTimers(s.summary())
	}
	if err := q.ackSoon(c.ack); err != nil {
		q.log.Debug("commit", "job", rec.ID, "error", err)
	}
	c.reg.release(rec.ID, rec.Attempt)
	return nil
}

// closeAttempt fills in how the last attempt ended where it does not say.
func (s *stored) closeAttempt(how job.Attempt) {
	if len(s.Attempts) == 0 {
		return
	}
	a := &s.Attempts[len(s.Attempts)-1]
	if a.Outcome == "" {
		a.Outcome = how.Outcome
	}
	if a.Reason == "" {
		a.Reason = how.Reason
	}
	if a.Detail == "" {
		a.Detail = how.Detail
	}
	if a.EndedAt.IsZero() {
		a.EndedAt = how.EndedAt
	}
}

// Retry gives the job back without a result, to be run again at notBefore or,
// if that is past, at once. how is Outcome, Reason and Detail of the attempt;
// Timings and Spans are taken from Claim.Record. Errors are those of Commit.
func (q *Queue) Retry(ctx context.Context, c *Claim, how job.Attempt, notBefore time.Time) error {
	now := time.Now().UTC()
	s := stored{Record: c.Record, Life: c.life}
	s.State, s.Result, s.Worker = job.Retrying, nil, ""
	s.UpdatedAt, s.NotBefore = now, notBefore
	if how.EndedAt.IsZero() {
		how.EndedAt = now
	}
	s.Attempts = slices.Clone(s.Attempts)
	s.closeAttempt(how)
	if err := q.settle(ctx, c, s, job.EventRetry); err != nil {
		return fmt.Errorf("retry job %s: %w", s.ID, err)
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), apiTimeout)
	defer cancel()
	c.reg.release(s.ID, s.Attempt)
	if wait := notBefore.Sub(now); wait <= shortWait {
		if err := q.giveBackSurely(ctx, c.ack, wait); err != nil {
			// It comes again by itself, later.
			q.log.Warn("retry", "job", s.ID, "error", err)
		}
		return nil
	}
	if err := q.setTimer(ctx, s.summary()); err != nil {
		// The hint comes again by itself and sets the timer then.
		q.log.Warn("set timer", "job", s.ID, "error", err)
		return nil
	}
	if err := q.ack(ctx, c.ack); err != nil {
		q.log.Debug("retry", "job", s.ID, "error", err)
	}
	return nil
}

// settle ends the claimed attempt by compare-and-set. When the record is not
// where it was, reading it again tells whose write that was.
func (q *Queue) settle(ctx context.Context, c *Claim, s stored, event job.Event) error {
	for {
		if s.State == job.Canceled && !c.canceling {
			// The holder was told to cancel; the record must say so too.
			if done, err := q.reread(ctx, c, s); done || err != nil {
				return err
			}
			if !c.canceling {
				return fmt.Errorf("nobody asked to cancel it: %w", job.ErrStale)
			}
		}
		from := job.Running
		if c.canceling {
			if s.State != job.Canceled {
				return ErrCanceling
			}
			from = job.Canceling
		}
		if err := job.Change(from, c.Record.Attempt, event, s.Attempt, s.State); err != nil {
			return err
		}
		s.seq = c.seq
		s.sayWhy(c.why)
		_, err := q.put(ctx, s)
		if errors.Is(err, job.ErrFull) && pause(ctx, time.Second) == nil {
			continue // what has run must not be lost for want of space
		}
		if !errors.Is(err, errMoved) {
			return err
		}
		if done, err := q.reread(ctx, c, s); done || err != nil {
			return err
		}
	}
}

// sayWhy writes down why a job was canceled, if that was said.
func (s *stored) sayWhy(why string) {
	if s.State != job.Canceled || why == "" {
		return
	}
	s.CancelReason = why
	if s.Result != nil && s.Result.Verdict.Evidence.Detail == "" {
		result := *s.Result // the caller's stays as it is
		result.Verdict.Evidence.Detail = why
		s.Result = &result
	}
}

// reread reads the record of a claim again. done: s is what stands there, our
// own write whose answer got lost. Otherwise the claim has its new sequence.
func (q *Queue) reread(ctx context.Context, c *Claim, s stored) (done bool, err error) {
	now, err := q.readAtLeader(ctx, s.Tenant, s.ID)
	switch {
	case errors.Is(err, job.ErrNotFound):
		_ = q.nc.Publish(c.ack, []byte("+TERM"))
		return false, job.ErrLostClaim
	case err != nil:
		return false, err
	case c.is(now) && now.State == s.State && now.UpdatedAt.Equal(s.UpdatedAt):
		return true, nil
	case c.is(now) && now.State == job.Running:
		c.seq = now.seq
		return false, nil
	case c.is(now) && now.State == job.Canceling:
		c.seq, c.canceling, c.why = now.seq, true, now.CancelReason
		return false, nil
	case now.State.Final():
		_ = q.nc.Publish(c.ack, []byte("+ACK"))
	}
	return false, job.ErrLostClaim
}
