package queue_test

import (
	"errors"
	"testing"
	"time"

	"github.com/sandlot-dev/sandlot/pkg/job"
	"github.com/sandlot-dev/sandlot/pkg/queue"
)

func TestRestartedWorkerSettlesWhatItsFormerLifeHeld(t *testing.T) {
	s := stage(t)
	for _, id := range []string{"one", "two"} {
		accept(t, s.q, spec(id))
	}
	releaseAll(t, s.q, s.lease)
	claim(t, s.q, s.worker)
	lost := claim(t, s.q, s.worker)
	if _, err := s.q.Cancel(within(t), "default", lost.Record.ID); err != nil {
		t.Fatal(err)
	}
	eventually(t, "both are listed", func() bool {
		all, err := s.q.Workers(within(t))
		return err == nil && len(all) == 1 && len(all[0].Held) == 2
	})
	again := register(t, s.q, "w1")
	if got := get(t, s.q, lost.Record.ID); got.State != job.Canceled {
		t.Fatalf("%+v", got)
	}
	if c := claim(t, s.q, again); c.Record.ID == lost.Record.ID || c.Record.Attempt != 2 {
		t.Fatalf("%+v", c.Record)
	}
	select {
	case <-s.worker.Done():
	case <-within(t).Done():
		t.Fatal("the former life goes on")
	}
	if err := s.worker.Err(); !errors.Is(err, job.ErrLostClaim) {
		t.Fatalf("got %v", err)
	}
	s.depth(0, 1)
}

func TestWorkerThatIsCutOffStopsBeforeOthersTakeItsJobs(t *testing.T) {
	s := stageFar(t)
	changes := make(chan queue.WorkerChange, 100)
	ctx := within(t)
	go func() { _ = s.near.WatchWorkers(ctx, func(c queue.WorkerChange) { changes <- c }) }()
	accept(t, s.near, spec("one"))
	releaseAll(t, s.near, s.lease)
	c := claim(t, s.q, s.worker)
	eventually(t, "the job is listed", func() bool {
		all, err := s.near.Workers(within(t))
		return err == nil && len(all) == 1 && len(all[0].Held) == 1
	})
	s.proxy.mu.Lock()
	s.proxy.target = "127.0.0.1:1" // nobody there
	s.proxy.mu.Unlock()
	s.proxy.cut()
	var stopped, expired time.Time
	for stopped.IsZero() || expired.IsZero() {
		done := s.worker.Done()
		if !stopped.IsZero() {
			done = nil
		}
		select {
		case <-done:
			stopped = time.Now()
		case w := <-changes:
			if w.Gone {
				expired = time.Now()
				if n := s.near.SettleWorker(within(t), w.Worker); n != 1 {
					t.Fatalf("settled %d", n)
				}
			}
		case <-ctx.Done():
			t.Fatal("waited in vain")
		}
	}
	if !stopped.Before(expired) {
		t.Fatalf("its key expired %v before it stopped", stopped.Sub(expired))
	}
	if err := s.worker.Err(); err == nil {
		t.Fatal("no reason given")
	}
	other := register(t, s.near, "w2")
	second := claim(t, s.near, other)
	if second.Record.Attempt != 2 || second.Record.Attempts[0].Outcome != job.Lost {
		t.Fatalf("%+v", second.Record)
	}
	s.proxy.mu.Lock()
	s.proxy.target = s.address
	s.proxy.mu.Unlock()
	if err := s.q.Commit(within(t), c, done(c)); !errors.Is(err, job.ErrLostClaim) {
		t.Fatalf("commit of the first attempt: %v", err)
	}
	if err := s.near.Commit(within(t), second, done(second)); err != nil {
		t.Fatal(err)
	}
}

func TestPoisonousJobIsDeadAfterItsAttempts(t *testing.T) {
	s := stage(t)
	accept(t, s.q, spec("poison"))
	releaseAll(t, s.q, s.lease)
	r := s.worker
	for n := 1; ; n++ {
		c := claim(t, s.q, r)
		if c.Record.Attempt != n {
			t.Fatalf("attempt %d instead of %d", c.Record.Attempt, n)
		}
		if err := r.Close(); err != nil { // it vanishes
			t.Fatal(err)
		}
		w := queue.Worker{ID: "w1", Pool: "main", Life: queue.LifeOf(r), Held: queue.HeldBy(r)}
		if settled := s.q.SettleWorker(within(t), w); settled != 1 {
			t.Fatalf("settled %d", settled)
		}
		if again := s.q.SettleWorker(within(t), w); again != 0 {
			t.Fatalf("settled %d the second time", again)
		}
		got := get(t, s.q, "poison")
		if n < job.PlatformAttempts {
			if got.State != job.Retrying {
				t.Fatalf("after %d: %v", n, got.State)
			}
			r = register(t, s.q, "w1")
			continue
		}
		v := got.Result.Verdict
		if got.State != job.Dead || v.Blame != job.BlamePlatform || v.Reason != job.WorkerLost || len(got.Attempts) != n {
			t.Fatalf("%+v", got)
		}
		break
	}
	s.depth(0, 0)
}

func TestUnfitWorkerIsShownWithItsReasons(t *testing.T) {
	q := fresh(t)
	r, err := q.Register(within(t), queue.Worker{ID: "w1", Slots: 2, Unfit: []string{"limits.pids: no pids controller"}})
	if err != nil {
		t.Fatal(err)
	}
	all, err := q.Workers(within(t))
	if err != nil || len(all) != 1 || all[0].Fit() || all[0].Unfit[0] == "" {
		t.Fatalf("%+v %v", all, err)
	}
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	if all, err := q.Workers(within(t)); err != nil || len(all) != 0 {
		t.Fatalf("%+v %v", all, err)
	}
}

func TestUpdateIsSeenByOthers(t *testing.T) {
	q := fresh(t)
	r := register(t, q, "w1")
	r.Update(func(w *queue.Worker) { w.Draining, w.ID = true, "another" })
	eventually(t, "draining is seen", func() bool {
		all, err := q.Workers(within(t))
		return err == nil && len(all) == 1 && all[0].Draining && all[0].ID == "w1"
	})
}
