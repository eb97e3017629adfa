package scheduler

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/google/uuid"

	"github.com/sandlot-dev/sandlot/pkg/job"
	"github.com/sandlot-dev/sandlot/pkg/queue"
)

const (
	// A segment of results has at most so many records, and about so many
	// bytes before compression.
	resultItems = 10_000
	resultBytes = 32 << 20
	// sweepEvery is the time between looks for batches that are over.
	sweepEvery = 10 * time.Second
	// bodiesAtOnce is how many records are read at once, bodiesBytes how large
	// they may be together.
	bodiesAtOnce, bodiesBytes = 64, 8 << 20
)

// resultLine is one line of a segment of results.
type resultLine struct {
	Index int             `json:"i"`
	Shard int             `json:"s"`
	Seq   uint64          `json:"q"`
	Rec   json.RawMessage `json:"r"`
}

// checkpoint is what of a fold is large: which items are in segments, which of
// them have passed, and how many per group.
type checkpoint struct {
	Schema int    `json:"schema"`
	Stored bitmap `json:"stored"`
	Passed bitmap `json:"passed"`
	// Groups counts what has passed, of batches with stop_after.
	Groups map[string]int `json:"groups,omitempty"`

	name string // under which it is stored
}

type bitmap []byte

func (m bitmap) has(i int) bool { return i/8 < len(m) && m[i/8]&(1<<(i%8)) != 0 }

func (m *bitmap) add(i int) {
	if need := i/8 + 1; need > len(*m) {
		*m = append(*m, make([]byte, need-len(*m))...)
	}
	(*m)[i/8] |= 1 << (i % 8)
}

// store moves what has ended to segments, batch by batch, and looks after
// batches that are over.
func (l *batchLead) store(ctx context.Context) error {
	wakes := l.s.folds.wake()
	defer l.s.folds.unwake(wakes)
	poll := time.NewTicker(time.Second)
	defer poll.Stop()
	known := map[scoped]*checkpoint{}
	swept := time.Time{}
	for {
		for _, ready := range []<-chan struct{}{l.s.folds.ready, l.s.index.ready} {
			select {
			case <-ready:
			case <-ctx.Done():
				return context.Cause(ctx)
			}
		}
		l.storeDue(ctx, known)
		if time.Since(swept) > sweepEvery {
			swept = time.Now()
			l.sweepBatches(ctx)
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-wakes:
		case <-poll.C:
		}
	}
}

// storeDue stores a segment of each batch that has enough for one.
func (l *batchLead) storeDue(ctx context.Context, known map[scoped]*checkpoint) {
	names := l.s.folds.active()
	for name := range known {
		if !slices.Contains(names, name) {
			delete(known, name)
		}
	}
	for _, name := range names {
		for ctx.Err() == nil {
			more, err := l.storeSegment(ctx, name, known)
			if err != nil {
				delete(known, name)
				if ctx.Err() == nil {
					l.s.log.Warn("store results", "batch", name.name, "error", err)
				}
			}
			if !more || err != nil {
				break
			}
		}
	}
	l.forgetStored(ctx)
}

// storeSegment stores a segment of a batch if there is enough, or if it is the
// last; more says that there may be another.
func (l *batchLead) storeSegment(ctx context.Context, name scoped, known map[scoped]*checkpoint) (more bool, err error) {
	var b job.Batch
	var take []endedItem
	var complete bool
	var cursor int
	l.s.folds.look(name, func(f *fold) {
		b, cursor = f.b, f.cursor
		complete = cursor >= b.Jobs && b.Counts.Ended()+f.counts.Ended() >= b.Jobs
		if !complete && len(f.ended) < l.s.BatchSegment && f.bytes < resultBytes {
			return
		}
		size := 0
		for i, e := range f.ended {
			if size += e.size; i == l.s.BatchSegment || i > 0 && size > resultBytes {
				break
			}
			take = append(take, e)
		}
		complete = complete && len(take) == len(f.ended)
	})
	if len(take) == 0 && !complete {
		return false, nil
	}
	mark := known[name]
	if mark == nil {
		if mark, err = l.s.readCheckpoint(ctx, b.Checkpoint); err != nil {
			return false, err
		}
		known[name] = mark
	}
	if err := l.storeTaken(ctx, name, b, mark, take, complete, cursor); err != nil {
		return false, err
	}
	return !complete, nil
}

