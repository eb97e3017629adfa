package scheduler_test

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/sandlot-dev/sandlot/pkg/api"
	"github.com/sandlot-dev/sandlot/pkg/job"
	"github.com/sandlot-dev/sandlot/pkg/queue"
)

func TestOrdersReachTheWorkerAndOutliveIt(t *testing.T) {
	w := newWorld(t, nil)
	reg, err := w.queue.Register(w.ctx, queue.Worker{ID: "w1", Slots: 1, CPU: 2, Memory: 4 << 30})
	must(t, err)
	hear := func() queue.Order {
		select {
		case o := <-reg.Orders():
			return o
		case <-w.ctx.Done():
			t.Fatal("no word")
			return queue.Order{}
		}
	}
	if o := hear(); o.Closed(time.Now()) != "" {
		t.Fatalf("at first %+v", o)
	}
	eventually(t, w, "the worker is known", func() bool { all, err := w.client.Workers(w.ctx); return err == nil && len(all) == 1 })
	shown, err := w.client.Drain(w.ctx, "w1", time.Minute)
	must(t, err)
	if o := hear(); !o.Drain || time.Until(o.Deadline) > time.Minute || time.Until(o.Deadline) < 50*time.Second || shown.State != api.WorkerDraining {
		t.Fatalf("drain: %+v, shown as %s", o, shown.State)
	}
	must(t, reg.Close())
	if reg, err = w.queue.Register(w.ctx, queue.Worker{ID: "w1", Slots: 1}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = reg.Close() })
	if o := hear(); !o.Drain {
		t.Fatalf("a worker that had not been draining yet forgot the order: %+v", o)
	}
	_, err = w.client.Undrain(w.ctx, "w1")
	must(t, err)
	if o := hear(); o.Drain {
		t.Fatalf("undrain: %+v", o)
	}
	if _, err := w.client.Drain(w.ctx, "nobody", 0); problem(t, err).Status != http.StatusNotFound {
		t.Errorf("an unknown worker: %v", err)
	}
	acme := w.tenant("acme", job.Share{})
	if _, err := acme.Drain(w.ctx, "w1", 0); problem(t, err).Status != http.StatusForbidden {
		t.Errorf("a tenant drains: %v", err)
	}
}

// lose has a worker hold a job, if there is one, and vanish.
func (w *world) lose(id string, take bool) {
	w.t.Helper()
	q, err := queue.Open(w.ctx, queue.Config{Server: w.server, Name: "lost-" + id, Logger: w.log})
	must(w.t, err)
	reg, err := q.Register(w.ctx, queue.Worker{ID: id, Slots: 1, Started: time.Now()})
	must(w.t, err)
	if take {
		d, err := q.Take(w.ctx, reg)
		must(w.t, err)
		_, err = q.Claim(w.ctx, reg, d)
		must(w.t, err)
		listed := func() bool {
			all, err := w.queue.Workers(w.ctx)
			for _, one := range all {
				if one.ID == id && len(one.Held) == 1 {
					return true
				}
			}
			return err != nil && false
		}
		for !listed() {
			if w.ctx.Err() != nil {
				w.t.Fatal("the claim is not listed")
			}
		}
	} else {
		eventually(w.t.(*testing.T), w, "the worker is seen", func() bool {
			all, err := w.client.Workers(w.ctx)
			for _, one := range all {
				if one.ID == id {
					return err == nil
				}
			}
			return false
		})
	}
	q.Close() // as if it was killed
}

func (w *world) losses(id string) queue.Order {
	w.t.Helper()
	o, err := w.queue.Order(w.ctx, job.DefaultPool, id)
	must(w.t, err)
	return o
}

func TestWorkerThatVanishesAgainAndAgainIsTakenOut(t *testing.T) {
	w := newWorld(t, nil)
	w.workAs(queue.Worker{ID: "good", Slots: 1, CPU: 2, Memory: 4 << 30, Started: time.Now()}, succeed)
	for n := 1; n <= 3; n++ {
		w.lose("bad", false)
		// Another life under its name makes the loss known at once.
		reg, err := w.queue.Register(w.ctx, queue.Worker{ID: "bad", Slots: 1, Started: time.Now()})
		must(t, err)
		eventually(t, w, "the loss is held against it", func() bool { return len(w.losses("bad").Losses) == n })
		if n < 3 {
			must(t, reg.Close())
			continue
		}
		t.Cleanup(func() { _ = reg.Close() })
	}
	if o := w.losses("bad"); !strings.Contains(o.Closed(time.Now()), "vanished 3 times") {
		t.Fatalf("%+v", o)
	}
	shown, err := w.client.ReleaseWorker(w.ctx, "bad")
	must(t, err)
	if o := w.losses("bad"); o.Closed(time.Now()) != "" || len(o.Losses) != 0 || shown.State != api.WorkerReady {
		t.Fatalf("released: %+v, %s", o, shown.State)
	}
}

func TestLastWorkerIsNeverTakenOut(t *testing.T) {
	w := newWorld(t, nil)
	for n := 1; n <= 4; n++ {
		w.lose("only", false)
		reg, err := w.queue.Register(w.ctx, queue.Worker{ID: "only", Slots: 1, Started: time.Now()})
		must(t, err)
		eventually(t, w, "the loss is noted", func() bool { return len(w.losses("only").Losses) == n })
		must(t, reg.Close())
	}
	if o := w.losses("only"); o.Closed(time.Now()) != "" {
		t.Fatalf("%+v", o)
	}
}

// A job that kills whatever runs it ends dead, and no worker pays for it.
func TestPoisonJobDiesAndTheFleetStays(t *testing.T) {
	w := newWorld(t, nil)
	poison, err := w.client.Submit(w.ctx, echo("poison"), 0)
	must(t, err)
	for n := range job.PlatformAttempts {
		id := []string{"w1", "w2"}[n%2]
		w.lose(id, true)
		reg, err := w.queue.Register(w.ctx, queue.Worker{ID: id, Slots: 1, Started: time.Now()})
		must(t, err)
		eventually(t, w, "the attempt is ended", func() bool {
			got, err := w.client.Get(w.ctx, poison.ID)
			return err == nil && len(got.Attempts) == n+1 && got.Attempts[n].Outcome == job.Lost
		})
		must(t, reg.Close())
	}
	dead, err := w.client.Wait(w.ctx, poison.ID)
	must(t, err)
	if dead.State != job.Dead || dead.Verdict.Reason != job.WorkerLost {
		t.Errorf("it is %s: %+v", dead.State, dead.Verdict)
	}
	eventually(t, w, "nothing is held against the workers", func() bool {
		return len(w.losses("w1").Losses) == 0 && len(w.losses("w2").Losses) == 0
	})
}
