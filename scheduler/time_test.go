package scheduler_test

import (
	"strings"
	"testing"
	"time"

	"github.com/sandlot-dev/sandlot/pkg/client"
	"github.com/sandlot-dev/sandlot/pkg/job"
)

func TestJobWithANotBeforeSaysSoAndRunsThen(t *testing.T) {
	w := newWorld(t, nil)
	w.work(1, succeed)
	soon, far := echo("soon"), echo("far")
	soon.NotBefore, far.NotBefore = time.Now().Add(1500*time.Millisecond), time.Now().Add(time.Hour)
	first, err := w.client.Submit(w.ctx, soon, 0)
	must(t, err)
	second, err := w.client.Submit(w.ctx, far, 0)
	must(t, err)
	if first.State != job.Queued || !first.NotBefore.Equal(soon.NotBefore.UTC().Truncate(time.Millisecond)) {
		t.Errorf("%s, not before %v instead of %v", first.State, first.NotBefore, soon.NotBefore)
	}
	e, err := w.client.Explain(w.ctx, second.ID)
	must(t, err)
	if len(e.Sentences) != 1 || !strings.Contains(e.Sentences[0], "not_before says so") {
		t.Errorf("explained by %q", e.Sentences)
	}
	first, err = w.client.Wait(w.ctx, first.ID)
	must(t, err)
	if first.Timings.Claim.Before(soon.NotBefore.Truncate(time.Millisecond)) || !first.NotBefore.IsZero() {
		t.Errorf("claimed %v, not before %v", first.Timings.Claim, soon.NotBefore)
	}
	list, err := w.client.List(w.ctx, client.ListOptions{State: job.Queued})
	must(t, err)
	if len(list.Jobs) != 1 || list.Jobs[0].NotBefore.IsZero() {
		t.Errorf("listed %+v", list.Jobs)
	}
}

func TestATimeThatIsPastMeansAtOnce(t *testing.T) {
	w := newWorld(t, nil)
	s := echo("x")
	s.NotBefore = time.Now().Add(-time.Hour)
	j, err := w.client.Submit(w.ctx, s, 0)
	must(t, err)
	if !j.NotBefore.IsZero() {
		t.Errorf("not before %v", j.NotBefore)
	}
}
