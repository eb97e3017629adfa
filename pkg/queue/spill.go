package queue

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/sandlot-dev/sandlot/pkg/job"
)

// A job that spills over is moved by one write, of its record. The hint that
// it gets there follows, and the one that it had is withdrawn; when a crash
// leaves that out, a pass gives the one, and the other ends at release or at
// take, since it lies where the record says that the job does not wait.

// SpillAt is when a waiting job spills over; zero if it never does.
func (s Summary) SpillAt() time.Time {
	if s.Spill == nil || s.State != job.Queued && s.State != job.Retrying {
		return time.Time{}
	}
	return s.Spill.At(s.UpdatedAt, s.NotBefore)
}

// waitsAt reports whether a hint lies where its record says that the job
// waits. Of a record that cannot be read nobody knows.
func (s Summary) waitsAt(subject string) bool {
	pool, class := lineOf(subject)
	return s.Pool == "" || s.Pool == pool && s.Class == class
}

// Spill has a job that has waited long enough wait where choose says, as which
// it looks at the record that it replaces; false: nowhere. The answer is the
// job as it was, for Withdraw; false if it stays as it is: it does not wait
// any more, is not due to spill over, or has done so.
func (q *Queue) Spill(ctx context.Context, tenant, id string, choose func(job.Record) (job.Place, bool)) (before Summary, moved bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, acceptTimeout)
	defer cancel()
	for tried := (stored{}); ; {
		s, err := q.readAtLeader(ctx, tenant, id)
		if errors.Is(err, job.ErrNotFound) {
			return before, false, nil
		}
		if err != nil {
			return before, false, fmt.Errorf("spill job %s: %w", id, err)
		}
		if tried.ID != "" && s.State == tried.State && s.UpdatedAt.Equal(tried.UpdatedAt) {
			err := q.giveHint(ctx, s.summary(), "spilled") // our own write, whose answer was lost
			return before, err == nil, err
		}
		now := time.Now().UTC()
		before = s.summary()
		if at := before.SpillAt(); at.IsZero() || at.After(now) || job.Change(s.State, s.Attempt, job.EventSpill, s.Attempt, s.State) != nil {
			return before, false, nil
		}
		to, ok := choose(s.Record)
		if !ok {
			return before, false, nil
		}
		s.Pool, s.Class, s.Spill, s.UpdatedAt = to.Pool, to.Class, nil, now
		_, err = q.put(ctx, s)
		if errors.Is(err, errMoved) {
			tried = s
			continue // claimed, ended, or moved by ourselves: look again
		}
		if err == nil {
			err = q.giveHint(ctx, s.summary(), "spilled")
		}
		if err != nil {
			return before, false, fmt.Errorf("spill job %s: %w", id, err)
		}
		return before, true, nil
	}
}

const (
	// A message that was deleted already is one or the other.
	codeNoSequence   jetstream.ErrorCode = 10043
	codeDeleteFailed jetstream.ErrorCode = 10057
)

// withdrawPages bounds how far into a lane Withdraw looks.
const withdrawPages = 16

// Withdraw removes the hints that jobs had where they waited, so that nobody
// counts them. What it does not find ends by the record.
func (q *Queue) Withdraw(ctx context.Context, before ...Summary) error {
	lanes, ready := map[string]map[string]bool{}, map[string]map[string]bool{}
	note := func(in map[string]map[string]bool, subject, id string) {
		if in[subject] == nil {
			in[subject] = map[string]bool{}
		}
		in[subject][id] = true
	}
	for _, s := range before {
		note(lanes, s.Lane(), s.ID)
		note(ready, readySubject(s.Pool, s.Class, s.Tenant, s.Queue, imageToken(s.Image.Digest)), s.ID)
	}
	for lane, jobs := range lanes {
		err := q.eachHint(ctx, intakeStream, lane, jobs, func(m message) error { return q.deleteMessage(ctx, intakeStream, m.seq) })
		if err != nil {
			return fmt.Errorf("withdraw: %w", err)
		}
	}
	// A hint that was released meanwhile is found now.
	for subject, jobs := range ready {
		pool, class := lineOf(subject)
		err := q.eachHint(ctx, readyStream(pool), subject, jobs, func(m message) error {
			return q.TakeBack(ctx, ReadyHint{Pool: pool, Class: class, Seq: m.seq})
		})
		if err != nil {
			return fmt.Errorf("withdraw: %w", err)
		}
	}
	return nil
}

// eachHint calls fn for the hints of some jobs under a subject.
func (q *Queue) eachHint(ctx context.Context, stream, subject string, jobs map[string]bool, fn func(message) error) error {
	left := len(jobs)
	for from, page := uint64(1), 0; left > 0 && page < withdrawPages; page++ {
		hints, _, err := q.batch(ctx, stream, batchRequest{Seq: from, NextFor: subject, Batch: 256})
		if err != nil || len(hints) == 0 {
			return err
		}
		for _, m := range hints {
			if from = m.seq + 1; !jobs[m.header.Get(headerJob)] {
				continue
			}
			if err := fn(m); err != nil {
				return err
			}
			left--
		}
	}
	return nil
}

// TakeBack removes a hint from READY: one that nobody has got from the
// stream, any other in the name of whoever got it, who finds the job
// elsewhere. A hint that is gone already is no error.
func (q *Queue) TakeBack(ctx context.Context, h ReadyHint) error {
	info, err := q.readyInfo(ctx, h.Pool, h.Class)
	if err != nil {
		return err
	}
	if h.Seq > info.Delivered.Stream {
		return q.deleteMessage(ctx, readyStream(h.Pool), h.Seq)
	}
	return q.ack(ctx, ackOf(h, info))
}

func (q *Queue) deleteMessage(ctx context.Context, stream string, seq uint64) error {
	ask, err := json.Marshal(map[string]any{"seq": seq, "no_erase": true})
	if err != nil {
		return err
	}
	m, err := q.request(ctx, "$JS.API.STREAM.MSG.DELETE."+stream, ask)
	if err != nil {
		return fmt.Errorf("delete from %s: %w", stream, err)
	}
	var answer struct {
		Error *jetstream.APIError `json:"error"`
	}
	if err := json.Unmarshal(m.Data, &answer); err != nil {
		return fmt.Errorf("delete from %s: %w", stream, err)
	}
	if answer.Error != nil && answer.Error.ErrorCode != codeNoSequence && answer.Error.ErrorCode != codeDeleteFailed {
		return fmt.Errorf("delete from %s: %w", stream, answer.Error)
	}
	return nil
}
