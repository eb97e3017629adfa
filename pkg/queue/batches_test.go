package queue_test

import (
	"context"
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/sandlot-dev/sandlot/pkg/job"
	"github.com/sandlot-dev/sandlot/pkg/queue"
)

func newBatch(tenant string) job.Batch {
	return job.Batch{ID: uuid.NewString(), Tenant: tenant, State: job.BatchUploading}
}

func TestABatchIsCreatedOnceAndChangedByCompareAndSet(t *testing.T) {
	q := fresh(t)
	made, err := q.CreateBatch(within(t), newBatch("default"))
	if err != nil {
		t.Fatal(err)
	}
	b := made.Batch
	if _, err := q.CreateBatch(within(t), b); !errors.Is(err, job.ErrConflict) {
		t.Errorf("created twice: %v", err)
	}
	foreign := b
	foreign.Tenant = "other"
	if _, err := q.CreateBatch(within(t), foreign); !errors.Is(err, job.ErrConflict) {
		t.Errorf("created under another tenant as well: %v", err)
	}
	done := make(chan error, 8)
	for range 8 {
		go func() {
			_, err := q.ChangeBatch(context.Background(), "default", b.ID, func(b *job.Batch) error { b.Cursor++; return nil })
			done <- err
		}()
	}
	for range 8 {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
	if got, err := q.Batch(within(t), "default", b.ID); err != nil || got.Cursor != 8 {
		t.Errorf("cursor is %d, %v; want 8", got.Cursor, err)
	}
	if _, err := q.DeleteBatch(within(t), "default", b.ID, func(job.Batch) error { return nil }); err != nil {
		t.Error(err)
	}
	if _, err := q.Batch(within(t), "default", b.ID); !errors.Is(err, job.ErrNotFound) {
		t.Errorf("it is still there: %v", err)
	}
	if _, err := q.CreateBatch(within(t), b); err != nil {
		t.Errorf("create it again: %v", err)
	}
}

func TestFollowBatchesTellsWhatIsThereAndWhatChanges(t *testing.T) {
	q := fresh(t)
	made, err := q.CreateBatch(within(t), newBatch("default"))
	if err != nil {
		t.Fatal(err)
	}
	b := made.Batch
	changes, caught := make(chan queue.BatchChange, 10), make(chan struct{})
	ctx, cancel := context.WithCancel(within(t))
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = q.FollowBatches(ctx, func(c queue.BatchChange) { changes <- c }, func() { close(caught) })
	}()
	defer func() { cancel(); <-ended }()
	if c := <-changes; c.ID != b.ID || c.Batch.State != job.BatchUploading {
		t.Errorf("first came %+v", c)
	}
	<-caught
	if _, err := q.ChangeBatch(within(t), "default", b.ID, func(b *job.Batch) error { b.State = job.BatchRunning; return nil }); err != nil {
		t.Fatal(err)
	}
	if c := <-changes; c.Batch.State != job.BatchRunning {
		t.Errorf("then came %+v", c)
	}
	if _, err := q.DeleteBatch(within(t), "default", b.ID, func(job.Batch) error { return nil }); err != nil {
		t.Fatal(err)
	}
	if c := <-changes; !c.Removed || c.Tenant != "default" || c.ID != b.ID {
		t.Errorf("at last came %+v", c)
	}
}

// items are the records of the first items of a new batch.
func items(n int) []job.Record {
	batch := uuid.NewString()
	recs := make([]job.Record, n)
	for i := range recs {
		recs[i] = spec(job.ItemID(batch, i))
		recs[i].Batch, recs[i].State = batch, job.Queued
	}
	return recs
}

