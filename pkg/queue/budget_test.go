package queue_test

import (
	"errors"
	"testing"
	"time"

	"github.com/sandlot-dev/sandlot/pkg/job"
	"github.com/sandlot-dev/sandlot/pkg/queue"
)

func bounded(id string, b job.Budgets) job.Record {
	rec := spec(id)
	rec.Budgets = b
	return rec
}

// expired waits until a job is, and checks what its record says.
func expired(t testing.TB, q *queue.Queue, id string, limit float64) {
	t.Helper()
	eventually(t, id+" expires", func() bool { return get(t, q, id).State.Final() })
	rec := get(t, q, id)
	if rec.State != job.Expired || rec.Result == nil || rec.Result.Verdict.Reason != job.HasExpired ||
		rec.Result.Verdict.Blame != job.BlameNone || rec.Result.Verdict.Evidence.Limit != limit ||
		rec.Result.Verdict.Evidence.Measured < limit {
		t.Fatalf("%s: %+v", rec.State, rec.Result)
	}
}

func TestJobsThatDoNotStartInTimeExpireWithoutAWorker(t *testing.T) {
	s := stage(t)
	following(t, s.q)
	accept(t, s.q, bounded("first", job.Budgets{StartBy: 700}))
	accept(t, s.q, bounded("second", job.Budgets{StartBy: 900, Total: 3_600_000})) // never at the head of its lane
	rec := bounded("third", job.Budgets{Total: 800})
	rec.NotBefore = time.Now().Add(time.Hour)
	accept(t, s.q, rec)
	expired(t, s.q, "first", 700)
	expired(t, s.q, "second", 900)
	expired(t, s.q, "third", 800)
	eventually(t, "all timers are gone", func() bool { return timers(t, s.q) == 0 })
	if n := releaseAll(t, s.q, s.lease); n.Released != 0 || n.Dropped != 2 {
		t.Errorf("%+v", n)
	}
}

func TestJobIsNotClaimedAfterItsTime(t *testing.T) {
	t.Run("its hint ends it, though the timer is lost", func(t *testing.T) {
		s := stage(t)
		accept(t, s.q, bounded("one", job.Budgets{StartBy: 300}))
		releaseAll(t, s.q, s.lease)
		if err := queue.LoseTimers(s.q, within(t)); err != nil {
			t.Fatal(err)
		}
		over := time.NewTimer(300 * time.Millisecond)
		<-over.C
		s.idle(s.worker)
		expired(t, s.q, "one", 300)
		s.depth(0, 0)
	})
	t.Run("nor by a worker that took it in time", func(t *testing.T) {
		s := stage(t)
		accept(t, s.q, bounded("one", job.Budgets{StartBy: 400}))
		releaseAll(t, s.q, s.lease)
		d := take(t, s.q, s.worker)
		over := time.NewTimer(time.Until(d.Record.AcceptedAt.Add(400 * time.Millisecond)))
		<-over.C
		if _, err := s.q.Claim(within(t), s.worker, d); !errors.Is(err, job.ErrStale) {
			t.Fatalf("claimed: %v", err)
		}
		s.idle(s.worker)
		expired(t, s.q, "one", 400)
	})
}

func TestJobThatStartedInTimeIsBoundByItsTotalAlone(t *testing.T) {
	s := stage(t)
	following(t, s.q)
	accept(t, s.q, bounded("one", job.Budgets{StartBy: 600, Total: 2500}))
	releaseAll(t, s.q, s.lease)
	c := claim(t, s.q, s.worker)
	eventually(t, "the start's timer has gone off", func() bool { return timers(t, s.q) == 1 })
	if got := get(t, s.q, "one"); got.State != job.Running {
		t.Fatalf("it is %s", got.State)
	}
	// Back in the queue until after the end of its time.
	if err := s.q.Retry(within(t), c, job.Attempt{Outcome: job.Fault, Reason: job.SandboxFault}, time.Now().Add(time.Hour)); err != nil {
		t.Fatal(err)
	}
	expired(t, s.q, "one", 2500)
	if got := get(t, s.q, "one"); len(got.Attempts) != 1 || got.Attempts[0].Outcome != job.Fault {
		t.Errorf("%+v", got.Attempts)
	}
	eventually(t, "all timers are gone", func() bool { return timers(t, s.q) == 0 })
}

func TestLostWorkersJobExpiresIfItsTimeIsOver(t *testing.T) {
	s := stage(t)
	other := register(t, s.q, "w2")
	accept(t, s.q, bounded("one", job.Budgets{Total: 300}))
	releaseAll(t, s.q, s.lease)
	c := claim(t, s.q, s.worker)
	if err := s.worker.Close(); err != nil {
		t.Fatal(err)
	}
	over := time.NewTimer(time.Until(c.Record.AcceptedAt.Add(300 * time.Millisecond)))
	<-over.C
	s.repeatHint("one", "again")
	s.idle(other)
	expired(t, s.q, "one", 300)
	if got := get(t, s.q, "one"); got.Attempts[0].Outcome != job.Lost {
		t.Errorf("%+v", got.Attempts)
	}
}

func TestLostTimersOfBudgetsComeBack(t *testing.T) {
	s := stage(t)
	accept(t, s.q, bounded("waits", job.Budgets{StartBy: 3000}))
	rec := bounded("later", job.Budgets{Total: 3000})
	rec.NotBefore = time.Now().Add(time.Hour)
	accept(t, s.q, rec)
	if err := queue.LoseTimers(s.q, within(t)); err != nil {
		t.Fatal(err)
	}
	l, _ := leading(t, s.q, time.Second)
	expired(t, s.q, "waits", 3000)
	expired(t, s.q, "later", 3000)
	if n := l.Counters.Restored.Load(); n != 2 {
		t.Errorf("restored %d", n)
	}
}

func TestJobThatWasOverlookedExpiresAtReconcile(t *testing.T) {
	s := stage(t)
	accept(t, s.q, bounded("one", job.Budgets{StartBy: 200}))
	if err := errors.Join(queue.LoseTimers(s.q, within(t)), queue.LoseHints(s.q, within(t))); err != nil {
		t.Fatal(err)
	}
	over := time.NewTimer(500 * time.Millisecond)
	<-over.C
	leading(t, s.q, 100*time.Millisecond)
	expired(t, s.q, "one", 200)
}

func TestAResultDropsTheTimersOfItsJob(t *testing.T) {
	s := stage(t)
	accept(t, s.q, bounded("one", job.Budgets{StartBy: 3_600_000, Total: 7_200_000}))
	if n := timers(t, s.q); n != 2 {
		t.Fatalf("%d timers instead of two", n)
	}
	releaseAll(t, s.q, s.lease)
	c := claim(t, s.q, s.worker)
	if err := s.q.Commit(within(t), c, done(c)); err != nil {
		t.Fatal(err)
	}
	eventually(t, "all timers are gone", func() bool { return timers(t, s.q) == 0 })
	if got := get(t, s.q, "one"); got.State != job.Succeeded {
		t.Errorf("it is %s", got.State)
	}
}
