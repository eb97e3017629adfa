package scheduler_test

import (
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"

	"github.com/sandlot-dev/sandlot/pkg/api"
	"github.com/sandlot-dev/sandlot/pkg/job"
)

func TestSubmitsOverACapAreRefusedWithTheNumbers(t *testing.T) {
	w := newWorld(t, nil)
	acme := w.tenant("acme", job.Share{MaxQueued: 3})
	_, err := acme.SetQueue(w.ctx, "narrow", api.QueueSettings{Share: job.Share{MaxQueued: 1}})
	must(t, err)
	narrow := echo("x")
	narrow.Queue, narrow.IdempotencyKey = "narrow", "once"
	first, err := acme.Submit(w.ctx, narrow, 0)
	must(t, err)
	narrow.IdempotencyKey = "twice"
	_, err = acme.Submit(w.ctx, narrow, 0)
	p := problem(t, err)
	if p.Status != http.StatusTooManyRequests || p.RetryAfter == 0 || !strings.Contains(p.Detail, `queue "narrow" of tenant "acme" is at its cap of waiting jobs: 1 of 1`) || p.Errors[0].Location != "max_queued" {
		t.Errorf("%+v", p)
	}
	narrow.IdempotencyKey = "once"
	if again, err := acme.Submit(w.ctx, narrow, 0); err != nil || again.ID != first.ID {
		t.Errorf("the same submit again: %v %v", again.ID, err)
	}
	for range 2 {
		_, err := acme.Submit(w.ctx, echo("x"), 0)
		must(t, err)
	}
	_, err = acme.Submit(w.ctx, echo("x"), 0)
	if p := problem(t, err); p.Status != http.StatusTooManyRequests || !strings.Contains(p.Detail, `tenant "acme" is at its cap of waiting jobs: 3 of 3`) {
		t.Errorf("%+v", p)
	}
	if _, err := w.client.Submit(w.ctx, echo("x"), 0); err != nil {
		t.Errorf("another tenant: %v", err)
	}
	_, err = acme.Cancel(w.ctx, first.ID)
	must(t, err)
	eventually(t, w, "there is room again", func() bool { _, err := acme.Submit(w.ctx, echo("x"), 0); return err == nil })
}

func TestLinesOverACapAreRefusedAndOthersGoOn(t *testing.T) {
	w := newWorld(t, nil)
	_, err := w.client.SetQueue(w.ctx, "narrow", api.QueueSettings{Share: job.Share{MaxQueued: 250}})
	must(t, err)
	var body strings.Builder
	for i := range 1200 {
		fmt.Fprintf(&body, `{"key":"k%d","image":"python","command":["true"],"queue":%q}`+"\n", i, []string{"narrow", "wide"}[i%2])
	}
	count := func() (accepted, refused map[string]int) {
		status, _, answers := w.ask("POST", "/v1/jobs?batch=b", "application/x-ndjson", body.String())
		if status != http.StatusOK {
			t.Fatalf("%d %s", status, answers)
		}
		accepted, refused = map[string]int{}, map[string]int{}
		for i, line := range strings.Split(strings.TrimSpace(string(answers)), "\n") {
			name := []string{"narrow", "wide"}[i%2]
			if strings.Contains(line, `"rejected"`) {
				refused[name]++
				if !strings.Contains(line, `"status":429`) || !strings.Contains(line, "250 of 250") {
					t.Fatal(line)
				}
			} else {
				accepted[name]++
			}
		}
		return accepted, refused
	}
	for _, time := range []string{"first", "second"} { // the same lines again are the same jobs
		accepted, refused := count()
		if accepted["narrow"] != 250 || refused["narrow"] != 350 || accepted["wide"] != 600 {
			t.Errorf("%s: accepted %v, refused %v", time, accepted, refused)
		}
	}
}

func TestCapHoldsForSubmitsAtTheSameTime(t *testing.T) {
	w := newWorld(t, nil)
	acme := w.tenant("acme", job.Share{MaxQueued: 10})
	var mu sync.Mutex
	accepted := 0
	var all sync.WaitGroup
	for range 40 {
		all.Go(func() {
			if _, err := acme.Submit(w.ctx, echo("x"), 0); err == nil {
				mu.Lock()
				accepted++
				mu.Unlock()
			}
		})
	}
	all.Wait()
	if accepted != 10 {
		t.Errorf("%d were accepted with a cap of 10", accepted)
	}
}
