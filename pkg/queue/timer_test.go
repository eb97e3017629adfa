package queue_test

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/sandlot-dev/sandlot/pkg/job"
	"github.com/sandlot-dev/sandlot/pkg/queue"
)

// following gives hints of jobs whose timers went off, until the test ends.
func following(t testing.TB, q *queue.Queue) {
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { _ = q.Due(ctx) })
	t.Cleanup(func() { cancel(); wg.Wait() })
}

func later(id string, at time.Time) job.Record {
	rec := spec(id)
	rec.NotBefore = at
	return rec
}

func timers(t testing.TB, q *queue.Queue) int {
	t.Helper()
	n, err := queue.CountTimers(q, within(t))
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func TestJobThatIsNotDueWaitsForItsTime(t *testing.T) {
	for name, accept := range map[string]func(*queue.Queue, job.Record) error{
		"accepted alone": func(q *queue.Queue, rec job.Record) error {
			_, _, err := q.Accept(within(t), rec)
			return err
		},
		"accepted with others": func(q *queue.Queue, rec job.Record) error {
			return errors.Join(q.AcceptMany(within(t), []job.Record{rec, spec("at-once")})[0].Err)
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := stage(t)
			due := time.Now().Add(1500 * time.Millisecond)
			if err := accept(s.q, later("one", due)); err != nil {
				t.Fatal(err)
			}
			if got := get(t, s.q, "one"); got.State != job.Queued || !got.NotBefore.Equal(due) {
				t.Fatalf("%s, not before %v", got.State, got.NotBefore)
			}
			following(t, s.q)
			for got := ""; got != "one"; {
				releaseAll(t, s.q, s.lease)
				ctx, cancel := context.WithTimeout(within(t), 50*time.Millisecond)
				d, err := s.q.Take(ctx, s.worker)
				cancel()
				if err != nil {
					continue
				}
				c, err := s.q.Claim(within(t), s.worker, d)
				if err != nil {
					t.Fatal(err)
				}
				if got = c.Record.ID; got == "one" && (time.Now().Before(due) || !c.Record.NotBefore.IsZero()) {
					t.Fatalf("claimed %v early: %+v", time.Until(due), c.Record)
				}
				if err := s.q.Commit(within(t), c, done(c)); err != nil {
					t.Fatal(err)
				}
			}
			if n := timers(t, s.q); n != 0 {
				t.Errorf("%d timers are left", n)
			}
		})
	}
}

func TestHintOfAJobThatIsNotDueEndsAtRelease(t *testing.T) {
	s := stage(t)
	accept(t, s.q, later("one", time.Now().Add(time.Hour)))
	if err := queue.GiveHint(s.q, within(t), "default", "one", "forged"); err != nil {
		t.Fatal(err)
	}
	if n := releaseAll(t, s.q, s.lease); n.Released != 0 || n.Dropped != 1 {
		t.Fatalf("%+v", n)
	}
	s.repeatHint("one", "again") // and at take, if it was released all the same
	s.idle(s.worker)
	s.depth(0, 0)
	if n := timers(t, s.q); n != 1 {
		t.Errorf("%d timers instead of one", n)
	}
}

func TestLostFirstTimerComesBack(t *testing.T) {
	s := stage(t)
	due := time.Now().Add(4 * time.Second)
	accept(t, s.q, later("one", due))
	if err := queue.LoseTimers(s.q, within(t)); err != nil {
		t.Fatal(err)
	}
	l, _ := leading(t, s.q, time.Second)
	if d := take(t, s.q, s.worker); d.TakenAt.Before(due) || l.Counters.Restored.Load() != 1 {
		t.Fatalf("taken %v before it was due, restored %d", due.Sub(d.TakenAt), l.Counters.Restored.Load())
	}
}

func TestReconcileLeavesAJobAloneWhoseTimerIsThere(t *testing.T) {
	s := stage(t)
	accept(t, s.q, later("one", time.Now().Add(time.Hour)))
	l, _ := leading(t, s.q, time.Millisecond)
	eventually(t, "a pass", func() bool { return l.Counters.Passes.Load() > 0 })
	if n := l.Counters.Restored.Load(); n != 0 {
		t.Errorf("restored %d", n)
	}
	if lanes, err := s.q.Lanes(within(t), job.DefaultPool, queue.EveryClass); err != nil || len(lanes) != 0 {
		t.Errorf("lanes %v, %v", lanes, err)
	}
}

func TestCancelOfAJobThatIsNotDueDropsItsTimer(t *testing.T) {
	q := fresh(t)
	accept(t, q, later("one", time.Now().Add(time.Hour)))
	if rec, err := q.Cancel(within(t), "default", "one"); err != nil || rec.State != job.Canceled {
		t.Fatalf("%v, %v", rec.State, err)
	}
	eventually(t, "its timer is gone", func() bool { return timers(t, q) == 0 })
}
