package queue_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/sandlot-dev/sandlot/pkg/job"
	"github.com/sandlot-dev/sandlot/pkg/queue"
)

var toGPU = job.Place{Pool: "gpu", Class: "m"}

// spilling is a record that may spill over from main to gpu.
func spilling(id string, after job.Millis) job.Record {
	rec := spec(id)
	rec.Preferred, rec.Spill = job.DefaultPool, &job.Spill{After: after, To: []job.Place{toGPU}}
	return rec
}

// withGPU is a queue with a second pool, and both leases.
func withGPU(t *testing.T) (q *queue.Queue, main, gpu *queue.Lease) {
	t.Helper()
	q = fresh(t)
	_, _, err := q.SetPool(within(t), job.Pool{Name: "gpu", Classes: []job.Class{{Name: "m"}}}, 0)
	if err != nil {
		t.Fatal(err)
	}
	return q, lead(t, q), leadPool(t, q, "gpu")
}

// takeIdle has a worker ask for jobs; stop ends that, and there must have been
// none for it.
func takeIdle(t *testing.T, q *queue.Queue, w *queue.Registration) (stop func()) {
	ctx, cancel := context.WithCancel(within(t))
	idle := make(chan struct{})
	go func() {
		defer close(idle)
		for {
			d, err := q.Take(ctx, w)
			if err != nil {
				return
			}
			// A hint carries the record as it was when it was released.
			if c, err := q.Claim(ctx, w, d); !errors.Is(err, job.ErrStale) {
				t.Errorf("claimed %+v, %v", c, err)
			}
		}
	}()
	return func() {
		cancel()
		<-idle
	}
}

func always(job.Record) (job.Place, bool) { return toGPU, true }

// spill spills a job and says whether it went.
func spill(t *testing.T, q *queue.Queue, id string) (queue.Summary, bool) {
	t.Helper()
	before, moved, err := q.Spill(within(t), "default", id, always)
	if err != nil {
		t.Fatal(err)
	}
	return before, moved
}

// standing counts hints in both streams of a pool.
func standing(t *testing.T, q *queue.Queue, pool, class string) (waiting, released int) {
	t.Helper()
	lanes, err := q.Lanes(within(t), pool, class)
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range lanes {
		waiting += int(l.Backlog)
	}
	out, err := q.Out(within(t), pool)
	if err != nil {
		t.Fatal(err)
	}
	for _, o := range out {
		released += int(o.Hints)
	}
	return waiting, released
}

func TestSpillMovesTheRecordAndItsHint(t *testing.T) {
	q, main, gpu := withGPU(t)
	for _, id := range []string{"released", "waiting"} {
		accept(t, q, spilling(id, 1))
		if id == "released" {
			releaseAll(t, q, main)
		}
	}
	accept(t, q, spec("stays"))
	var before []queue.Summary
	for _, id := range []string{"released", "waiting"} {
		eventually(t, "it is due", func() bool {
			was, moved := spill(t, q, id)
			if moved {
				before = append(before, was)
			}
			return moved
		})
	}
	if err := q.Withdraw(within(t), before...); err != nil {
		t.Fatal(err)
	}
	if waiting, released := standing(t, q, "main", "s"); waiting != 1 || released != 0 {
		t.Errorf("main has %d hints that wait and %d that are released", waiting, released)
	}
	if waiting, _ := standing(t, q, "gpu", "m"); waiting != 2 {
		t.Errorf("gpu has %d hints that wait", waiting)
	}
	d, err := q.Depth(within(t), "main", "s")
	if err != nil || d.Waiting != 0 || d.Held != 0 {
		t.Errorf("the line of main has %+v, %v", d, err)
	}
	releaseAll(t, q, main)
	releaseAll(t, q, gpu)
	w := registerIn(t, q, "w-gpu", "gpu", "m")
	for range 2 {
		c := claim(t, q, w)
		if c.Record.Pool != "gpu" || c.Record.Class != "m" || c.Record.Preferred != "main" || c.Record.Spill != nil {
			t.Errorf("claimed %+v", c.Record)
		}
		if err := q.Commit(within(t), c, done(c)); err != nil {
			t.Fatal(err)
		}
	}
	if c := claim(t, q, register(t, q, "w-main")); c.Record.ID != "stays" {
		t.Errorf("main runs %s", c.Record.ID)
	}
}

