package scheduler_test

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/sandlot-dev/sandlot/pkg/api"
	"github.com/sandlot-dev/sandlot/pkg/job"
	"github.com/sandlot-dev/sandlot/pkg/queue"
	"github.com/sandlot-dev/sandlot/scheduler"
)

// submitted submits a job to a queue, with a label.
func (w *world) submitted(queue, label string) string {
	w.t.Helper()
	return w.waiting(func(in *api.Submit) { in.Queue, in.Labels = queue, map[string]string{"suite": label} })
}

func (w *world) stateOf(id string) job.State {
	w.t.Helper()
	j, err := w.client.Get(w.ctx, id)
	must(w.t, err)
	return j.State
}

func TestAnOrderCancelsWhatItPicksAndWasThereBefore(t *testing.T) {
	w := newWorld(t, nil)
	ids := map[string]string{}
	for _, q := range []string{"a", "b"} {
		for _, l := range []string{"x", "y"} {
			ids[q+l] = w.submitted(q, l)
		}
	}
	// One runs, and ends when it is told to.
	ran := w.submitted("a", "x")
	reg, err := w.queue.Register(w.ctx, queue.Worker{ID: "w1", Slots: 8, CPU: 2, Memory: 4 << 30, Started: time.Now()})
	must(t, err)
	t.Cleanup(func() { _ = reg.Close() })
	var claims []*queue.Claim
	for range 5 {
		d, err := w.queue.Take(w.ctx, reg)
		must(t, err)
		if d.Record.ID != ran {
			continue // it goes on to wait, in the hands of nobody
		}
		c, err := w.queue.Claim(w.ctx, reg, d)
		must(t, err)
		claims = append(claims, c)
	}
	if len(claims) != 1 {
		t.Fatalf("%d claims", len(claims))
	}

	o, err := w.client.CancelMany(w.ctx, api.Cancel{CancelFilter: job.CancelFilter{Queue: "a", Labels: map[string]string{"suite": "x"}}, Reason: "They are not needed."}, 20*time.Second)
	must(t, err)
	if o.State != "finished" || o.Canceled != 1 || o.Ending != 1 || o.FinishedAt.IsZero() {
		t.Fatalf("the order is %+v", o)
	}
	select {
	case control := <-reg.Control():
		if control.Job != ran || control.Why != queue.ErrCanceling {
			t.Errorf("the worker was told %+v", control)
		}
	case <-w.ctx.Done():
		t.Fatal("the worker was not told")
	}
	rec := claims[0].Record
	rec.State, rec.Result = job.Canceled, &job.Result{Verdict: job.Verdict{Blame: job.BlameNone, Reason: job.WasCanceled}}
	must(t, w.queue.Commit(w.ctx, claims[0], rec))
	for name, want := range map[string]job.State{"ax": job.Canceled, "ay": job.Queued, "bx": job.Queued, "by": job.Queued} {
		if got := w.stateOf(ids[name]); got != want {
			t.Errorf("%s is %s, not %s", name, got, want)
		}
	}
	for _, id := range []string{ids["ax"], ran} {
		j, err := w.client.Get(w.ctx, id)
		must(t, err)
		if j.State != job.Canceled || j.Verdict.Evidence.Detail != "They are not needed." {
			t.Errorf("it ended as %s: %+v", j.State, j.Verdict)
		}
	}
	later := w.submitted("a", "x")
	again, err := w.client.CancelOrder(w.ctx, o.ID, 0)
	must(t, err)
	if again.Canceled != 1 || again.State != "finished" || w.stateOf(later) != job.Queued {
		t.Errorf("later the order is %+v, a later job %s", again, w.stateOf(later))
	}
	o, err = w.client.CancelMany(w.ctx, api.Cancel{All: true}, 20*time.Second)
	must(t, err)
	if o.Canceled != 4 || w.stateOf(later) != job.Canceled || w.waitingJobs() != 0 {
		t.Errorf("all: %+v, and %d wait", o, w.waitingJobs())
	}
	for body, field := range map[string]string{
		`{}`: "all", `{"all":true,"queue":"a"}`: "all", `{"state":"dead","queue":"a"}`: "state", `{"quue":"a","all":true}`: "quue",
	} {
		if p := w.refused(http.MethodPost, "/v1/cancels", body); p.Status != http.StatusUnprocessableEntity || len(p.Errors) != 1 || p.Errors[0].Location != field {
			t.Errorf("%s: %+v", body, p)
		}
	}
}

