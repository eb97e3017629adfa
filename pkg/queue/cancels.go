package queue

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"golang.org/x/sync/errgroup"

	"github.com/sandlot-dev/sandlot/pkg/job"
)

// Orders to cancel lie beside the batches, $KV.BATCH.cancel.<tenant>.<order>.
// One that is finished vanishes by itself, after all batches that it is about
// have ended.
const cancelRetention = 30 * 24 * time.Hour

func cancelSubject(tenant, id string) string {
	return "$KV." + batchBucket + ".cancel." + tenant + "." + id
}

// OrderCancel stores an order; whoever leads carries it out.
func (q *Queue) OrderCancel(ctx context.Context, o job.CancelOrder) (job.CancelOrder, error) {
	ctx, cancel := context.WithTimeout(ctx, acceptTimeout)
	defer cancel()
	for _, name := range []string{o.Tenant, o.ID} {
		if err := checkToken(name); err != nil {
			return o, fmt.Errorf("order to cancel: %w", err)
		}
	}
	var err error
	if o.Since, err = q.Sequences(ctx); err != nil {
		return o, fmt.Errorf("order to cancel: %w", err)
	}
	o.CreatedAt = time.Now().UTC()
	o.UpdatedAt = o.CreatedAt
	err = q.putCancel(ctx, o, 0)
	if errors.Is(err, errMoved) { // our own write whose answer was lost: nobody else knows its id
		err = nil
	}
	return o, err
}

func (q *Queue) putCancel(ctx context.Context, o job.CancelOrder, seq uint64) error {
	o.Schema = job.Schema
	data, err := json.Marshal(o)
	if err != nil {
		return fmt.Errorf("order to cancel: %w", err)
	}
	msg := q.message(cancelSubject(o.Tenant, o.ID))
	msg.Data = data
	msg.Header.Set(jetstream.ExpectedLastSubjSeqHeader, strconv.FormatUint(seq, 10))
	if !o.FinishedAt.IsZero() {
		msg.Header.Set(jetstream.MsgTTLHeader, cancelRetention.String())
	}
	if _, err := q.publish(ctx, msg); err != nil {
		return fmt.Errorf("order to cancel %s: %w", o.ID, err)
	}
	return nil
}

// CancelOrderOf is an order as it stands, or job.ErrNotFound.
func (q *Queue) CancelOrderOf(ctx context.Context, tenant, id string) (job.CancelOrder, error) {
	o, _, err := q.cancelOrderAt(ctx, tenant, id)
	if err != nil {
		return o, fmt.Errorf("get order %s: %w", id, err)
	}
	return o, nil
}

func (q *Queue) cancelOrderAt(ctx context.Context, tenant, id string) (o job.CancelOrder, seq uint64, err error) {
	if checkToken(tenant) != nil || checkToken(id) != nil {
		return o, 0, job.ErrNotFound
	}
	m, err := q.lastAtLeader(ctx, batchStream, cancelSubject(tenant, id))
	if err != nil {
		return o, 0, err
	}
	o, err = decodeCancel(m)
	return o, m.seq, err
}

func decodeCancel(m message) (o job.CancelOrder, err error) {
	if gone(m.header) {
		return o, job.ErrNotFound
	}
	if err := checkSchema(m.header); err != nil {
		return o, fmt.Errorf("decode order: %w", err)
	}
	if err := json.Unmarshal(m.data, &o); err != nil {
		return o, fmt.Errorf("decode order: %w", err)
	}
	return o, nil
}

// NoteCancel writes down how far an order is. One that is finished stays so.
func (q *Queue) NoteCancel(ctx context.Context, o job.CancelOrder) error {
	for {
		now, seq, err := q.cancelOrderAt(ctx, o.Tenant, o.ID)
		if err != nil {
			return fmt.Errorf("note order %s: %w", o.ID, err)
		}
		if !now.FinishedAt.IsZero() {
			return nil
		}
		o.UpdatedAt = time.Now().UTC()
		if err = q.putCancel(ctx, o, seq); !errors.Is(err, errMoved) {
			return err
		}
	}
}

// FollowCancels calls fn with every order there is and then with each as it
// changes, until ctx ends; caughtUp once, after the first.
func (q *Queue) FollowCancels(ctx context.Context, fn func(job.CancelOrder), caughtUp func()) error {
	return q.tail(ctx, tail{
		stream: batchStream, filter: cancelSubject("*", "*"),
		each: func(m message) error {
			switch o, err := decodeCancel(m); {
			case err == nil:
				fn(o)
			case !errors.Is(err, job.ErrNotFound):
				q.log.Error("unreadable order to cancel", "subject", m.subject, "error", err)
			}
			return nil
		},
		caughtUp: func() error { caughtUp(); return nil },
	})
}

// cancelWindow is how many jobs are canceled in one go.
const cancelWindow = 256

