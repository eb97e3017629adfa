package queue_test

import (
	"context"
	"errors"
	"testing"

	"github.com/sandlot-dev/sandlot/pkg/job"
	"github.com/sandlot-dev/sandlot/pkg/queue"
)

func TestReleaseThatWasNotCutIsNotRepeated(t *testing.T) {
	q := fresh(t)
	for _, id := range []string{"a", "b", "c"} {
		accept(t, q, spec(id))
	}
	l := lead(t, q)
	if err := queue.ReleaseUncut(q, within(t), l); err != nil {
		t.Fatal(err)
	}
	accept(t, q, spec("d"))
	releaseAll(t, q, l) // as the next leader does
	d, err := q.Depth(within(t), job.DefaultPool, job.DefaultClass)
	if err != nil || d.Waiting != 4 {
		t.Fatalf("READY has %+v, %v", d, err)
	}
	lanes, err := q.Lanes(within(t), job.DefaultPool, queue.EveryClass)
	if err != nil || len(lanes) != 0 {
		t.Fatalf("INTAKE has %+v, %v", lanes, err)
	}
}

func TestDeposedSchedulerReleasesNothing(t *testing.T) {
	q := fresh(t)
	accept(t, q, spec("one"))
	l := lead(t, q)
	if err := queue.Depose(q, within(t), l); err != nil {
		t.Fatal(err)
	}
	lanes, err := q.Lanes(within(t), job.DefaultPool, queue.EveryClass)
	if err != nil || len(lanes) != 1 {
		t.Fatalf("%+v, %v", lanes, err)
	}
	done, err := q.Release(within(t), l, queue.Turn{Lane: lanes[0], N: 1})
	if !errors.Is(err, job.ErrLostClaim) {
		t.Fatalf("it released %+v, %v", done, err)
	}
	if d, err := q.Depth(within(t), job.DefaultPool, job.DefaultClass); err != nil || d.Waiting != 0 {
		t.Fatalf("READY has %+v, %v", d, err)
	}
}

func TestJobsAreAcceptedAndWaitWhileNobodyReleases(t *testing.T) {
	q := fresh(t)
	r := register(t, q, "w1")
	accept(t, q, spec("before"))
	_, stop := leading(t, q, 0)
	c := claim(t, q, r)
	stop()
	for _, id := range []string{"during1", "during2"} {
		accept(t, q, spec(id))
	}
	if err := q.Commit(within(t), c, done(c)); err != nil { // what runs goes on
		t.Fatal(err)
	}
	short, cancel := context.WithCancel(within(t))
	taken := make(chan error, 1)
	go func() { _, err := q.Take(short, r); taken <- err }()
	eventually(t, "the worker asks", func() bool {
		d, err := q.Depth(within(t), job.DefaultPool, job.DefaultClass)
		return err == nil && d.Asking == 1 && d.Waiting == 0
	})
	cancel()
	if err := <-taken; err == nil {
		t.Fatal("a job was taken that nobody had released")
	}
	leading(t, q, 0)
	for range 2 {
		c := claim(t, q, r)
		if err := q.Commit(within(t), c, done(c)); err != nil {
			t.Fatal(err)
		}
	}
}

func TestHintThatIsGivenTwiceRunsTheJobOnce(t *testing.T) {
	q := fresh(t)
	leading(t, q, 0)
	accept(t, q, spec("one"))
	for _, reason := range []string{"due1", "due2"} {
		if err := queue.GiveHint(q, within(t), "default", "one", reason); err != nil {
			t.Fatal(err)
		}
	}
	r := register(t, q, "w1")
	c := claim(t, q, r)
	if err := q.Commit(within(t), c, done(c)); err != nil {
		t.Fatal(err)
	}
	accept(t, q, spec("two"))
	for {
		d := take(t, q, r) // one that carries an old record may be taken, not claimed
		c, err := q.Claim(within(t), r, d)
		if errors.Is(err, job.ErrStale) {
			continue
		}
		if err != nil || c.Record.ID != "two" {
			t.Fatalf("%s was claimed again, %v", d.Record.ID, err)
		}
		break
	}
	if rec := get(t, q, "one"); len(rec.Attempts) != 1 {
		t.Fatalf("%+v", rec.Attempts)
	}
}
