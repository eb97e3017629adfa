package queue

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/sandlot-dev/sandlot/pkg/job"
)

// acceptTimeout bounds an accept whose caller set no deadline.
const acceptTimeout = 10 * time.Second

// Accept stores a queued record and gives its hint, or sets its timer if it
// is not to run yet. The caller fills in who and what (ID, Tenant, BodyHash,
// Spec or SpecRef, Image, Queue, Priority, NotBefore, …); State, AcceptedAt, UpdatedAt and
// Timings.Accept are set here, and Pool and Class where they are empty.
//
// If the ID is taken, the record that is there is returned (created false) if
// it has the same BodyHash, else job.ErrConflict; ErrRemoved if it was the job
// of this tick and has been removed. job.ErrFull, a *FullError,
// means that nothing was accepted. After any other error repeat with the same
// ID: the job may be accepted or not.
func (q *Queue) Accept(ctx context.Context, rec job.Record) (accepted job.Record, created bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, acceptTimeout)
	defer cancel()
	s := q.fresh(rec)
	msg, err := q.encode(s)
	if err != nil {
		return rec, false, fmt.Errorf("accept: %w", err)
	}
	if err := q.bounds.admit(ctx, q, s.summary(), len(msg.Data)); err != nil {
		return rec, false, fmt.Errorf("accept %s: %w", s.ID, err)
	}
	seq, err := q.publish(ctx, msg)
	return q.accepted(ctx, s, seq, err)
}

// fresh is rec as it is first stored.
func (q *Queue) fresh(rec job.Record) stored {
	now := time.Now().UTC()
	rec.Schema, rec.State = job.Schema, job.Queued
	if rec.Pool == "" {
		rec.Pool = job.DefaultPool
	}
	if rec.Class == "" {
		rec.Class = job.DefaultClass
	}
	rec.AcceptedAt, rec.UpdatedAt, rec.Timings.Accept = now, now, now
	rec.Attempt, rec.Attempts, rec.Worker, rec.Result = 0, nil, "", nil
	if rec.Retention <= 0 {
		rec.Retention = DefaultRetention
	}
	if !rec.NotBefore.After(now) {
		rec.NotBefore = time.Time{}
	}
	return stored{Record: rec}
}

// accepted goes on after the first write of a record, err being how it went:
// it settles who has the ID, and gives the prompts.
func (q *Queue) accepted(ctx context.Context, s stored, seq uint64, err error) (job.Record, bool, error) {
	created := err == nil
	s.seq = seq
	if errors.Is(err, errMoved) {
		s, created, err = q.taken(ctx, s)
	}
	if err != nil {
		return s.Record, false, fmt.Errorf("accept %s: %w", s.ID, err)
	}
	if s.State != job.Queued {
		return s.Record, created, nil
	}
	err = q.prompt(ctx, s.summary())
	if errors.Is(err, job.ErrFull) && created {
		if undo := q.replaceByTombstone(ctx, s); undo != nil {
			return s.Record, false, fmt.Errorf("accept %s: %w, and withdrawing the record: %w", s.ID, err, undo)
		}
	}
	if err != nil {
		return s.Record, false, fmt.Errorf("accept %s: hint: %w", s.ID, err)
	}
	return s.Record, created, nil
}

// taken finds out what stands in the way of a new record: another job, the
// same one, our own write whose answer got lost, or the trace of a removed one,
// in whose place only the job of a schedule is not accepted again.
func (q *Queue) taken(ctx context.Context, s stored) (stored, bool, error) {
	for {
		have, err := q.readAtLeader(ctx, s.Tenant, s.ID)
		switch {
		case errors.Is(err, job.ErrNotFound) && have.seq != 0 && s.ofTick():
			return s, false, ErrRemoved // a tick has one job, whatever becomes of it
		case errors.Is(err, job.ErrNotFound):
			s.seq = have.seq
			seq, err := q.put(ctx, s)
			if errors.Is(err, errMoved) {
				continue
			}
			s.seq = seq
			return s, err == nil, err
		case err != nil:
			return s, false, err
		case have.BodyHash != s.BodyHash:
			return s, false, job.ErrConflict
		}
		return have, have.AcceptedAt.Equal(s.AcceptedAt), nil
	}
}

