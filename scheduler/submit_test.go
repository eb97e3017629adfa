package scheduler_test

import (
	"net/http"
	"testing"
	"time"

	"github.com/sandlot-dev/sandlot/pkg/api"
	"github.com/sandlot-dev/sandlot/pkg/job"
)

func TestSubmitWaitsForTheResult(t *testing.T) {
	w := newWorld(t, nil)
	w.work(2, func(job.Record) (job.State, *job.Result) { return job.Succeeded, succeeded("hello\n") })
	j, err := w.client.Submit(w.ctx, echo("hello"), 20*time.Second)
	must(t, err)
	if j.State != job.Succeeded || j.Verdict == nil || j.Verdict.Reason != job.Exited || j.Steps[0].Stdout.Text != "hello\n" {
		t.Fatalf("got %+v", j)
	}
	if j.Image.Digest != digest || j.Limits.Memory != 512*job.MiB || j.TraceID == "" {
		t.Errorf("image %+v, limits %+v, trace %q", j.Image, j.Limits, j.TraceID)
	}
	for name, at := range map[string]time.Time{
		"submit": j.Timings.Submit, "accept": j.Timings.Accept, "claim": j.Timings.Claim, "commit": j.Timings.Commit, "answer": j.Timings.Answer,
	} {
		if at.IsZero() {
			t.Errorf("no time of %s", name)
		}
	}
	again, err := w.client.Get(w.ctx, j.ID)
	must(t, err)
	if !again.Timings.Answer.Equal(j.Timings.Answer) {
		t.Errorf("answered at %v, then at %v", j.Timings.Answer, again.Timings.Answer)
	}
}

func TestSubmitWithoutWorkersIsAcceptedAndWaits(t *testing.T) {
	w := newWorld(t, nil)
	j, err := w.client.Submit(w.ctx, echo("x"), 0)
	must(t, err)
	if j.State != job.Queued {
		t.Fatalf("state %s", j.State)
	}
	e, err := w.client.Explain(w.ctx, j.ID)
	must(t, err)
	t.Log(e.Sentences)
	if last := e.Sentences[len(e.Sentences)-1]; last != "No worker of class s of pool main is registered; start one with `sandlot worker`." {
		t.Errorf("explained by %q", last)
	}
	c, err := w.client.Cancel(w.ctx, j.ID)
	must(t, err)
	if c.State != job.Canceled {
		t.Errorf("after cancel: %s", c.State)
	}
}

func TestOneKeyIsOneJob(t *testing.T) {
	w := newWorld(t, nil)
	s := echo("x")
	s.IdempotencyKey = "k1"
	first, err := w.client.Submit(w.ctx, s, 0)
	must(t, err)
	second, err := w.client.Submit(w.ctx, s, 0)
	must(t, err)
	if first.ID != second.ID {
		t.Errorf("%s and %s", first.ID, second.ID)
	}
	s.Command = []string{"echo", "y"}
	_, err = w.client.Submit(w.ctx, s, 0)
	if p := problem(t, err); p.Status != http.StatusConflict || p.Type != api.TypeConflict {
		t.Errorf("got %+v", p)
	}
}