// TestAnOrderIsFinishedByWhoeverLeads gives an order where nobody leads, has a
// leader die in the middle, and another one finish it.
func TestAnOrderIsFinishedByWhoeverLeads(t *testing.T) {
	w := newWorld(t, func(c *scheduler.Config) { c.Gateway = true })
	const n = 3000
	recs := make([]job.Record, n)
	for i := range recs {
		recs[i] = job.Record{ID: fmt.Sprintf("job-%04d", i), Tenant: "default", Queue: "default", BodyHash: "x", Retention: time.Hour,
			Image: job.Image{Name: "python", Digest: digest}, Spec: &job.Spec{}}
	}
	for i, a := range w.queue.AcceptMany(w.ctx, recs) {
		if a.Err != nil {
			t.Fatal(i, a.Err)
		}
	}
	o, err := w.client.CancelMany(w.ctx, api.Cancel{All: true}, 0)
	must(t, err)
	if o.State != "running" || o.Canceled != 0 {
		t.Fatalf("the order is %+v", o)
	}
	later := recs[0]
	later.ID = "later"
	if _, _, err := w.queue.Accept(w.ctx, later); err != nil {
		t.Fatal(err)
	}
	// The first who leads dies after about a third.
	order, err := w.queue.CancelOrderOf(w.ctx, "default", o.ID)
	must(t, err)
	dying, die := context.WithCancel(w.ctx)
	go func() {
		defer die()
		for dying.Err() == nil {
			if s, err := w.queue.Get(w.ctx, "default", "job-1000"); err == nil && s.State == job.Canceled {
				return
			}
		}
	}()
	none := func(string) (job.Batch, bool) { return job.Batch{}, false }
	_, err = w.queue.CarryOut(dying, order, none, func(job.CancelOrder) error { return nil })
	t.Logf("the first ended with %v", err)
	die()

	w.change = nil
	w.restart()
	o, err = w.client.CancelOrder(w.ctx, o.ID, 30*time.Second)
	must(t, err)
	if o.State != "finished" || o.Canceled != n {
		t.Fatalf("the order is %+v", o)
	}
	for _, rec := range recs {
		now, err := w.queue.Get(w.ctx, "default", rec.ID)
		must(t, err)
		if now.State != job.Canceled || now.CanceledBy != o.ID {
			t.Fatalf("%s is %s, by %q", rec.ID, now.State, now.CanceledBy)
		}
	}
	if now, err := w.queue.Get(w.ctx, "default", "later"); err != nil || now.State != job.Queued {
		t.Errorf("the later job is %s, %v", now.State, err)
	}
}

func TestAnOrderEndsItemsThatWereNotJobsYet(t *testing.T) {
	w := newWorld(t, small(100))
	var text strings.Builder
	const n = 1500 // more than become jobs at first
	for i := range n {
		fmt.Fprintf(&text, `{"key":"k/%d","image":"python","command":["true"],"queue":"q%d"}`+"\n", i, i%3)
	}
	before := w.uploaded(text.String())
	o, err := w.client.CancelMany(w.ctx, api.Cancel{CancelFilter: job.CancelFilter{Queue: "q1"}, Reason: "Not q1."}, 20*time.Second)
	must(t, err)
	if o.State != "finished" {
		t.Fatalf("the order is %+v", o)
	}
	after := w.uploaded(lines(3) + `{"key":"q","image":"python","command":["true"],"queue":"q1"}` + "\n")
	w.work(4, succeed)
	if b := w.finished(before.ID); b.States[job.Canceled] != n/3 || b.States[job.Succeeded] != n-n/3 {
		t.Errorf("the batch ended with %v", b.States)
	}
	if b := w.finished(after.ID); b.States[job.Succeeded] != 4 {
		t.Errorf("the later batch ended with %v", b.States)
	}
}

func TestAnOrderCancelsWholeBatches(t *testing.T) {
	w := newWorld(t, small(100))
	first, second := w.uploaded(lines(900)), w.uploaded(lines(20))
	_, err := w.client.CancelMany(w.ctx, api.Cancel{CancelFilter: job.CancelFilter{Batch: first.ID}}, 20*time.Second)
	must(t, err)
	if b := w.finished(first.ID); b.State != job.BatchCanceled || b.States[job.Canceled] != 900 {
		t.Errorf("the first ended as %s with %v", b.State, b.States)
	}
	w.work(2, succeed)
	if b := w.finished(second.ID); b.States[job.Succeeded] != 20 {
		t.Errorf("the second ended with %v", b.States)
	}
}

// TestABatchAfterAnOrderIsNotCanceled has nothing stored in between, so that
// the sequences of both are the same.
func TestABatchAfterAnOrderIsNotCanceled(t *testing.T) {
	w := newWorld(t, nil)
	o, err := w.client.CancelMany(w.ctx, api.Cancel{All: true}, 20*time.Second)
	must(t, err)
	if o.State != "finished" || o.Canceled != 0 {
		t.Fatalf("the order is %+v", o)
	}
	b := w.uploaded(lines(5))
	w.work(1, succeed)
	if b = w.finished(b.ID); b.States[job.Succeeded] != 5 {
		t.Errorf("the batch ended with %v", b.States)
	}
}
