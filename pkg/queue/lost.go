package queue

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/sandlot-dev/sandlot/pkg/job"
)

// abandoned is the record after the holder of its attempt was lost: canceled
// if that was asked for, expired if its time is over, dead if the platform's
// attempts are used up, else retrying and due.
func abandoned(s stored, now time.Time) (stored, error) {
	event, to := job.EventRetry, job.Retrying
	outcome := job.Attempt{Outcome: job.Lost, Reason: job.WorkerLost, EndedAt: now,
		Detail: fmt.Sprintf("worker %s vanished during the attempt", s.Worker)}
	s.Attempts = slices.Clone(s.Attempts)
	if s.State == job.Canceling {
		event, to, outcome.Outcome = job.EventFinish, job.Canceled, job.AttemptCanceled
	}
	s.closeAttempt(outcome)
	expiry, over := s.Budgets.Expiry(s.AcceptedAt, s.Attempt, now)
	if to == job.Retrying && over {
		event, to = job.EventFinish, job.Expired
	}
	if to == job.Retrying && job.PlatformFaults(s.Attempts) >= job.PlatformAttempts {
		event, to = job.EventFinish, job.Dead
	}
	if err := job.Change(s.State, s.Attempt, event, s.Attempt, to); err != nil {
		return s, err
	}
	s.State, s.UpdatedAt = to, now
	switch to {
	case job.Canceled:
		s.end(now, job.Verdict{Blame: job.BlameNone, Reason: job.WasCanceled, Evidence: job.Evidence{Detail: s.CancelReason}})
	case job.Expired:
		s.end(now, expiry)
	case job.Dead:
		s.end(now, job.Verdict{Blame: job.BlamePlatform, Reason: job.WorkerLost,
			Evidence: job.Evidence{Unit: "attempts", Limit: job.PlatformAttempts,
				Measured: float64(job.PlatformFaults(s.Attempts)), Detail: outcome.Detail}})
	default:
		s.Worker, s.NotBefore = "", now
	}
	return s, nil
}

// abandon ends the attempt of a lost holder. The caller has made sure that
// the holder is lost. errMoved: the record says something else by now.
func (q *Queue) abandon(ctx context.Context, s stored) (stored, error) {
	next, err := abandoned(s, time.Now().UTC())
	if err != nil {
		return s, err
	}
	if next.seq, err = q.put(ctx, next); err != nil {
		return s, err
	}
	if next.State == job.Dead {
		q.bury(ctx, next)
	}
	return next, nil
}

// SettleWorker ends every attempt that a lost life of a worker held, so that
// the jobs run elsewhere, and says how many those were. It may run twice, and
// in several places at once.
func (q *Queue) SettleWorker(ctx context.Context, w Worker) int {
	n := 0
	for _, h := range w.Held {
		if ctx.Err() != nil {
			return n
		}
		changed, err := q.settleHeld(ctx, w, h)
		if err != nil && ctx.Err() == nil {
			// The hint comes again by itself; the reconcile pass looks too.
			q.log.Warn("settle job of lost worker", "worker", w.ID, "job", h.Job, "error", err)
		}
		if changed {
			n++
		}
	}
	return n
}

func (q *Queue) settleHeld(ctx context.Context, w Worker, h Held) (changed bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, acceptTimeout)
	defer cancel()
	for {
		s, err := q.readAtLeader(ctx, h.Tenant, h.Job)
		if errors.Is(err, job.ErrNotFound) {
			return changed, nil
		}
		if err != nil {
			return changed, err
		}
		mine := s.Life == w.Life && s.Attempt == h.Attempt
		switch {
		case mine && (s.State == job.Running || s.State == job.Canceling):
			_, err := q.abandon(ctx, s)
			if err != nil && !errors.Is(err, errMoved) {
				return changed, err
			}
			changed = changed || err == nil
			continue // to see what is to be said of the hint
		case mine && s.State == job.Retrying:
			return changed, q.giveBack(h.Ack, 0)
		case s.State.Final():
			return changed, q.nc.Publish(h.Ack, []byte("+ACK"))
		}
		return changed, nil
	}
}

// sendControl tells the holder of a claim that its record says something new.
// It is a hint as all others: the holder reads the record, now or soon.
func (q *Queue) sendControl(s stored) {
	if s.Worker == "" {
		return
	}
	if err := q.nc.PublishMsg(q.hint(controlSubject(s.Worker), s.summary())); err != nil {
		q.log.Debug("send control", "worker", s.Worker, "job", s.ID, "error", err)
	}
}