func TestExpandingAWindowAgainIsHarmless(t *testing.T) {
	q := fresh(t)
	since, err := q.Sequences(within(t))
	if err != nil {
		t.Fatal(err)
	}
	recs := items(20)
	recs[3].State, recs[3].Result = job.Canceled, &job.Result{Verdict: job.Verdict{Blame: job.BlameNone, Reason: job.WasCanceled}}
	for range 2 {
		if err := q.Expand(within(t), since, recs); err != nil {
			t.Fatal(err)
		}
	}
	if got := get(t, q, recs[3].ID); got.State != job.Canceled || got.ExpiresAt.IsZero() {
		t.Errorf("the item that had ended is %s until %v", got.State, got.ExpiresAt)
	}
	if n := releaseAll(t, q, lead(t, q)); n.Released != 19 {
		t.Errorf("%d hints; want 19: one for each that waits", n.Released)
	}
	r := register(t, q, "w")
	c := claim(t, q, r)
	if err := q.Commit(within(t), c, done(c)); err != nil {
		t.Fatal(err)
	}
	if err := q.Expand(within(t), since, recs); err != nil {
		t.Fatal(err)
	}
	if got := get(t, q, c.Record.ID); got.State != job.Succeeded {
		t.Errorf("the item that had succeeded is %s", got.State)
	}
}

// TestWhatIsLeftOfARemovedBatchGivesWay expands a batch where final records
// of a removed one of the same id are left.
func TestWhatIsLeftOfARemovedBatchGivesWay(t *testing.T) {
	q := fresh(t)
	old := items(2)
	for i := range old {
		old[i].State, old[i].Result = job.Canceled, &job.Result{}
	}
	if err := q.Expand(within(t), []uint64{0, 0, 0, 0}, old); err != nil {
		t.Fatal(err)
	}
	since, err := q.Sequences(within(t))
	if err != nil {
		t.Fatal(err)
	}
	recs := slices.Clone(old)
	for i := range recs {
		recs[i].State, recs[i].Result = job.Queued, nil
	}
	for range 2 {
		if err := q.Expand(within(t), since, recs); err != nil {
			t.Fatal(err)
		}
		for _, r := range recs {
			if got := get(t, q, r.ID); got.State != job.Queued {
				t.Errorf("item %s is %s", r.ID, got.State)
			}
		}
	}
}

func TestAForgottenItemDoesNotComeBack(t *testing.T) {
	q := fresh(t)
	since, err := q.Sequences(within(t))
	if err != nil {
		t.Fatal(err)
	}
	recs := items(2)
	for i := range recs {
		recs[i].State, recs[i].Result = job.Canceled, &job.Result{}
	}
	if err := q.Expand(within(t), since, recs); err != nil {
		t.Fatal(err)
	}
	var endings []queue.Ending
	err = q.Bodies(within(t), "default", []queue.Ending{{ID: recs[0].ID}, {ID: recs[1].ID}, {ID: newID()}}, func(id string, seq uint64, body []byte) error {
		rec, err := queue.DecodeRecord(body)
		if rec.ID != id {
			t.Errorf("record of %s under %s", rec.ID, id)
		}
		endings = append(endings, queue.Ending{ID: id, Seq: seq})
		return err
	})
	if err != nil || len(endings) != 2 {
		t.Fatalf("%d bodies, %v", len(endings), err)
	}
	for range 2 {
		if err := q.Forget(within(t), "default", endings); err != nil {
			t.Fatal(err)
		}
	}
	if err := q.Expand(within(t), since, recs); err != nil {
		t.Fatal(err)
	}
	if _, err := q.Get(within(t), "default", recs[0].ID); !errors.Is(err, job.ErrNotFound) {
		t.Errorf("the item came back: %v", err)
	}
	// A batch that is opened later under the same id begins anew.
	if since, err = q.Sequences(within(t)); err != nil {
		t.Fatal(err)
	}
	if err := q.Expand(within(t), since, recs); err != nil {
		t.Fatal(err)
	}
	if got := get(t, q, recs[0].ID); got.State != job.Canceled || time.Since(got.AcceptedAt) > time.Minute {
		t.Errorf("the item of the later batch is %+v", got)
	}
}