func TestSpillLeavesAloneWhatIsNotDueToSpill(t *testing.T) {
	q, main, _ := withGPU(t)
	accept(t, q, spilling("young", job.MaxSpillAfter))
	accept(t, q, spec("named"))
	for _, id := range []string{"young", "named", "unknown"} {
		if _, moved := spill(t, q, id); moved {
			t.Errorf("%s spilled over", id)
		}
	}
	accept(t, q, spilling("running", 1))
	releaseAll(t, q, main)
	w := register(t, q, "w1")
	for {
		if c := claim(t, q, w); c.Record.ID == "running" {
			break
		} else if err := q.Commit(within(t), c, done(c)); err != nil {
			t.Fatal(err)
		}
	}
	if _, moved := spill(t, q, "running"); moved {
		t.Error("a running job spilled over")
	}
	accept(t, q, spilling("nowhere", 1))
	eventually(t, "it is asked where to", func() bool {
		asked := false
		_, moved, err := q.Spill(within(t), "default", "nowhere", func(job.Record) (job.Place, bool) { asked = true; return job.Place{}, false })
		if err != nil || moved {
			t.Fatalf("moved %v, %v", moved, err)
		}
		return asked
	})
}

// A worker that has the hint and a leader that spills the job meet at the
// record: one of them gets it.
func TestClaimAndSpillOfOneJobExcludeEachOther(t *testing.T) {
	q, main, gpu := withGPU(t)
	accept(t, q, spilling("both", 1))
	releaseAll(t, q, main)
	w := register(t, q, "w-main")
	d := take(t, q, w)
	eventually(t, "it is due", func() bool { _, moved := spill(t, q, "both"); return moved })
	if c, err := q.Claim(within(t), w, d); !errors.Is(err, job.ErrStale) {
		t.Fatalf("claimed %+v, %v", c, err)
	}
	releaseAll(t, q, gpu)
	// The hint in main comes again, and must come to nothing.
	taking := takeIdle(t, q, w)
	c := claim(t, q, registerIn(t, q, "w-gpu", "gpu", "m"))
	if err := q.Commit(within(t), c, done(c)); err != nil || len(c.Record.Attempts) != 1 {
		t.Fatalf("%+v, %v", c.Record.Attempts, err)
	}
	eventually(t, "the hint in main has ended", func() bool {
		_, released := standing(t, q, "main", "s")
		return released == 0
	})
	taking()
}

// A crash between the writes leaves one job: Restore gives it the hint that
// it lacks, and the one that it had comes to nothing, wherever it is.
func TestCrashWithinASpillLeavesOneJob(t *testing.T) {
	for name, released := range map[string]bool{"its hint waits": false, "its hint is released": true} {
		t.Run(name, func(t *testing.T) {
			q, main, gpu := withGPU(t)
			rec := accept(t, q, spilling("one", 1))
			if released {
				releaseAll(t, q, main)
			}
			if err := queue.SpillRecord(q, within(t), "default", "one", toGPU); err != nil {
				t.Fatal(err)
			}
			if got := releaseAll(t, q, main); !released && got.Dropped != 1 {
				t.Errorf("released in main: %+v", got)
			}
			taking := takeIdle(t, q, register(t, q, "w-main"))
			if _, moved := spill(t, q, "one"); moved {
				t.Error("it spilled twice")
			}
			sum := queue.Summary{ID: rec.ID, Tenant: rec.Tenant}
			for range 2 { // by two leaders
				if ok, err := q.Restore(within(t), sum); err != nil || !ok {
					t.Fatalf("restored %v, %v", ok, err)
				}
			}
			releaseAll(t, q, gpu)
			w := registerIn(t, q, "w-gpu", "gpu", "m")
			c := claim(t, q, w)
			if err := q.Commit(within(t), c, done(c)); err != nil {
				t.Fatal(err)
			}
			eventually(t, "no hint is left", func() bool {
				_, inMain := standing(t, q, "main", "s")
				_, inGPU := standing(t, q, "gpu", "m")
				return inMain == 0 && inGPU == 0
			})
			taking()
			got, err := q.Get(within(t), "default", "one")
			if err != nil || got.State != job.Succeeded || len(got.Attempts) != 1 {
				t.Errorf("%s after %d attempts, %v", got.State, len(got.Attempts), err)
			}
		})
	}
}