// put replaces the record that was read at s.seq.
func (q *Queue) put(ctx context.Context, s stored) (uint64, error) {
	msg, err := q.encode(s)
	if err != nil {
		return 0, err
	}
	return q.publish(ctx, msg)
}

// prompts are the messages that have a waiting job looked at when it is time
// to: its timers, and its hint unless it is not due.
func (q *Queue) prompts(sum Summary) []*nats.Msg {
	var all []*nats.Msg
	for kind, at := range sum.timers(time.Now()) {
		all = append(all, q.timer(sum, kind, at))
	}
	if !sum.waits(time.Now()) {
		all = append(all, q.intakeHint(sum, ""))
	}
	return all
}

// prompt gives the prompts of a job that was accepted.
func (q *Queue) prompt(ctx context.Context, sum Summary) error {
	for _, msg := range q.prompts(sum) {
		if _, err := q.publish(ctx, msg); err != nil {
			return err
		}
	}
	return nil
}

// giveHint says in INTAKE that a job deserves a look. Hints of one record and
// attempt with one reason are one hint for two minutes; the empty reason is
// that the job was accepted. A job that was removed and accepted again is
// another record, told by its time.
func (q *Queue) giveHint(ctx context.Context, sum Summary, reason string) error {
	_, err := q.publish(ctx, q.intakeHint(sum, reason))
	return err
}

func (q *Queue) intakeHint(sum Summary, reason string) *nats.Msg {
	msg := q.hint(sum.Lane(), sum)
	id := sum.ID + "." + strconv.FormatInt(sum.AcceptedAt.UnixNano(), 36) + "." + strconv.Itoa(sum.Attempt+1)
	if reason != "" {
		id += "." + reason
	}
	msg.Header.Set(jetstream.MsgIDHeader, id)
	return msg
}

// Lane is the subject in INTAKE whose hints are released in their order.
func (s Summary) Lane() string {
	return intakeSubject(s.Pool, s.Class, s.Tenant, s.Queue, s.Priority)
}

// Accepted is the answer to one record of AcceptMany.
type Accepted struct {
	Record  job.Record
	Created bool // false: the record was there already, with the same body
	Err     error
}

// AcceptMany accepts many records by the rules of Accept, pipelined: all
// records, then all prompts. The answers are in the order of the records.
func (q *Queue) AcceptMany(ctx context.Context, recs []job.Record) []Accepted {
	ctx, cancel := context.WithTimeout(ctx, acceptTimeout+time.Duration(len(recs))*time.Millisecond)
	defer cancel()
	out := make([]Accepted, len(recs))
	fresh := make([]stored, len(recs))
	msgs := make([]*nats.Msg, len(recs))
	for i, rec := range recs {
		fresh[i] = q.fresh(rec)
		out[i].Record = fresh[i].Record
		msg, err := q.encode(fresh[i])
		if err == nil {
			err = q.bounds.admit(ctx, q, fresh[i].summary(), len(msg.Data))
		}
		if err != nil {
			out[i].Err = fmt.Errorf("accept %s: %w", rec.ID, err)
			continue
		}
		msgs[i] = msg
	}
	written := q.publishAll(ctx, msgs)
	var prompts []*nats.Msg
	var of []int // the record that each prompt is of
	for i, w := range written {
		if msgs[i] == nil || w.err != nil {
			continue
		}
		fresh[i].seq = w.seq
		for _, msg := range q.prompts(fresh[i].summary()) {
			prompts, of = append(prompts, msg), append(of, i)
		}
	}
	unprompted := make([]bool, len(recs))
	for j, p := range q.publishAll(ctx, prompts) {
		unprompted[of[j]] = unprompted[of[j]] || p.err != nil
	}
	for i := range recs {
		switch {
		case msgs[i] == nil:
		case written[i].err == nil && !unprompted[i]:
			out[i].Created = true
		default:
			out[i] = q.acceptSlowly(ctx, fresh[i], written[i])
		}
	}
	return out
}

// acceptSlowly ends on its own what did not go through in the pipeline.
func (q *Queue) acceptSlowly(ctx context.Context, s stored, first published) (a Accepted) {
	if first.err != nil && !errors.Is(first.err, errMoved) && (transient(first.err) || inFlight(first.err)) {
		first.seq, first.err = q.put(ctx, s)
	}
	a.Record, a.Created, a.Err = q.accepted(ctx, s, first.seq, first.err)
	return a
}
