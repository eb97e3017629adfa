package queue_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/sandlot-dev/sandlot/pkg/job"
	"github.com/sandlot-dev/sandlot/pkg/queue"
)

// scene is a queue with a leader and a worker.
type scene struct {
	*testing.T
	q      *queue.Queue
	lease  *queue.Lease
	worker *queue.Registration
}

func stage(t *testing.T) scene {
	q := fresh(t)
	return scene{t, q, lead(t, q), register(t, q, "w1")}
}

// repeatHint puts another hint of a job into READY, whatever its state was
// when the hint was given.
func (s scene) repeatHint(id string, reason string) {
	s.Helper()
	if err := queue.GiveHint(s.q, within(s), "default", id, reason); err != nil {
		s.Fatal(err)
	}
	if err := queue.ForceRelease(s.q, within(s), s.lease); err != nil {
		s.Fatal(err)
	}
}

// idle asks for a job that must not come: the hints there are get their due.
func (s scene) idle(r *queue.Registration) {
	s.Helper()
	ctx, cancel := context.WithTimeout(within(s), 300*time.Millisecond)
	defer cancel()
	if d, err := s.q.Take(ctx, r); !errors.Is(err, context.DeadlineExceeded) {
		s.Fatalf("took %v, %v", d.Record.State, err)
	}
}

func (s scene) depth(waiting, held int) {
	s.Helper()
	eventually(s, fmt.Sprintf("READY has %d waiting and %d held", waiting, held), func() bool {
		d, err := s.q.Depth(within(s), "main", "s")
		return err == nil && d.Waiting == waiting && d.Held == held
	})
}

