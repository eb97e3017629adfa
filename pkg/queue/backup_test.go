package queue_test

import (
	"bytes"
	"encoding/json"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/klauspost/compress/zstd"

	"github.com/sandlot-dev/sandlot/pkg/backup"
	"github.com/sandlot-dev/sandlot/pkg/job"
	"github.com/sandlot-dev/sandlot/pkg/queue"
)

// TestARestoredBatchCountsFromTheBeginning: its places in the streams are not
// those of the new system, and what it had stored of its results is folded
// again, from records.
func TestARestoredBatchCountsFromTheBeginning(t *testing.T) {
	q, ctx := fresh(t), within(t)
	id := uuid.NewString()
	ended := spec(job.ItemID(id, 0))
	ended.Schema, ended.Pool, ended.Class, ended.State, ended.Batch = job.Schema, "main", "s", job.Succeeded, id
	ended.UpdatedAt, ended.Result = time.Now().UTC(), &job.Result{Steps: []job.StepResult{}}
	line, err := json.Marshal(map[string]any{"i": 0, "s": 1, "q": 77, "r": ended})
	if err != nil {
		t.Fatal(err)
	}
	var packed bytes.Buffer
	z, _ := zstd.NewWriter(&packed)
	_, _ = z.Write(append(line, '\n'))
	_ = z.Close()
	segment, err := q.Put(ctx, queue.Outputs, id+"/results-0000-x", &packed)
	if err != nil {
		t.Fatal(err)
	}
	_, err = q.CreateBatch(ctx, job.Batch{
		ID: id, Tenant: "default", State: job.BatchRunning, Jobs: 2, Lines: 2, Cursor: 2, Since: []uint64{5, 5, 5, 5},
		Folded: []uint64{90, 90, 90, 90}, Counts: job.BatchCounts{States: map[job.State]int{job.Succeeded: 1}},
		Results: []job.ResultSegment{{Name: segment.Name, Count: 1}}, Checkpoint: id + "/checkpoint-x",
	})
	if err != nil {
		t.Fatal(err)
	}
	waits := spec(job.ItemID(id, 1))
	waits.Batch = id
	accept(t, q, waits)

	var file bytes.Buffer
	w, err := backup.NewWriter(&file, q.NewBackup("test"))
	if err != nil {
		t.Fatal(err)
	}
	if err := q.Backup(ctx, w, t.TempDir()); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	r, err := backup.NewReader(&file)
	if err != nil {
		t.Fatal(err)
	}
	there := fresh(t)
	if err := there.RestoreBackup(ctx, r); err != nil {
		t.Fatal(err)
	}
	b, err := there.Batch(ctx, "default", id)
	if err != nil || b.Cursor != 0 || b.Since != nil || b.Folded != nil || b.Results != nil || b.Checkpoint != "" || b.Counts.Ended() != 0 || b.Jobs != 2 {
		t.Errorf("batch %+v, %v", b, err)
	}
	if rec := get(t, there, ended.ID); rec.State != job.Succeeded || rec.ExpiresAt.IsZero() {
		t.Errorf("the item that had ended is %+v", rec)
	}
	if moved := releaseAll(t, there, lead(t, there)); moved.Released != 1 {
		t.Errorf("hints of the items: %+v", moved)
	}
}
