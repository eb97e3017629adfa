package queue

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/sandlot-dev/sandlot/pkg/job"
)

// Records calls fn for every record there is, by its headers, one call at a
// time; the first error of fn ends it. What changes meanwhile may be seen
// twice or as it was.
func (q *Queue) Records(ctx context.Context, fn func(Summary) error) error {
	return q.records(ctx, func(m message) error {
		if c, ok := q.change(m); ok && !c.Removed {
			return fn(c.Summary)
		}
		return nil
	})
}

// records calls fn for the headers of everything in the record streams.
func (q *Queue) records(ctx context.Context, fn func(message) error) error {
	for s := range q.layout.shards {
		err := q.tail(ctx, tail{
			stream: recordStream(s), filter: "r.>", headersOnly: true,
			each:     fn,
			caughtUp: func() error { return errTailDone },
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// Heads says of every lane of a pool in which hints wait when the first of
// them came.
func (q *Queue) Heads(ctx context.Context, pool string) (map[string]time.Time, error) {
	lanes, err := q.Lanes(ctx, pool, EveryClass)
	if err != nil {
		return nil, err
	}
	heads := map[string]time.Time{}
	for _, lane := range lanes {
		at, err := q.Head(ctx, lane)
		if err != nil {
			return nil, err
		}
		if !at.IsZero() {
			heads[lane.Subject] = at
		}
	}
	return heads, nil
}

// Head says when the first hint of a lane came; zero if none waits there.
func (q *Queue) Head(ctx context.Context, lane Lane) (time.Time, error) {
	first, _, err := q.batch(ctx, intakeStream, batchRequest{Seq: 1, NextFor: lane.Subject, Batch: 1})
	switch {
	case err != nil:
		return time.Time{}, fmt.Errorf("head of %s: %w", lane.Subject, err)
	case len(first) == 0:
		return time.Time{}, nil
	}
	return first[0].at, nil
}

// ReadyHint is a hint in READY.
type ReadyHint struct {
	Pool, Class string
	Seq         uint64
	// Delivered: a worker has got it, and not yet acknowledged it.
	Delivered bool
}

// InReady lists the hints in the READY of a pool by job; of several the last.
func (q *Queue) InReady(ctx context.Context, pool string) (map[string]ReadyHint, error) {
	// How far a class is delivered is asked before its hints are looked at.
	delivered := map[string]uint64{}
	p, _, err := q.Pool(ctx, pool)
	if err != nil {
		return nil, err
	}
	for _, c := range p.Classes {
		info, err := q.readyInfo(ctx, pool, c.Name)
		if err != nil {
			return nil, err
		}
		delivered[c.Name] = info.Delivered.Stream
	}
	hints := map[string]ReadyHint{}
	err = q.scan(ctx, readyStream(pool), "rdy.>", func(m message) {
		_, class := lineOf(m.subject)
		hints[m.header.Get(headerJob)] = ReadyHint{pool, class, m.seq, m.seq <= delivered[class]}
	})
	if err != nil {
		return nil, fmt.Errorf("scan READY of %s: %w", pool, err)
	}
	return hints, nil
}

// Redeliver has a hint in READY that was delivered come again now, in the
// name of whoever got it. One that was acknowledged meanwhile stays gone.
func (q *Queue) Redeliver(ctx context.Context, h ReadyHint) error {
	info, err := q.readyInfo(ctx, h.Pool, h.Class)
	if err != nil {
		return err
	}
	return q.giveBack(ackOf(h, info), 0)
}

// ackOf is where a hint that was delivered is acknowledged.
func ackOf(h ReadyHint, info *jetstream.ConsumerInfo) string {
	// $JS.ACK.<stream>.<consumer>.<deliveries>.<stream seq>.<consumer seq>.<time>.<pending>:
	// the server goes by the stream's sequence and wants the consumer's in range.
	return fmt.Sprintf("$JS.ACK.%s.%s.1.%d.%d.%d.0", readyStream(h.Pool), readyConsumer(h.Class),
		h.Seq, info.Delivered.Consumer, time.Now().UnixNano())
}

// Restore gives a job that waits and whose hint or timers seem lost others,
// or ends it if its time is over. It looks at the record again; false if that
// no longer waits, or all its timers are there.
func (q *Queue) Restore(ctx context.Context, s Summary) (bool, error) {
	now, err := q.readAtLeader(ctx, s.Tenant, s.ID)
	if errors.Is(err, job.ErrNotFound) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("restore hint of %s: %w", s.ID, err)
	}
	sum := now.summary()
	if sum.State != job.Queued && sum.State != job.Retrying {
		return false, nil
	}
	ended, err := q.expire(ctx, now, time.Now())
	if errors.Is(err, errMoved) {
		return false, nil
	}
	if ended || err != nil {
		return ended, err
	}
	set := false
	for kind, at := range sum.timers(time.Now()) {
		_, err := q.lastAtLeader(ctx, delayStream, timerSubject(sum.Tenant, sum.ID, kind))
		if err == nil {
			continue
		}
		if errors.Is(err, job.ErrNotFound) {
			_, err = q.publish(ctx, q.timer(sum, kind, at))
		}
		if err != nil {
			return false, fmt.Errorf("restore timer of %s: %w", s.ID, err)
		}
		set = true
	}
	if set || sum.waits(time.Now()) {
		return set, nil
	}
	// The time tells this hint from an earlier one of the same attempt, whose
	// Msg-Id may still be known although the hint is gone.
	err = q.giveHint(ctx, sum, "restored"+strconv.FormatInt(time.Now().Unix()/10, 10))
	return err == nil, err
}

// Abandon ends the attempt of a running job if its holder is lost, and has its
// hint come again if it is to be retried: the one in READY, if hint is there,
// else another. false: the holder has it in hand.
func (q *Queue) Abandon(ctx context.Context, s Summary, hint ReadyHint) (bool, error) {
	now, err := q.readAtLeader(ctx, s.Tenant, s.ID)
	if errors.Is(err, job.ErrNotFound) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("look after %s: %w", s.ID, err)
	}
	if now.State != job.Running && now.State != job.Canceling {
		return false, nil
	}
	held, err := q.holds(ctx, now.summary())
	if err != nil || held {
		return false, err
	}
	next, err := q.abandon(ctx, now)
	if errors.Is(err, errMoved) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("abandon attempt of %s: %w", s.ID, err)
	}
	switch {
	case next.State != job.Retrying:
		return true, nil
	case hint.Delivered:
		return true, q.Redeliver(ctx, hint)
	}
	return true, q.giveHint(ctx, next.summary(), "abandoned")
}

// Orphans removes objects and logs of jobs that are no more. An object may be
// older than its record, so those younger than age stay.
func (q *Queue) Orphans(ctx context.Context, age time.Duration) (removed int, err error) {
	old := map[Bucket]map[string][]string{} // names by job
	for _, b := range []Bucket{Inputs, Outputs} {
		old[b] = map[string][]string{}
		err := q.objects(ctx, b, func(name string, at time.Time) {
			if id, _, ok := strings.Cut(name, "/"); ok && time.Since(at) > age {
				old[b][id] = append(old[b][id], name)
			}
		})
		if err != nil {
			return 0, fmt.Errorf("list objects %s: %w", b, err)
		}
	}
	// The records are read after the objects: one that is missing now is gone.
	err = q.records(ctx, func(m message) error {
		c, ok := q.change(m)
		switch {
		case !ok: // whatever it is, its objects are not ours to remove
			id := m.subject[strings.LastIndex(m.subject, ".")+1:]
			delete(old[Outputs], id)
			delete(old[Inputs], id)
		case !c.Removed:
			delete(old[Outputs], c.ID)
			if !c.State.Final() || c.State == job.Dead { // a dead job may be redriven
				delete(old[Inputs], c.ID)
			}
		}
		return nil
	})
	if err != nil {
		return 0, fmt.Errorf("list records: %w", err)
	}
	if err := q.keepBatches(ctx, old); err != nil {
		return 0, err
	}
	for b, jobs := range old {
		for _, names := range jobs {
			for _, name := range names {
				if err := q.deleteRaw(ctx, b, name); err != nil {
					return removed, err
				}
				removed++
			}
		}
	}
	return removed, nil
}

// keepBatches takes out of old what batches need: the objects that they name,
// the outputs of their items, whose records are in segments, and the inputs of
// items that may yet run, or be redriven.
func (q *Queue) keepBatches(ctx context.Context, old map[Bucket]map[string][]string) error {
	batches := map[string]job.Batch{}
	if err := q.Batches(ctx, func(b job.Batch) { batches[b.ID] = b }); err != nil {
		return err
	}
	for id, b := range batches {
		named := map[string]bool{b.Checkpoint: true}
		for _, part := range b.Manifest {
			named[part.Name] = true
		}
		for _, part := range b.Results {
			named[part.Name] = true
		}
		for _, bucket := range []Bucket{Inputs, Outputs} {
			old[bucket][id] = slices.DeleteFunc(old[bucket][id], func(name string) bool {
				whole, _, _ := strings.Cut(name, "#") // a part belongs to its object
				return named[whole]
			})
		}
	}
	dead := map[string]bool{}
	if err := q.scan(ctx, deadStream, "dlq.>", func(m message) { dead[m.header.Get(headerJob)] = true }); err != nil {
		return fmt.Errorf("list dead jobs: %w", err)
	}
	for bucket, jobs := range old {
		for id := range jobs {
			batch, _, item := job.Item(id)
			if b, there := batches[batch]; item && there && (bucket == Outputs || !b.State.Final() || dead[id]) {
				delete(jobs, id)
			}
		}
	}
	return nil
}