// The rows of the table in ADR 1: what a hint leads to is decided by the
// record alone.
func TestTakeActsOnTheRecordAlone(t *testing.T) {
	t.Run("a final record ends the hint", func(t *testing.T) {
		s := stage(t)
		accept(t, s.q, spec("one"))
		if _, err := s.q.Cancel(within(t), "default", "one"); err != nil {
			t.Fatal(err)
		}
		if err := queue.ForceRelease(s.q, within(t), s.lease); err != nil {
			t.Fatal(err)
		}
		s.idle(s.worker)
		s.depth(0, 0)
	})
	t.Run("no record ends the hint", func(t *testing.T) {
		s := stage(t)
		accept(t, s.q, spec("one"))
		if _, err := s.q.Cancel(within(t), "default", "one"); err != nil {
			t.Fatal(err)
		}
		if err := s.q.Remove(within(t), "default", "one"); err != nil {
			t.Fatal(err)
		}
		if err := queue.ForceRelease(s.q, within(t), s.lease); err != nil {
			t.Fatal(err)
		}
		s.idle(s.worker)
		s.depth(0, 0)
	})
	t.Run("a queued record is claimed", func(t *testing.T) {
		s := stage(t)
		accept(t, s.q, spec("one"))
		releaseAll(t, s.q, s.lease)
		if c := claim(t, s.q, s.worker); c.Record.ID != "one" || c.Record.Attempt != 1 {
			t.Fatalf("%+v", c.Record)
		}
	})
	t.Run("a retrying record that is due is claimed", func(t *testing.T) {
		s := stage(t)
		accept(t, s.q, spec("one"))
		releaseAll(t, s.q, s.lease)
		c := claim(t, s.q, s.worker)
		if err := s.q.Retry(within(t), c, job.Attempt{Outcome: job.Drained}, time.Time{}); err != nil {
			t.Fatal(err)
		}
		if c := claim(t, s.q, s.worker); c.Record.Attempt != 2 || c.Record.Attempts[0].Outcome != job.Drained {
			t.Fatalf("%+v", c.Record)
		}
	})
	t.Run("a retrying record due in a moment comes again then", func(t *testing.T) {
		s := stage(t)
		accept(t, s.q, spec("one"))
		releaseAll(t, s.q, s.lease)
		c := claim(t, s.q, s.worker)
		due := time.Now().Add(500 * time.Millisecond)
		if err := s.q.Retry(within(t), c, job.Attempt{Outcome: job.Fault}, due); err != nil {
			t.Fatal(err)
		}
		if d := take(t, s.q, s.worker); d.TakenAt.Before(due.Add(-time.Millisecond)) || d.Record.Attempt != 1 {
			t.Fatalf("taken %v before it was due", due.Sub(d.TakenAt))
		}
	})
	t.Run("a retrying record that is not due waits in DELAY", func(t *testing.T) {
		s := stage(t)
		accept(t, s.q, spec("one"))
		releaseAll(t, s.q, s.lease)
		c := claim(t, s.q, s.worker)
		due := time.Now().Add(2200 * time.Millisecond)
		if err := s.q.Retry(within(t), c, job.Attempt{Outcome: job.Fault}, due); err != nil {
			t.Fatal(err)
		}
		s.depth(0, 0)
		s.repeatHint("one", "early")
		s.idle(s.worker) // a hint that is early sets the timer again, and ends
		s.depth(0, 0)
		ctx, cancel := context.WithCancel(within(t))
		var wg sync.WaitGroup
		wg.Go(func() { _ = s.q.Due(ctx) })
		defer wg.Wait()
		defer cancel()
		eventually(t, "the timer gives the hint", func() bool {
			lanes, err := s.q.Lanes(ctx, "main", "s")
			return err == nil && len(lanes) == 1
		})
		if early := time.Until(due); early > 5*time.Millisecond {
			t.Fatalf("the timer went off %v early", early)
		}
		releaseAll(t, s.q, s.lease)
		if d := take(t, s.q, s.worker); d.Record.ID != "one" {
			t.Fatalf("%+v", d)
		}
	})
	t.Run("a running record of a living worker is left alone", func(t *testing.T) {
		s := stage(t)
		other := register(t, s.q, "w2")
		accept(t, s.q, spec("one"))
		releaseAll(t, s.q, s.lease)
		c := claim(t, s.q, s.worker)
		s.repeatHint("one", "again")
		s.idle(other)
		s.depth(0, 2) // neither acknowledged nor given back
		if err := s.q.Commit(within(t), c, done(c)); err != nil {
			t.Fatal(err)
		}
	})
	t.Run("a running record of a lost worker is claimed again", func(t *testing.T) {
		s := stage(t)
		other := register(t, s.q, "w2")
		accept(t, s.q, spec("one"))
		releaseAll(t, s.q, s.lease)
		lost := claim(t, s.q, s.worker)
		if err := s.worker.Close(); err != nil {
			t.Fatal(err)
		}
		s.repeatHint("one", "again")
		c := claim(t, s.q, other)
		if c.Record.Attempt != 2 || c.Record.Attempts[0].Outcome != job.Lost || c.Record.Attempts[0].Reason != job.WorkerLost {
			t.Fatalf("%+v", c.Record.Attempts)
		}
		if err := s.q.Commit(within(t), lost, done(lost)); !errors.Is(err, job.ErrLostClaim) {
			t.Fatalf("stale commit: %v", err)
		}
		s.depth(0, 2) // the stale one has not acknowledged
		if err := s.q.Commit(within(t), c, done(c)); err != nil {
			t.Fatal(err)
		}
	})
	t.Run("a canceling record of a lost worker becomes canceled", func(t *testing.T) {
		s := stage(t)
		other := register(t, s.q, "w2")
		accept(t, s.q, spec("one"))
		releaseAll(t, s.q, s.lease)
		claim(t, s.q, s.worker)
		if rec, err := s.q.Cancel(within(t), "default", "one"); err != nil || rec.State != job.Canceling {
			t.Fatalf("%v %v", rec.State, err)
		}
		if err := s.worker.Close(); err != nil {
			t.Fatal(err)
		}
		s.repeatHint("one", "again")
		s.idle(other)
		if got := get(t, s.q, "one"); got.State != job.Canceled || got.Result.Verdict.Reason != job.WasCanceled {
			t.Fatalf("%+v", got)
		}
	})
}

