package queue_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/sandlot-dev/sandlot/pkg/job"
	"github.com/sandlot-dev/sandlot/pkg/queue"
)

var brokenHost = job.Verdict{Blame: job.BlamePlatform, Reason: job.SandboxFault}

// bury has n jobs die, of the tenants in turn, and lists them unless their
// worker dies before it does.
func bury(t *testing.T, q *queue.Queue, n int, listed bool, tenants ...string) (ids []string) {
	t.Helper()
	l, r := lead(t, q), register(t, q, "mortal")
	for i := range n {
		rec := spec(fmt.Sprintf("dead-%03d", i))
		rec.Tenant = tenants[i%len(tenants)]
		rec.Labels = map[string]string{"n": fmt.Sprint(i % 10)}
		accept(t, q, rec)
		releaseAll(t, q, l)
		c := claim(t, q, r)
		var err error
		if listed {
			rec := c.Record
			rec.State, rec.Result = job.Dead, &job.Result{Verdict: brokenHost, Steps: []job.StepResult{}}
			err = q.Commit(within(t), c, rec)
		} else {
			err = queue.CommitUnlisted(q, within(t), c, brokenHost)
		}
		if err != nil {
			t.Fatal(err)
		}
		ids = append(ids, c.Record.ID)
	}
	return ids
}

func TestDeadJobIsListedAlthoughItsWorkerDiedBeforeItDidSo(t *testing.T) {
	q := fresh(t)
	var ids []string
	t.Run("their workers die", func(t *testing.T) { ids = bury(t, q, 5, false, "default") })
	list := func() []queue.Dead {
		page, _, err := q.Dead(within(t), queue.DeadQuery{Tenant: "default", OldestFirst: true, Limit: 10})
		if err != nil {
			t.Fatal(err)
		}
		return page
	}
	if page := list(); len(page) != 0 {
		t.Fatalf("%d are listed", len(page))
	}
	l, _ := leading(t, q, 50*time.Millisecond)
	eventually(t, "all are listed", func() bool { return len(list()) == 5 })
	for i, d := range list() {
		if d.ID != ids[i] || d.State != job.Dead || d.Reason != job.SandboxFault || d.UpdatedAt.IsZero() || d.Attempt != 1 {
			t.Errorf("listed as %+v", d)
		}
	}
	eventually(t, "they are counted", func() bool { return l.Counters.Buried.Load() == 5 })
	var dead []queue.Summary
	for _, d := range list() {
		dead = append(dead, d.Summary)
	}
	if n, err := q.Bury(within(t), dead); n != 0 || err != nil || len(list()) != 5 {
		t.Errorf("another look lists %d, %v", n, err)
	}
}

func TestDeadJobsAreReadInBothDirections(t *testing.T) {
	q := fresh(t)
	const n = 60
	ids := bury(t, q, n, true, "default", "acme", "acme")
	if again, err := q.Bury(within(t), []queue.Summary{{ID: ids[0], Tenant: "default", Pool: "main", UpdatedAt: time.Now()}}); err != nil || again != 0 {
		t.Errorf("listed twice: %d, %v", again, err)
	}
	for _, oldest := range []bool{true, false} {
		ask := queue.DeadQuery{Tenant: "acme", Limit: 7, OldestFirst: oldest, Want: func(s queue.Summary) bool { return s.Labels["n"] != "4" }}
		var want, got []string
		for i := range n {
			if !oldest {
				i = n - 1 - i
			}
			if i%3 != 0 && i%10 != 4 {
				want = append(want, ids[i])
			}
		}
		for more := true; more; {
			var page []queue.Dead
			var err error
			if page, more, err = q.Dead(within(t), ask); err != nil {
				t.Fatal(err)
			}
			for _, d := range page {
				got = append(got, d.ID)
				ask.After = d.Place
			}
		}
		if fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("oldest first %v: %v instead of %v", oldest, got, want)
		}
	}
	counts, err := q.CountDead(within(t))
	if err != nil || len(counts) != 2 || counts[0].Entries+counts[1].Entries != n {
		t.Errorf("counted %v, %v", counts, err)
	}
}