// storeTaken writes the segment and the checkpoint, then names both.
func (l *batchLead) storeTaken(ctx context.Context, name scoped, b job.Batch, mark *checkpoint, take []endedItem, complete bool, cursor int) error {
	part := job.ResultSegment{Name: fmt.Sprintf("%s/results-%04d-%s", b.ID, len(b.Results), uuid.NewString()[:8]), Folded: slices.Clone(b.Folded)}
	var counts job.BatchCounts
	var fresh []endedItem
	for _, e := range take {
		part.Folded[e.shard] = e.seq
		if mark.Stored.has(e.index) {
			continue // the item came back after it was stored: it counts once
		}
		mark.add(&counts, b, e)
		if len(fresh) == 0 {
			part.Low, part.High = e.index, e.index
		}
		part.Low, part.High = min(part.Low, e.index), max(part.High, e.index)
		fresh = append(fresh, e)
	}
	part.Count = len(fresh)
	former := mark.name
	if len(fresh) > 0 {
		err := l.listDead(ctx, b, fresh)
		if err != nil {
			return err
		}
		if part.Bytes, err = l.writeSegment(ctx, b, part.Name, fresh); err != nil {
			return err
		}
		if err := l.s.writeCheckpoint(ctx, b.ID, mark); err != nil {
			return err
		}
	}
	c, err := l.s.Queue.ChangeBatch(ctx, name.tenant, name.name, func(now *job.Batch) error {
		if !slices.Equal(now.Folded, b.Folded) || !now.State.Active() {
			return errors.New("somebody else has stored results")
		}
		now.Folded, now.Counts = part.Folded, now.Counts.Plus(counts)
		if part.Count > 0 {
			now.Results, now.Checkpoint = append(now.Results, part), mark.name
		}
		now.Cursor = max(now.Cursor, min(cursor, now.Jobs))
		if complete && now.Counts.Ended() >= now.Jobs {
			finishBatch(now)
		}
		return nil
	})
	if err != nil {
		return err // what was written is removed by the reconcile pass
	}
	l.s.folds.set(c)
	if part.Count > 0 && former != "" {
		if err := l.s.Queue.Delete(ctx, queue.Outputs, former); err != nil {
			l.s.log.Debug("remove old checkpoint", "batch", b.ID, "error", err)
		}
	}
	return nil
}

// listDead makes sure that the index of dead jobs names those of some items
// that died: once they are in a segment no reconcile pass sees them.
func (l *batchLead) listDead(ctx context.Context, b job.Batch, items []endedItem) error {
	var dead []queue.Summary
	for _, e := range items {
		if e.state != job.Dead {
			continue
		}
		rec, err := l.s.Queue.Get(ctx, b.Tenant, job.ItemID(b.ID, e.index))
		switch {
		case errors.Is(err, job.ErrNotFound): // removed by hand
		case err != nil:
			return err
		default:
			dead = append(dead, summaryOf(rec))
		}
	}
	if len(dead) == 0 {
		return nil
	}
	n, err := l.s.Queue.Bury(ctx, dead)
	l.s.lead.Counters.Buried.Add(int64(n))
	return err
}

// add counts an item that goes into a segment.
func (m *checkpoint) add(counts *job.BatchCounts, b job.Batch, e endedItem) {
	m.Stored.add(e.index)
	counts.Add(e.failure(b.ID))
	if e.state != job.Succeeded {
		return
	}
	m.Passed.add(e.index)
	if b.StopAfter != nil {
		if m.Groups == nil {
			m.Groups = map[string]int{}
		}
		m.Groups[e.group]++
		if m.Groups[e.group] == b.StopAfter.Passed {
			counts.Groups++
		}
	}
}

// finishBatch makes a batch final all of whose items are counted.
func finishBatch(b *job.Batch) {
	now := time.Now().UTC()
	if b.State == job.BatchCanceling {
		b.State = job.BatchCanceled
	} else {
		b.State = job.BatchFinished
	}
	b.FinishedAt, b.ExpiresAt, b.Dropped = now, now.Add(b.Retention), nil
	if b.Success != nil {
		b.Outcome, b.OutcomeReason = b.Success.Judge(b.Counts, b.Lines)
	}
	if b.Callback != nil {
		b.Called = &job.Called{Event: b.ID + "." + string(b.State), NextAt: now}
	}
}

// writeSegment copies final records to an object, in their order.
func (l *batchLead) writeSegment(ctx context.Context, b job.Batch, name string, items []endedItem) (size int64, err error) {
	r, w := io.Pipe()
	written := make(chan error, 1)
	go func() {
		lines := newPacked(w)
		err := l.copyRecords(ctx, b, items, lines)
		err = errors.Join(err, lines.out.Close())
		size = lines.size
		_ = w.CloseWithError(err)
		written <- err
	}()
	_, err = l.s.Queue.Put(ctx, queue.Outputs, name, r)
	_ = r.CloseWithError(io.ErrClosedPipe) // ends the writer if Put gave up
	return size, errors.Join(err, <-written)
}