func TestTwoWorkersThatTakeOneJobClaimItOnce(t *testing.T) {
	s := stage(t)
	other := register(t, s.q, "w2")
	accept(t, s.q, spec("one"))
	releaseAll(t, s.q, s.lease)
	d1 := take(t, s.q, s.worker)
	s.repeatHint("one", "again")
	d2 := take(t, s.q, other)
	var wg sync.WaitGroup
	results := make([]error, 2)
	wg.Go(func() { _, results[0] = s.q.Claim(within(t), s.worker, d1) })
	wg.Go(func() { _, results[1] = s.q.Claim(within(t), other, d2) })
	wg.Wait()
	if (results[0] == nil) == (results[1] == nil) {
		t.Fatalf("%v and %v", results[0], results[1])
	}
	for _, err := range results {
		if err != nil && !errors.Is(err, job.ErrStale) {
			t.Fatal(err)
		}
	}
	if got := get(t, s.q, "one"); got.Attempt != 1 || len(got.Attempts) != 1 {
		t.Fatalf("%+v", got.Attempts)
	}
}

func TestSkippedDeliveryComesAgainAtOnce(t *testing.T) {
	s := stage(t)
	accept(t, s.q, spec("one"))
	releaseAll(t, s.q, s.lease)
	if err := s.q.Skip(within(t), take(t, s.q, s.worker)); err != nil {
		t.Fatal(err)
	}
	if d := take(t, s.q, s.worker); d.Record.ID != "one" {
		t.Fatalf("%+v", d)
	}
}

func TestTakeThatIsStoppedLosesNoHint(t *testing.T) {
	s := stage(t)
	const n = 50
	for i := range n {
		accept(t, s.q, spec(fmt.Sprint("job", i)))
	}
	var wg sync.WaitGroup
	wg.Go(func() { releaseAll(t, s.q, s.lease) })
	taken := 0
	for taken < n {
		// Stopped at all kinds of moments; each hint must come in the end,
		// and long before the server would deliver it again by itself.
		ctx, cancel := context.WithTimeout(within(t), time.Duration(taken%7)*200*time.Microsecond)
		d, err := s.q.Take(ctx, s.worker)
		cancel()
		if err == nil {
			if _, err := s.q.Claim(within(t), s.worker, d); err != nil {
				t.Fatal(err)
			}
			taken++
		} else if within(t).Err() != nil {
			t.Fatal(err)
		} else if d, err := s.q.Take(within(t), s.worker); err != nil {
			t.Fatalf("after %d: %v", taken, err)
		} else if _, err := s.q.Claim(within(t), s.worker, d); err != nil {
			t.Fatal(err)
		} else {
			taken++
		}
	}
	wg.Wait()
	s.depth(0, n)
}

func TestHintThatCarriesAnOldRecordIsLookedAtAgain(t *testing.T) {
	s := stage(t)
	accept(t, s.q, spec("one"))
	releaseAll(t, s.q, s.lease)
	if err := queue.GiveHint(s.q, within(t), "default", "one", "again"); err != nil {
		t.Fatal(err)
	}
	releaseAll(t, s.q, s.lease) // both were released while the job was queued
	c := claim(t, s.q, s.worker)
	old := take(t, s.q, s.worker)
	if old.Record.State != job.Queued {
		t.Fatalf("the hint says that the job is %s", old.Record.State)
	}
	if err := s.q.Retry(within(t), c, job.Attempt{Outcome: job.Fault}, time.Time{}); err != nil {
		t.Fatal(err)
	}
	if _, err := s.q.Claim(within(t), s.worker, old); !errors.Is(err, job.ErrStale) {
		t.Fatalf("claimed what had changed: %v", err)
	}
	d := take(t, s.q, s.worker)
	again, err := s.q.Claim(within(t), s.worker, d)
	if err != nil || d.Record.State != job.Retrying || again.Record.Attempt != 2 {
		t.Fatalf("%s, %v", d.Record.State, err)
	}
}
