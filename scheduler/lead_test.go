package scheduler_test

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"sync"
	"testing"
	"time"

	"github.com/sandlot-dev/sandlot/pkg/job"
	"github.com/sandlot-dev/sandlot/pkg/queue"
	"github.com/sandlot-dev/sandlot/scheduler"
)

// leadWorld is a server with queues on it.
type leadWorld struct {
	*testing.T
	server *queue.Server
}

func newLeadWorld(t *testing.T) leadWorld {
	s, err := queue.StartServer(queue.ServerConfig{Dir: t.TempDir(), Profile: queue.Fast, Logger: quiet(t)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return leadWorld{t, s}
}

func quiet(t testing.TB) *slog.Logger {
	return slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelInfo}))
}

func (w leadWorld) open(name string) *queue.Queue {
	w.Helper()
	q, err := queue.Open(w.ctx(), queue.Config{Server: w.server, Name: name, Logger: quiet(w)})
	if err != nil {
		w.Fatal(err)
	}
	w.Cleanup(q.Close)
	return q
}

func (w leadWorld) ctx() context.Context {
	ctx, cancel := context.WithTimeout(w.Context(), 40*time.Second)
	w.Cleanup(cancel)
	return ctx
}

// lead runs a leader until the test or stop ends it.
func (w leadWorld) lead(q *queue.Queue, grace time.Duration) (l *scheduler.Lead, stop func()) {
	w.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	l = &scheduler.Lead{Queue: q, Logger: quiet(w), Grace: grace}
	var wg sync.WaitGroup
	wg.Go(func() { _ = l.Run(ctx) })
	stop = func() { cancel(); wg.Wait() }
	w.Cleanup(stop)
	return l, stop
}

func (w leadWorld) accept(q *queue.Queue, id string, priority int) {
	w.Helper()
	_, _, err := q.Accept(w.ctx(), job.Record{ID: id, Tenant: "default", Queue: "default", Priority: priority, BodyHash: id,
		Image: job.Image{Name: "busybox", Digest: "sha256:b"}, Retention: time.Hour})
	if err != nil {
		w.Fatal(err)
	}
}

func (w leadWorld) register(q *queue.Queue, id string) *queue.Registration {
	w.Helper()
	r, err := q.Register(w.ctx(), queue.Worker{ID: id, Slots: 1})
	if err != nil {
		w.Fatal(err)
	}
	w.Cleanup(func() { _ = r.Close() })
	return r
}

func (w leadWorld) claim(q *queue.Queue, r *queue.Registration) *queue.Claim {
	w.Helper()
	d, err := q.Take(w.ctx(), r)
	if err != nil {
		w.Fatal(err)
	}
	c, err := q.Claim(w.ctx(), r, d)
	if err != nil {
		w.Fatal(err)
	}
	return c
}

func (w leadWorld) commit(q *queue.Queue, c *queue.Claim) {
	w.Helper()
	rec := c.Record
	rec.State = job.Succeeded
	rec.Result = &job.Result{Verdict: job.Verdict{Blame: job.BlameNone, Reason: job.Exited}}
	if err := q.Commit(w.ctx(), c, rec); err != nil {
		w.Fatal(err)
	}
}

func (w leadWorld) eventually(what string, ok func() bool) {
	w.Helper()
	ctx := w.ctx()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-ctx.Done():
			w.Fatalf("waited in vain: %s", what)
		case <-tick.C:
		}
	}
}

func TestReleaseIsInOrderOfPriorityThenOfAcceptance(t *testing.T) {
	w := newLeadWorld(t)
	q := w.open("one")
	for i, p := range []int{9, 5, 0, 5, 9, 0} {
		w.accept(q, fmt.Sprintf("p%d-%d", p, i), p)
	}
	w.lead(q, 0)
	r := w.register(q, "w1")
	for _, want := range []string{"p0-2", "p0-5", "p5-1", "p5-3", "p9-0", "p9-4"} {
		c := w.claim(q, r)
		if c.Record.ID != want {
			t.Fatalf("claimed %s instead of %s", c.Record.ID, want)
		}
		w.commit(q, c)
	}
}

func TestBetterPriorityOvertakesABacklog(t *testing.T) {
	w := newLeadWorld(t)
	q := w.open("one")
	w.lead(q, 0)
	r := w.register(q, "w1")
	for i := range 100 {
		w.accept(q, fmt.Sprint("slow", i), 5)
	}
	w.commit(q, w.claim(q, r))
	w.accept(q, "urgent", 0)
	for n := 1; ; n++ {
		c := w.claim(q, r)
		w.commit(q, c)
		if c.Record.ID == "urgent" {
			t.Logf("after %d others", n-1)
			break
		}
		if n > 40 {
			t.Fatal("the urgent job waits behind the backlog")
		}
	}
}