// Where nobody is left to end it, a hint in READY would count as a job that
// runs for ever.
func TestStrayHintOfAJobThatSpilledOverIsTakenBack(t *testing.T) {
	q := fresh(t)
	setPool(t, q, job.Pool{Name: "gpu", Classes: []job.Class{{Name: "m"}}})
	accept(t, q, spilling("one", 1))
	_, stop := leading(t, q, 0)
	eventually(t, "it is released", func() bool { _, released := standing(t, q, "main", "s"); return released == 1 })
	stop()
	if err := queue.SpillRecord(q, within(t), "default", "one", toGPU); err != nil {
		t.Fatal(err)
	}
	l, _ := leading(t, q, time.Millisecond)
	eventually(t, "the hint is where the job is", func() bool {
		_, inMain := standing(t, q, "main", "s")
		_, inGPU := standing(t, q, "gpu", "m")
		return inMain == 0 && inGPU == 1
	})
	if n := l.Counters.Stray.Load(); n != 1 {
		t.Errorf("%d strays", n)
	}
	c := claim(t, q, registerIn(t, q, "w-gpu", "gpu", "m"))
	if err := q.Commit(within(t), c, done(c)); err != nil || len(c.Record.Attempts) != 1 {
		t.Errorf("%+v, %v", c.Record.Attempts, err)
	}
}

func TestHintThatIsTakenBackIsGoneBeforeAndAfterDelivery(t *testing.T) {
	q, main, _ := withGPU(t)
	w := register(t, q, "w1")
	for _, id := range []string{"delivered", "fresh", "next"} {
		accept(t, q, spec(id))
	}
	releaseAll(t, q, main)
	d := take(t, q, w)
	ready, err := q.InReady(within(t), "main")
	if err != nil || len(ready) != 3 || d.Record.ID != "delivered" {
		t.Fatalf("took %s of %+v, %v", d.Record.ID, ready, err)
	}
	for _, id := range []string{"delivered", "fresh", "fresh"} {
		if err := q.TakeBack(within(t), ready[id]); err != nil {
			t.Fatal(err)
		}
	}
	if d := take(t, q, w); d.Record.ID != "next" {
		t.Errorf("took %s", d.Record.ID)
	}
	eventually(t, "only the last is held", func() bool {
		d, err := q.Depth(within(t), "main", "s")
		return err == nil && d.Waiting == 0 && d.Held == 1
	})
}

func TestSpillWaitsSinceTheJobWasDue(t *testing.T) {
	now := time.Now()
	spill := &job.Spill{After: 5000, To: []job.Place{toGPU}}
	for name, c := range map[string]struct {
		sum  queue.Summary
		want time.Time
	}{
		"queued":             {queue.Summary{State: job.Queued, UpdatedAt: now, Spill: spill}, now.Add(5 * time.Second)},
		"to run later":       {queue.Summary{State: job.Queued, UpdatedAt: now, NotBefore: now.Add(time.Hour), Spill: spill}, now.Add(time.Hour + 5*time.Second)},
		"due for long":       {queue.Summary{State: job.Retrying, UpdatedAt: now, NotBefore: now.Add(-time.Hour), Spill: spill}, now.Add(5 * time.Second)},
		"running":            {queue.Summary{State: job.Running, UpdatedAt: now, Spill: spill}, time.Time{}},
		"spilled over":       {queue.Summary{State: job.Queued, UpdatedAt: now}, time.Time{}},
		"ended all the same": {queue.Summary{State: job.Succeeded, UpdatedAt: now, Spill: spill}, time.Time{}},
	} {
		if got := c.sum.SpillAt(); !got.Equal(c.want) {
			t.Errorf("%s: %s, want %s", name, got, c.want)
		}
	}
}
