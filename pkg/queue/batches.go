package queue

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/sandlot-dev/sandlot/pkg/job"
)

// Where a batch is:
//
//	BATCH     $KV.BATCH.<tenant>.<batch>   job.Batch: all that is known of it
//	IN        <batch>/manifest-<n>-<nonce> its items, some thousand an object
//	RES_<s>   r.<s>.<tenant>.<batch>-<i>   records of items whose turn is near
//	OUT       <batch>/results-<n>-<nonce>  final records, ten thousand an object
//	OUT       <batch>/checkpoint-<nonce>   what of the fold is large
//
// Objects are written first and count from the moment at which the batch names
// them; those that no batch names are removed by the reconcile pass. Their
// names hold a nonce, so that one who writes without knowing that another does
// his work by now overwrites nothing.

const (
	batchBucket = "BATCH"
	batchStream = "KV_" + batchBucket
	// batchBytes bounds the bucket; maxBatch one batch, encoded.
	batchBytes = 256 << 20
	maxBatch   = 512 << 10
)

func batchSubject(tenant, id string) string { return "$KV." + batchBucket + "." + tenant + "." + id }

// Batch is a batch as it stands, or job.ErrNotFound.
func (q *Queue) Batch(ctx context.Context, tenant, id string) (job.Batch, error) {
	b, _, err := q.batchAt(ctx, tenant, id)
	if err != nil {
		return b, fmt.Errorf("get batch %s: %w", id, err)
	}
	return b, nil
}

// batchAt is a batch and its sequence, which is there too when only the trace
// of a removed one is.
func (q *Queue) batchAt(ctx context.Context, tenant, id string) (job.Batch, uint64, error) {
	if checkToken(tenant) != nil || checkToken(id) != nil {
		return job.Batch{}, 0, job.ErrNotFound
	}
	m, err := q.lastAtLeader(ctx, batchStream, batchSubject(tenant, id))
	if err != nil {
		return job.Batch{}, 0, err
	}
	if gone(m.header) {
		return job.Batch{}, m.seq, job.ErrNotFound
	}
	b, err := decodeBatch(m)
	return b, m.seq, err
}

func decodeBatch(m message) (job.Batch, error) {
	var b job.Batch
	if err := checkSchema(m.header); err != nil {
		return b, fmt.Errorf("decode batch: %w", err)
	}
	if err := json.Unmarshal(m.data, &b); err != nil {
		return b, fmt.Errorf("decode batch: %w", err)
	}
	return b, nil
}

// CreateBatch stores a batch that is not there yet. job.ErrConflict: it is, or
// another tenant has one of that id.
func (q *Queue) CreateBatch(ctx context.Context, b job.Batch) (BatchChange, error) {
	c, err := q.createBatch(ctx, b)
	if errors.Is(err, errMoved) {
		err = job.ErrConflict
	}
	if err != nil {
		return c, fmt.Errorf("create batch %s: %w", b.ID, err)
	}
	return c, nil
}

func (q *Queue) createBatch(ctx context.Context, b job.Batch) (BatchChange, error) {
	info, err := q.streamInfo(ctx, batchStream, batchSubject("*", b.ID))
	if err != nil {
		return BatchChange{}, err
	}
	for subject := range info.State.Subjects {
		if subject != batchSubject(b.Tenant, b.ID) {
			return BatchChange{}, job.ErrConflict
		}
	}
	_, seq, err := q.batchAt(ctx, b.Tenant, b.ID)
	switch {
	case err == nil:
		return BatchChange{}, job.ErrConflict
	case !errors.Is(err, job.ErrNotFound):
		return BatchChange{}, err
	}
	b.UpdatedAt = time.Now().UTC()
	if b.Pool == "" {
		b.Pool = job.DefaultPool
	}
	return q.putBatch(ctx, b, seq)
}

// ChangeBatch applies a change to a batch as it stands, again when somebody
// else was faster. An error of change ends it, and nothing is changed.
func (q *Queue) ChangeBatch(ctx context.Context, tenant, id string, change func(*job.Batch) error) (BatchChange, error) {
	for {
		b, seq, err := q.batchAt(ctx, tenant, id)
		if err == nil {
			err = change(&b)
		}
		var c BatchChange
		if err == nil {
			b.UpdatedAt = time.Now().UTC()
			c, err = q.putBatch(ctx, b, seq)
		}
		if errors.Is(err, errMoved) {
			continue
		}
		if err != nil {
			return BatchChange{Tenant: tenant, ID: id, Seq: seq, Batch: b}, fmt.Errorf("change batch %s: %w", id, err)
		}
		return c, nil
	}
}