func TestReconcileLeavesAloneWhatIsWell(t *testing.T) {
	w := newLeadWorld(t)
	q := w.open("one")
	r := w.register(q, "w1")
	l := &scheduler.Lead{Queue: q, Logger: quiet(t), Grace: time.Second, Every: 100 * time.Millisecond}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { _ = l.Run(ctx) })
	defer wg.Wait()
	defer cancel()
	for i := range 300 {
		w.accept(q, fmt.Sprint("job", i), i%3)
	}
	held := w.claim(q, r)
	accepted, passes := time.Now(), l.Counters.Passes.Load()
	w.eventually("passes that judge", func() bool {
		return l.Counters.Passes.Load() >= passes+5 && time.Since(accepted) > 2*l.Grace
	})
	if n := l.Counters.Restored.Load(); n != 0 {
		t.Fatalf("restored %d", n)
	}
	if n := l.Counters.Abandoned.Load(); n != 0 {
		t.Fatalf("abandoned %d", n)
	}
	w.commit(q, held)
}

func TestJobsOfALostWorkerRunElsewhere(t *testing.T) {
	w := newLeadWorld(t)
	q, lost := w.open("one"), w.open("lost")
	l, _ := w.lead(q, 0)
	for _, id := range []string{"a", "b"} {
		w.accept(q, id, 5)
	}
	r1 := w.register(lost, "w1")
	w.claim(lost, r1)
	w.eventually("the first claim is listed", func() bool {
		all, err := q.Workers(w.ctx())
		return err == nil && len(all) == 1 && len(all[0].Held) == 1
	})
	w.claim(lost, r1)
	lost.Close() // as if it was killed: the second claim may not be listed yet
	r2 := w.register(q, "w2")
	began := time.Now()
	for range 2 {
		c := w.claim(q, r2)
		if c.Record.Attempt != 2 || c.Record.Attempts[0].Outcome != job.Lost {
			t.Fatalf("%+v", c.Record)
		}
		w.commit(q, c)
	}
	t.Logf("both ran again %v after the loss", time.Since(began).Round(time.Millisecond))
	if l.Counters.Lost.Load() != 1 || l.Counters.Abandoned.Load() != 2 {
		t.Fatalf("%d lost, %d abandoned", l.Counters.Lost.Load(), l.Counters.Abandoned.Load())
	}
}

func TestSecondSchedulerTakesOver(t *testing.T) {
	w := newLeadWorld(t)
	q1, q2, q3 := w.open("first"), w.open("second"), w.open("third")
	l1, stop1 := w.lead(q1, 0)
	w.eventually("the first leads", l1.Counters.Leading.Load)
	l2, _ := w.lead(q2, 0)
	r := w.register(q3, "w1")
	w.accept(q3, "a", 5)
	w.commit(q3, w.claim(q3, r))
	if l2.Counters.Leading.Load() {
		t.Fatal("both lead")
	}
	stop1()
	began := time.Now()
	w.eventually("the second leads", l2.Counters.Leading.Load)
	t.Logf("took over from one that stopped after %v", time.Since(began).Round(time.Millisecond))
	w.accept(q3, "b", 5)
	w.commit(q3, w.claim(q3, r))
	q2.Close() // as if it was killed
	l4, _ := w.lead(w.open("fourth"), 0)
	began = time.Now()
	w.accept(q3, "c", 5)
	w.commit(q3, w.claim(q3, r))
	t.Logf("took over from one that was killed after %v", time.Since(began).Round(time.Millisecond))
	if !l4.Counters.Leading.Load() {
		t.Fatal("nobody leads")
	}
}

func TestFormerLifeOfASchedulerIsRelievedAtOnce(t *testing.T) {
	w := newLeadWorld(t)
	former := w.open("same")
	l1, _ := w.lead(former, 0)
	w.eventually("the former leads", l1.Counters.Leading.Load)
	former.Close() // as if it was killed
	l2, _ := w.lead(w.open("same"), 0)
	began := time.Now()
	w.eventually("the next life leads", l2.Counters.Leading.Load)
	if took := time.Since(began); took > 4*time.Second {
		t.Fatalf("waited %v for its own lease", took)
	}
}

func TestOrphanedObjectsAreRemoved(t *testing.T) {
	w := newLeadWorld(t)
	q := w.open("one")
	w.accept(q, "there", 5)
	w.accept(q, "ended", 5)
	if _, err := q.Cancel(w.ctx(), "default", "ended"); err != nil {
		t.Fatal(err)
	}
	type object struct {
		bucket queue.Bucket
		name   string
	}
	want := map[object]bool{
		{queue.Outputs, "there/1/out"}: true, {queue.Outputs, "ended/1/out"}: true, {queue.Outputs, "gone/1/out"}: false,
		{queue.Inputs, "there/spec"}: true, {queue.Inputs, "ended/spec"}: false, {queue.Inputs, "gone/spec"}: false,
	}
	for o := range want {
		if _, err := q.Put(w.ctx(), o.bucket, o.name, bytes.NewReader(make([]byte, 100))); err != nil {
			t.Fatal(err)
		}
	}
	if n, err := q.Orphans(w.ctx(), time.Hour); err != nil || n != 0 {
		t.Fatalf("removed %d young ones, %v", n, err)
	}
	if n, err := q.Orphans(w.ctx(), 0); err != nil || n != 3 {
		t.Fatalf("removed %d, %v", n, err)
	}
	for o, there := range want {
		if _, err := q.Stat(w.ctx(), o.bucket, o.name); (err == nil) != there {
			t.Errorf("%v: %v", o, err)
		}
	}
}