// CarryOut cancels the jobs that an order picks, by one pass over the records,
// some at a time. Jobs that wait become canceled, those that run canceling,
// and their workers are told. Doing it again, after a crash half-way, is
// harmless: it counts what was done before. batchOf finds the batch of
// an item; progress is called now and then with the counts.
func (q *Queue) CarryOut(ctx context.Context, o job.CancelOrder, batchOf func(id string) (job.Batch, bool), progress func(job.CancelOrder) error) (job.CancelOrder, error) {
	began, err := q.Sequences(ctx)
	if err != nil {
		return o, fmt.Errorf("carry out order %s: %w", o.ID, err)
	}
	o.Canceled, o.Ending = 0, 0
	var some []Summary
	noted := time.Now()
	flush := func() error {
		err := q.cancelSome(ctx, &o, some)
		some = some[:0]
		if err == nil && time.Since(noted) > time.Second {
			noted = time.Now()
			err = progress(o)
		}
		return err
	}
	each := func(m message) error {
		c, ok := q.change(m)
		if !ok || c.Removed {
			return nil
		}
		if c.CanceledBy == o.ID { // of a pass before this one
			if c.Seq <= began[q.shard(c.ID)] {
				count(&o, c.State)
			}
			return nil
		}
		if !q.covers(o, c, batchOf) {
			return nil
		}
		if some = append(some, c.Summary); len(some) == cancelWindow {
			return flush()
		}
		return nil
	}
	for shard := range q.layout.shards {
		err = q.tail(ctx, tail{
			stream: recordStream(shard), filter: recordSubject(shard, o.Tenant, "*"), headersOnly: true,
			each: each, caughtUp: func() error { return errTailDone },
		})
		if err != nil {
			break
		}
	}
	if err == nil {
		err = flush()
	}
	if err != nil {
		return o, fmt.Errorf("carry out order %s: %w", o.ID, err)
	}
	return o, nil
}

func count(o *job.CancelOrder, state job.State) {
	if state == job.Canceling {
		o.Ending++
	} else {
		o.Canceled++
	}
}

// covers reports whether a job is one that an order ends. A record that has
// not changed since the order was given is older than it, and one that was
// first written after it is not; what began to run in between is told by its
// time.
func (q *Queue) covers(o job.CancelOrder, c Change, batchOf func(string) (job.Batch, bool)) bool {
	if c.State.Final() || c.State == job.Canceling || !o.Picks(c.Queue, c.Pool, c.Batch, c.State, c.Labels) {
		return false
	}
	if batch, _, item := job.Item(c.ID); item {
		b, ok := batchOf(batch)
		return ok && o.CoversBatch(b)
	}
	shard := q.shard(c.ID)
	switch {
	case shard < len(o.Since) && c.Seq <= o.Since[shard]:
		return true
	case c.Attempt == 0:
		return false
	}
	return c.AcceptedAt.Before(o.CreatedAt)
}

// cancelSome cancels jobs in one go: their records are read together, and
// written back to back. What moved meanwhile is canceled on its own.
func (q *Queue) cancelSome(ctx context.Context, o *job.CancelOrder, jobs []Summary) error {
	var todo []stored
	byShard := make([][]string, q.layout.shards)
	for _, s := range jobs {
		shard := q.shard(s.ID)
		byShard[shard] = append(byShard[shard], recordSubject(shard, s.Tenant, s.ID))
	}
	for shard, subjects := range byShard {
		for some := range slices.Chunk(subjects, 32) {
			page, _, err := q.batch(ctx, recordStream(shard), batchRequest{MultiLast: some})
			if err != nil {
				return err
			}
			for _, m := range page {
				s, err := decode(m.header, m.data, m.seq)
				if err == nil && !s.State.Final() && s.State != job.Canceling {
					todo = append(todo, s)
				}
			}
		}
	}
	now := time.Now().UTC()
	msgs := make([]*nats.Msg, len(todo))
	before := make([]Summary, len(todo))
	for i := range todo {
		before[i] = todo[i].summary()
		err := todo[i].cancel(now, o.Reason, o.ID)
		if err == nil {
			msgs[i], err = q.encode(todo[i])
		}
		if err != nil {
			return err
		}
	}
	var late errgroup.Group
	late.SetLimit(16)
	states := make([]job.State, len(todo))
	for i, w := range q.publishAll(ctx, msgs) {
		s := todo[i]
		if w.err == nil {
			q.tellCanceled(s, before[i])
			states[i] = s.State
			continue
		}
		late.Go(func() error {
			rec, err := q.cancelBy(ctx, s.Tenant, s.ID, o.Reason, o.ID)
			if errors.Is(err, job.ErrStale) || errors.Is(err, job.ErrNotFound) {
				return nil // it has ended
			}
			states[i] = rec.State
			return err
		})
	}
	if err := late.Wait(); err != nil {
		return err
	}
	for _, state := range states {
		if state != "" {
			count(o, state)
		}
	}
	return nil
}