// putBatch replaces the batch that was read at seq.
func (q *Queue) putBatch(ctx context.Context, b job.Batch, seq uint64) (BatchChange, error) {
	c := BatchChange{Tenant: b.Tenant, ID: b.ID}
	for _, name := range []string{b.Tenant, b.ID} {
		if err := checkToken(name); err != nil {
			return c, err
		}
	}
	b.Schema = job.Schema
	data, err := json.Marshal(b)
	if err != nil {
		return c, err
	}
	if len(data) > maxBatch {
		return c, fmt.Errorf("it has %d bytes, more than %d: %w", len(data), maxBatch, ErrTooLarge)
	}
	msg := q.message(batchSubject(b.Tenant, b.ID))
	msg.Data = data
	msg.Header.Set(jetstream.ExpectedLastSubjSeqHeader, strconv.FormatUint(seq, 10))
	c.Seq, err = q.publish(ctx, msg)
	c.Batch = b
	return c, err
}

// DeleteBatch forgets a batch if may agrees; its objects are for the caller,
// and for the reconcile pass.
func (q *Queue) DeleteBatch(ctx context.Context, tenant, id string, may func(job.Batch) error) (job.Batch, error) {
	for {
		b, seq, err := q.batchAt(ctx, tenant, id)
		if err == nil {
			err = may(b)
		}
		if err != nil {
			return b, fmt.Errorf("remove batch %s: %w", id, err)
		}
		msg := q.message(batchSubject(tenant, id))
		msg.Header.Set(headerOperation, purged)
		msg.Header.Set(jetstream.MsgTTLHeader, markerTTL.String())
		msg.Header.Set(jetstream.ExpectedLastSubjSeqHeader, strconv.FormatUint(seq, 10))
		_, err = q.publish(ctx, msg)
		if errors.Is(err, errMoved) {
			continue
		}
		if err != nil {
			return b, fmt.Errorf("remove batch %s: %w", id, err)
		}
		return b, nil
	}
}

// BatchChange is one change of one batch.
type BatchChange struct {
	Tenant, ID string
	Seq        uint64 // orders the changes of one batch
	Removed    bool   // the batch is gone; Batch is empty
	Batch      job.Batch
}

// FollowBatches is Follow for batches.
func (q *Queue) FollowBatches(ctx context.Context, fn func(BatchChange), caughtUp func()) error {
	return q.tail(ctx, tail{
		stream: batchStream, filter: batchSubject("*", "*"),
		each: func(m message) error {
			parts := strings.Split(m.subject, ".") // $KV.BATCH.<tenant>.<batch>
			if len(parts) != 4 {
				return nil
			}
			c := BatchChange{Tenant: parts[2], ID: parts[3], Seq: m.seq, Removed: gone(m.header)}
			if !c.Removed {
				var err error
				if c.Batch, err = decodeBatch(m); err != nil {
					q.log.Error("unreadable batch", "subject", m.subject, "error", err)
					return nil
				}
			}
			fn(c)
			return nil
		},
		caughtUp: func() error { caughtUp(); return nil },
	})
}

// Batches calls fn with every batch there is.
func (q *Queue) Batches(ctx context.Context, fn func(job.Batch)) error {
	err := q.scan(ctx, batchStream, batchSubject("*", "*"), func(m message) {
		if gone(m.header) {
			return
		}
		b, err := decodeBatch(m)
		if err != nil {
			q.log.Error("unreadable batch", "subject", m.subject, "error", err)
			return
		}
		fn(b)
	})
	if err != nil {
		return fmt.Errorf("list batches: %w", err)
	}
	return nil
}

// Sequences are the last of each record stream: what is stored from now on
// comes after them.
func (q *Queue) Sequences(ctx context.Context) ([]uint64, error) {
	all := make([]uint64, q.layout.shards)
	for s := range all {
		info, err := q.streamInfo(ctx, recordStream(s), "")
		if err != nil {
			return nil, fmt.Errorf("sequences: %w", err)
		}
		all[s] = info.State.LastSeq
	}
	return all, nil
}

// Shard is the record stream of a job, as Change.Seq and Sequences mean it.
func (q *Queue) Shard(id string) int { return q.shard(id) }

// Expand makes records of items of a batch: of those that are queued with
// their hint, of those that have ended already without. since are the
// sequences at which the batch was opened: what is left of an older item of
// the same id is replaced, an item of this batch that was there is not. Doing
// it twice is harmless. After an error some may be stored; repeat it.
func (q *Queue) Expand(ctx context.Context, since []uint64, recs []job.Record) error {
	fresh := make([]stored, len(recs))
	msgs := make([]*nats.Msg, len(recs))
	for i, rec := range recs {
		fresh[i] = q.freshItem(rec)
		msg, err := q.encode(fresh[i])
		if err == nil {
			err = q.bounds.admit(ctx, q, fresh[i].summary(), len(msg.Data))
		}
		if err != nil {
			return fmt.Errorf("expand %s: %w", rec.ID, err)
		}
		msgs[i] = msg
	}
	var prompts []*nats.Msg
	for i, w := range q.publishAll(ctx, msgs) {
		s := fresh[i]
		if errors.Is(w.err, errMoved) {
			s, w.err = q.takenItem(ctx, s, since)
		}
		if w.err != nil {
			return fmt.Errorf("expand %s: %w", s.ID, w.err)
		}
		if s.State == job.Queued {
			prompts = append(prompts, q.prompts(s.summary())...)
		}
	}
	for i, w := range q.publishAll(ctx, prompts) {
		if w.err != nil {
			return fmt.Errorf("expand %s: prompt: %w", prompts[i].Header.Get(headerJob), w.err)
		}
	}
	return nil
}