func (l *batchLead) copyRecords(ctx context.Context, b job.Batch, items []endedItem, out *packed) error {
	for len(items) > 0 {
		n, size := 0, 0
		for n < len(items) && n < bodiesAtOnce && (n == 0 || size+items[n].size < bodiesBytes) {
			size += items[n].size
			n++
		}
		bodies, err := l.s.bodies(ctx, b, items[:n])
		if err != nil {
			return err
		}
		for _, e := range items[:n] {
			body := bodies[e.index]
			if body == nil { // it has expired, or was removed by hand: what is known of it stays
				if body, err = json.Marshal(e.record(b)); err != nil {
					return err
				}
			}
			if err := out.add(resultLine{e.index, e.shard, e.seq, body}); err != nil {
				return err
			}
		}
		items = items[n:]
	}
	return nil
}

// bodies are the records of items that have ended, by item.
func (s *Scheduler) bodies(ctx context.Context, b job.Batch, items []endedItem) (map[int]json.RawMessage, error) {
	endings := make([]queue.Ending, len(items))
	for i, e := range items {
		endings[i] = queue.Ending{ID: job.ItemID(b.ID, e.index), Seq: e.seq}
	}
	found := make(map[int]json.RawMessage, len(items))
	err := s.Queue.Bodies(ctx, b.Tenant, endings, func(id string, _ uint64, body []byte) error {
		_, index, _ := job.Item(id)
		found[index] = body
		return nil
	})
	return found, err
}

// record is what is left of an item whose record is gone.
func (e endedItem) record(b job.Batch) job.Record {
	return job.Record{
		Schema: job.Schema, ID: job.ItemID(b.ID, e.index), Tenant: b.Tenant, State: e.state, Batch: b.ID, Key: e.key, Group: e.group,
		Result: &job.Result{Verdict: job.Verdict{Blame: e.blame, Reason: e.reason}, Steps: []job.StepResult{}},
	}
}

func (s *Scheduler) readCheckpoint(ctx context.Context, name string) (*checkpoint, error) {
	mark := &checkpoint{Schema: job.Schema, name: name}
	if name == "" {
		return mark, nil
	}
	lines, err := openPacked(ctx, s.Queue, queue.Outputs, name)
	if err != nil {
		return nil, err
	}
	defer lines.close()
	return mark, lines.next(mark)
}

func (s *Scheduler) writeCheckpoint(ctx context.Context, batch string, mark *checkpoint) error {
	var data bytes.Buffer
	lines := newPacked(&data)
	if err := errors.Join(lines.add(mark), lines.out.Close()); err != nil {
		return err
	}
	mark.name = batch + "/checkpoint-" + uuid.NewString()[:8]
	_, err := s.Queue.Put(ctx, queue.Outputs, mark.name, &data)
	return err
}

// forgetStored removes records of items that are in segments.
func (l *batchLead) forgetStored(ctx context.Context) {
	for name, endings := range l.s.folds.stored() {
		for some := range slices.Chunk(endings, 512) {
			if err := l.s.Queue.Forget(ctx, name.tenant, some); err != nil {
				if ctx.Err() == nil {
					l.s.log.Warn("forget stored records", "batch", name.name, "error", err)
				}
				return
			}
		}
	}
}

// sweepBatches removes batches whose time is over, and uploads that nobody
// went on with.
func (l *batchLead) sweepBatches(ctx context.Context) {
	now := time.Now()
	for _, name := range l.s.folds.over(now) {
		err := l.s.removeBatch(ctx, name.tenant, name.name, func(b job.Batch) error {
			if !expired(b, now) {
				return job.ErrNotFinal
			}
			return nil
		})
		if err != nil && !errors.Is(err, job.ErrNotFound) && !errors.Is(err, job.ErrNotFinal) && ctx.Err() == nil {
			l.s.log.Warn("remove expired batch", "batch", name.name, "error", err)
		}
	}
}

// expired reports whether nobody needs the batch any more.
func expired(b job.Batch, now time.Time) bool {
	if b.State == job.BatchUploading {
		return now.Sub(b.UpdatedAt) > uploadAge
	}
	return b.State.Final() && now.After(b.ExpiresAt)
}

// removeBatch forgets a batch and removes its objects.
func (s *Scheduler) removeBatch(ctx context.Context, tenant, id string, may func(job.Batch) error) error {
	b, err := s.Queue.DeleteBatch(ctx, tenant, id, may)
	if err != nil {
		return err
	}
	if err := s.Queue.Forget(ctx, tenant, s.folds.drop(tenant, id)); err != nil {
		s.log.Warn("records of a removed batch are left until they expire", "batch", id, "error", err)
	}
	remove := func(bucket queue.Bucket, name string) {
		if name == "" {
			return
		}
		if err := s.Queue.Delete(ctx, bucket, name); err != nil {
			s.log.Debug("an object of a removed batch is left to the reconcile pass", "object", name, "error", err)
		}
	}
	for _, part := range b.Manifest {
		remove(queue.Inputs, part.Name)
	}
	for _, part := range b.Results {
		remove(queue.Outputs, part.Name)
	}
	remove(queue.Outputs, b.Checkpoint)
	return nil
}
