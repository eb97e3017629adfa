package queue

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/sandlot-dev/sandlot/pkg/job"
)

// Claim is a worker's right to run one attempt of a job. It is listed in the
// WORKERS key until Commit, Retry or Drop.
type Claim struct {
	// Record is as claimed: running, with Attempt and Attempts set, and
	// Release, Take and Claim in Timings. The holder fills it in further.
	Record job.Record

	reg  *Registration
	life string
	seq  uint64 // of the record: the token
	ack  string
	// canceling says that the record at seq asks to end the job, why the
	// reason that was given.
	canceling bool
	why       string
}

// claimTimeout is how long a claim tries to reach a server that is away.
const claimTimeout = 10 * time.Second

// Claim takes the next attempt of a job. job.ErrStale: it is not to be had
// (ended, claimed by another); take the next.
func (q *Queue) Claim(ctx context.Context, r *Registration, d Delivery) (*Claim, error) {
	s := d.read
	id, attempt := s.ID, s.Attempt+1
	if err := job.Change(s.State, s.Attempt, job.EventClaim, attempt, job.Running); err != nil {
		return nil, fmt.Errorf("claim job %s: %w", id, err)
	}
	now := time.Now().UTC()
	if _, over := s.Budgets.Expiry(s.AcceptedAt, s.Attempt, now); over {
		_ = q.giveBack(d.ack, 0) // whoever gets it ends the job
		return nil, fmt.Errorf("claim job %s: its time is over: %w", id, job.ErrStale)
	}
	// Listed first: what is claimed and not listed would count as lost.
	if !r.hold(Held{Job: id, Tenant: s.Tenant, Attempt: attempt, Ack: d.ack, Memory: memoryOf(s.Record)}) {
		return nil, fmt.Errorf("claim job %s: the worker holds it already, or has no place: %w", id, job.ErrStale)
	}
	s.State, s.Attempt, s.Worker, s.Life = job.Running, attempt, r.id, r.life
	s.NotBefore, s.UpdatedAt = time.Time{}, now
	s.Attempts = append(slices.Clone(s.Attempts), job.Attempt{Number: attempt, Worker: r.id, StartedAt: now})
	s.Timings.Release, s.Timings.Take, s.Timings.Claim = d.ReleasedAt, d.TakenAt, now

	// Not given up half-way: a claim whose fate is unknown blocks the job.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), claimTimeout)
	defer cancel()
	seq, err := q.put(ctx, s)
	c := &Claim{Record: s.Record, reg: r, life: r.life, seq: seq, ack: d.ack}
	if errors.Is(err, errMoved) {
		err = q.reclaim(ctx, c)
	}
	if err != nil {
		r.release(id, attempt)
		return nil, fmt.Errorf("claim job %s: %w", id, err)
	}
	r.setToken(id, c.seq)
	return c, nil
}

// reclaim finds out why a claim did not fit: it was our own, whose answer got
// lost, or the job is another's.
func (q *Queue) reclaim(ctx context.Context, c *Claim) error {
	now, err := q.readAtLeader(ctx, c.Record.Tenant, c.Record.ID)
	switch {
	case errors.Is(err, job.ErrNotFound):
		_ = q.nc.Publish(c.ack, []byte("+TERM"))
		return job.ErrStale
	case err != nil:
		return err
	case c.is(now) && (now.State == job.Running || now.State == job.Canceling):
		c.seq, c.canceling, c.why = now.seq, now.State == job.Canceling, now.CancelReason
		return nil
	case now.State.Final():
		_ = q.nc.Publish(c.ack, []byte("+ACK"))
	case now.State == job.Queued, now.State == job.Retrying:
		_ = q.giveBack(c.ack, 0) // to be looked at again
	}
	return job.ErrStale
}

// is reports whether a record is of the attempt that c claims.
func (c *Claim) is(s stored) bool {
	return s.Life == c.life && s.Attempt == c.Record.Attempt
}

// Drop forgets a claim without a word: for one that is lost.
func (q *Queue) Drop(c *Claim) { c.reg.release(c.Record.ID, c.Record.Attempt) }

// memoryOf is what a job may use, as far as its record says.
func memoryOf(rec job.Record) int64 {
	switch {
	case rec.Limits != nil:
		return int64(rec.Limits.Memory)
	case rec.Spec != nil:
		return int64(rec.Spec.Limits.Memory)
	}
	return 0
}