// freshItem is fresh for a record that may be final from the start.
func (q *Queue) freshItem(rec job.Record) stored {
	s := q.fresh(rec)
	if rec.State.Final() {
		s.State, s.Result = rec.State, rec.Result
		s.finalize(s.UpdatedAt)
	}
	return s
}

// takenItem is what stands in the way of an item's record, after writing the
// item there if that is what is left of one that is older than the batch.
func (q *Queue) takenItem(ctx context.Context, s stored, since []uint64) (stored, error) {
	for {
		have, err := q.readAtLeader(ctx, s.Tenant, s.ID)
		shard := q.shard(s.ID)
		older := shard >= len(since) || have.seq <= since[shard]
		switch {
		case err == nil && older && have.State.Final(): // of a batch that was removed
		case err == nil, !errors.Is(err, job.ErrNotFound):
			return have, err
		case !older:
			return stored{Record: job.Record{ID: s.ID, State: job.Canceled}}, nil // it has ended and is stored
		}
		s.seq = have.seq
		if _, err = q.put(ctx, s); !errors.Is(err, errMoved) {
			return s, err
		}
	}
}

// Ending is a final record in its stream.
type Ending struct {
	ID  string
	Seq uint64
}

// Bodies calls fn with final records as they are stored, encoded, in no order.
// Those that are gone are left out.
func (q *Queue) Bodies(ctx context.Context, tenant string, endings []Ending, fn func(id string, seq uint64, body []byte) error) error {
	subjects := make([][]string, q.layout.shards)
	wanted := make(map[string]uint64, len(endings))
	for _, e := range endings {
		s := q.shard(e.ID)
		subject := recordSubject(s, tenant, e.ID)
		subjects[s], wanted[subject] = append(subjects[s], subject), e.Seq
	}
	each := func(m message) error {
		delete(wanted, m.subject)
		if gone(m.header) {
			return nil
		}
		return fn(m.subject[strings.LastIndexByte(m.subject, '.')+1:], m.seq, m.data)
	}
	for shard, names := range subjects {
		if len(names) == 0 {
			continue
		}
		page, _, err := q.batch(ctx, recordStream(shard), batchRequest{MultiLast: names})
		if err != nil {
			return fmt.Errorf("read records: %w", err)
		}
		for _, m := range page {
			if m.seq < wanted[m.subject] {
				continue // a replica that lags, which shows the job as it was
			}
			if err := each(m); err != nil {
				return err
			}
		}
		for _, subject := range names {
			if _, missed := wanted[subject]; !missed {
				continue
			}
			m, err := q.lastAtLeader(ctx, recordStream(shard), subject)
			if errors.Is(err, job.ErrNotFound) {
				continue
			}
			if err != nil {
				return fmt.Errorf("read records: %w", err)
			}
			if err := each(m); err != nil {
				return err
			}
		}
	}
	return nil
}

// Forget replaces final records, each as it stood at its sequence, by traces
// that vanish. What has moved on or is gone stays as it is; other objects of
// the jobs stay as well.
func (q *Queue) Forget(ctx context.Context, tenant string, endings []Ending) error {
	msgs := make([]*nats.Msg, len(endings))
	for i, e := range endings {
		msgs[i] = q.message(recordSubject(q.shard(e.ID), tenant, e.ID))
		msgs[i].Header.Set(headerOperation, purged)
		msgs[i].Header.Set(jetstream.MsgTTLHeader, markerTTL.String())
		msgs[i].Header.Set(jetstream.ExpectedLastSubjSeqHeader, strconv.FormatUint(e.Seq, 10))
	}
	for i, w := range q.publishAll(ctx, msgs) {
		if w.err != nil && !errors.Is(w.err, errMoved) {
			return fmt.Errorf("forget %s: %w", endings[i].ID, w.err)
		}
	}
	return nil
}

// DecodeRecord reads a record that Bodies told.
func DecodeRecord(body []byte) (job.Record, error) {
	var rec job.Record
	if err := json.Unmarshal(body, &rec); err != nil {
		return rec, fmt.Errorf("decode record: %w", err)
	}
	return rec, job.CheckSchema(rec.Schema)
}
