package queue_test

import (
	"testing"

	"github.com/sandlot-dev/sandlot/pkg/job"
)

func TestOneJobFromAcceptToCommit(t *testing.T) {
	q := fresh(t)
	id := newID()
	accept(t, q, spec(id))
	if got := get(t, q, id); got.State != job.Queued || got.Labels["suite"] != spec(id).Labels["suite"] {
		t.Fatalf("accepted: %+v", got)
	}
	if n := releaseAll(t, q, lead(t, q)); n.Released != 1 {
		t.Fatalf("released %+v", n)
	}
	r := register(t, q, "w1")
	c := claim(t, q, r)
	if got := get(t, q, id); got.State != job.Running || got.Worker != "w1" || got.Attempt != 1 {
		t.Fatalf("claimed: %+v", got)
	}
	if err := q.Commit(within(t), c, done(c)); err != nil {
		t.Fatal(err)
	}
	got := get(t, q, id)
	if got.State != job.Succeeded || got.Attempts[0].Outcome != job.Finished || got.ExpiresAt.IsZero() {
		t.Fatalf("committed: %+v", got)
	}
	if d, err := q.Depth(within(t)); err != nil || d.Waiting != 0 || d.Held != 0 {
		t.Fatalf("READY after commit: %+v %v", d, err)
	}
}
