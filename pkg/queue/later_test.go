package queue_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/sandlot-dev/sandlot/pkg/job"
	"github.com/sandlot-dev/sandlot/pkg/queue"
)

// TestARecordOfALaterReleaseIsRefusedAndLeftAlone: whatever this release does
// with a job that it cannot read, the record, its objects and its hint stay.
func TestARecordOfALaterReleaseIsRefusedAndLeftAlone(t *testing.T) {
	q, ctx := fresh(t), within(t)
	rec := spec("later")
	object, err := q.Put(ctx, queue.Inputs, "later/spec", strings.NewReader("input"))
	if err != nil {
		t.Fatal(err)
	}
	accept(t, q, rec)
	if err := queue.OfLaterRelease(q, ctx, "default", "later"); err != nil {
		t.Fatal(err)
	}
	before, err := queue.RawRecord(q, ctx, "default", "later")
	if err != nil {
		t.Fatal(err)
	}
	_, accepted, acceptErr := q.Accept(ctx, rec)
	_, getErr := q.Get(ctx, "default", "later")
	_, cancelErr := q.Cancel(ctx, "default", "later")
	for what, err := range map[string]error{
		"accept": acceptErr, "get": getErr, "cancel": cancelErr, "remove": q.Remove(ctx, "default", "later"),
	} {
		if !errors.Is(err, job.ErrSchema) || accepted {
			t.Errorf("%s: %v", what, err)
		}
	}
	if n, err := q.Orphans(ctx, 0); n != 0 || err != nil {
		t.Errorf("%d orphans, %v", n, err)
	}
	if _, err := q.Stat(ctx, queue.Inputs, object.Name); err != nil {
		t.Errorf("its input: %v", err)
	}
	if moved := releaseAll(t, q, lead(t, q)); moved.Released != 1 {
		t.Errorf("its hint: %+v", moved)
	}
	after, err := queue.RawRecord(q, ctx, "default", "later")
	if err != nil || string(after) != string(before) {
		t.Errorf("the record changed: %s, %v", after, err)
	}
}
