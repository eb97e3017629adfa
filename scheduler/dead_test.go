package scheduler_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sandlot-dev/sandlot/pkg/api"
	"github.com/sandlot-dev/sandlot/pkg/client"
	"github.com/sandlot-dev/sandlot/pkg/job"
	"github.com/sandlot-dev/sandlot/pkg/queue"
)

// died is the result of a job that the platform failed.
func died(reason job.Reason) (job.State, *job.Result) {
	return job.Dead, &job.Result{Verdict: job.Verdict{Blame: job.BlamePlatform, Reason: reason, Evidence: job.Evidence{Detail: "the host broke"}}}
}

// mortal is a worker whose jobs die while it is sick. Jobs whose command says
// so die by a fault of their image.
type mortal struct{ healthy atomic.Bool }

func (m *mortal) run(r job.Record) (job.State, *job.Result) {
	switch {
	case m.healthy.Load():
		return job.Succeeded, succeeded("")
	case r.Labels["kind"] == "image":
		return died(job.ImageFault)
	}
	return died(job.SandboxFault)
}

// ended submits a job and waits for its end.
func (w *world) ended(in api.Submit) api.Job {
	w.t.Helper()
	j, err := w.client.Submit(w.ctx, in, 20*time.Second)
	must(w.t, err)
	if !j.State.Final() {
		w.t.Fatalf("job is %s", j.State)
	}
	return j
}

func (w *world) wait(id string) api.Job {
	w.t.Helper()
	j, err := w.client.Wait(w.ctx, id)
	must(w.t, err)
	return j
}

// dead lists n dead jobs, once there are so many: one is listed a moment after
// its end is told.
func (w *world) dead(n int, o client.DeadOptions) (jobs []api.DeadJob) {
	w.t.Helper()
	w.until(fmt.Sprint(n, " dead jobs"), func() bool {
		list, err := w.client.Dead(w.ctx, o)
		must(w.t, err)
		jobs = list.Jobs
		return len(jobs) == n
	})
	return jobs
}

// workUntil is work that ends earlier.
func (w *world) workUntil(id string, run func(job.Record) (job.State, *job.Result)) (stop func()) {
	w.t.Helper()
	reg, err := w.queue.Register(w.ctx, queue.Worker{ID: id, Slots: 4, CPU: 2, Memory: 4 << 30, Started: time.Now()})
	must(w.t, err)
	ctx, cancel := context.WithCancel(w.ctx)
	var slots sync.WaitGroup
	for range 4 {
		slots.Go(func() { w.slot(ctx, reg, run) })
	}
	stop = sync.OnceFunc(func() { cancel(); slots.Wait(); _ = reg.Close() })
	w.t.Cleanup(stop)
	return stop
}

// waitingJobs counts the jobs that wait, and refused is what is wrong with a
// request.
func (w *world) waitingJobs() (n int) {
	w.t.Helper()
	queues, err := w.client.Queues(w.ctx)
	must(w.t, err)
	for _, q := range queues {
		n += q.Queued
	}
	return n
}

func (w *world) refused(method, path, body string) (p api.Problem) {
	w.t.Helper()
	status, _, data := w.ask(method, path, "application/json", body)
	must(w.t, json.Unmarshal(data, &p))
	if status < 400 || p.Status != status {
		w.t.Fatalf("%s %s is answered with %d %s", method, path, status, data)
	}
	return p
}

func TestARedriveIsANewJobAndHappensOnce(t *testing.T) {
	w := newWorld(t, nil)
	var m mortal
	w.work(2, m.run)
	in := echo("x")
	in.Labels, in.Queue, in.Priority = map[string]string{"suite": "a"}, "nightly", new(3)
	first := w.ended(in)
	if first.State != job.Dead || first.RedrivenAs != "" {
		t.Fatalf("it ended as %+v", first)
	}
	w.dead(1, client.DeadOptions{})
	if e, err := w.client.Explain(w.ctx, first.ID); err != nil || !strings.Contains(strings.Join(e.Sentences, " "), "sandlot dead redrive "+first.ID) {
		t.Errorf("explained as %v, %v", e.Sentences, err)
	}

	// Redriven while the host is still broken: it dies again.
	second, err := w.client.Redrive(w.ctx, first.ID)
	must(t, err)
	second = w.wait(second.ID)
	if second.ID == first.ID || second.RedriveOf != first.ID || second.State != job.Dead || second.Queue != "nightly" || second.Priority != 3 || second.Labels["suite"] != "a" {
		t.Fatalf("redriven as %+v", second)
	}

	// Many at once, of the first and of the second: one job comes of it.
	m.healthy.Store(true)
	ids := make([]string, 12)
	var all sync.WaitGroup
	for i := range ids {
		all.Go(func() {
			j, err := w.client.Redrive(w.ctx, []string{first.ID, second.ID}[i%2])
			if err != nil {
				t.Error(err)
			}
			ids[i] = j.ID
		})
	}
	all.Wait()
	for _, id := range ids {
		if id != ids[0] {
			t.Fatalf("redriven as %v", ids)
		}
	}
	third := w.wait(ids[0])
	if third.State != job.Succeeded || third.RedriveOf != second.ID {
		t.Fatalf("the third is %+v", third)
	}
	if again, err := w.client.Redrive(w.ctx, first.ID); err != nil || again.ID != third.ID || again.State != job.Succeeded {
		t.Errorf("redriven once more as %s %s, %v", again.ID, again.State, err)
	}
	now, err := w.client.Get(w.ctx, first.ID)
	must(t, err)
	if now.State != job.Dead || !now.UpdatedAt.Equal(first.UpdatedAt) || now.RedrivenAs != third.ID {
		t.Errorf("the first is %+v now", now)
	}
	list := w.dead(2, client.DeadOptions{})
	if list[0].ID != second.ID || list[0].RedriveOf != first.ID || list[1].RedrivenAs != third.ID || list[1].RedrivenState != job.Succeeded || list[1].Expired {
		t.Errorf("listed as %+v", list)
	}
	for id, want := range map[string]string{first.ID: "redriven as job " + third.ID, third.ID: "died as job " + second.ID} {
		if e, err := w.client.Explain(w.ctx, id); err != nil || !strings.Contains(strings.Join(e.Sentences, " "), want) {
			t.Errorf("explained as %v, %v", e.Sentences, err)
		}
	}
	_, err = w.client.Redrive(w.ctx, third.ID)
	if p := problem(t, err); p.Status != http.StatusConflict || !strings.Contains(p.Detail, "succeeded") {
		t.Errorf("redriving what succeeded: %v", p)
	}
	_, err = w.client.Redrive(w.ctx, "no-such-job")
	if p := problem(t, err); p.Status != http.StatusNotFound {
		t.Errorf("redriving nothing: %v", p)
	}
}

func TestDeadJobsAreListedByFilterAndPage(t *testing.T) {
	w := newWorld(t, nil)
	w.work(4, (&mortal{}).run)
	var ids []string
	for i := range 7 {
		in := echo(fmt.Sprint(i))
		in.Queue = []string{"a", "b"}[i%2]
		in.Labels = map[string]string{"n": fmt.Sprint(i)}
		if i == 6 {
			in.Labels["kind"] = "image"
		}
		ids = append(ids, w.ended(in).ID)
		w.dead(i+1, client.DeadOptions{}) // so that their order is known
	}
	fifth, err := w.client.Get(w.ctx, ids[4])
	must(t, err)
	for name, c := range map[string]struct {
		filter api.DeadFilter
		want   []int
	}{
		"all":            {api.DeadFilter{}, []int{6, 5, 4, 3, 2, 1, 0}},
		"queue":          {api.DeadFilter{Queue: "b"}, []int{5, 3, 1}},
		"label":          {api.DeadFilter{Labels: map[string]string{"n": "3"}}, []int{3}},
		"reason":         {api.DeadFilter{Reason: job.ImageFault}, []int{6}},
		"pool":           {api.DeadFilter{Pool: "main"}, []int{6, 5, 4, 3, 2, 1, 0}},
		"another pool":   {api.DeadFilter{Pool: "gpu"}, nil},
		"no pool at all": {api.DeadFilter{Pool: "*"}, nil},
		"batch":          {api.DeadFilter{Batch: "none"}, nil},
		"since":          {api.DeadFilter{Since: fifth.UpdatedAt}, []int{6, 5, 4}},
		"until":          {api.DeadFilter{Until: fifth.UpdatedAt}, []int{3, 2, 1, 0}},
		"one":            {api.DeadFilter{Job: ids[2]}, []int{2}},
	} {
		for _, oldest := range []bool{false, true} {
			for _, limit := range []int{1, 2, 50} {
				o := client.DeadOptions{DeadFilter: c.filter, OldestFirst: oldest, Limit: limit}
				var got []string
				for {
					page, err := w.client.Dead(w.ctx, o)
					must(t, err)
					if len(page.Jobs) > limit {
						t.Errorf("%s: %d on a page of %d", name, len(page.Jobs), limit)
					}
					for _, j := range page.Jobs {
						got = append(got, j.ID)
					}
					if o.Cursor = page.Next; o.Cursor == "" {
						break
					}
				}
				var want []string
				for i := range c.want {
					if oldest {
						i = len(c.want) - 1 - i
					}
					want = append(want, ids[c.want[i]])
				}
				if strings.Join(got, " ") != strings.Join(want, " ") {
					t.Errorf("%s, oldest first %v, by %d: %v instead of %v", name, oldest, limit, got, want)
				}
			}
		}
	}
	for _, bad := range []string{"limit=0", "cursor=x", "order=random", "since=yesterday", "label=x"} {
		p := w.refused(http.MethodGet, "/v1/dead?"+bad, "")
		field, _, _ := strings.Cut(bad, "=")
		if p.Status != http.StatusUnprocessableEntity || len(p.Errors) != 1 || p.Errors[0].Location != field {
			t.Errorf("%s: %+v", bad, p)
		}
	}
	if p := w.refused(http.MethodPost, "/v1/dead/redrive", `{"limit": 1001, "quue": "a"}`); len(p.Errors) != 2 {
		t.Errorf("a bad redrive: %+v", p)
	}
}

func TestRedriveByFilterStopsAtACapAndGoesOn(t *testing.T) {
	w := newWorld(t, nil)
	var m mortal
	stop := w.workUntil("w1", m.run)
	const n = 9
	for i := range n {
		in := echo(fmt.Sprint(i))
		in.Queue = []string{"a", "b", "a"}[i%3]
		w.ended(in)
	}
	w.dead(n, client.DeadOptions{})
	stop()

	dry, err := w.client.RedriveDead(w.ctx, api.Redrive{DryRun: true})
	must(t, err)
	if dry.Redriven != n || !dry.DryRun || w.waitingJobs() != 0 {
		t.Fatalf("a dry run: %+v, and %d wait", dry, w.waitingJobs())
	}
	_, err = w.client.SetQueue(w.ctx, "a", api.QueueSettings{Share: job.Share{MaxQueued: 4}})
	must(t, err)
	first, err := w.client.RedriveDead(w.ctx, api.Redrive{DeadFilter: api.DeadFilter{Queue: "a"}})
	must(t, err)
	if first.Redriven != 4 || first.Stopped == nil || first.Stopped.Status != http.StatusTooManyRequests || first.Next == "" || w.waitingJobs() != 4 {
		t.Fatalf("over the cap: %+v, and %d wait", first, w.waitingJobs())
	}
	m.healthy.Store(true)
	w.workUntil("w2", m.run)
	for _, j := range first.Jobs {
		w.wait(j.RedrivenAs)
	}
	// Again from the start: what was done is not done twice.
	second, err := w.client.RedriveDead(w.ctx, api.Redrive{DeadFilter: api.DeadFilter{Queue: "a"}})
	must(t, err)
	if second.Redriven != 2 || second.Skipped[api.RedriveKnown] != 4 || second.Stopped != nil || second.Next != "" {
		t.Fatalf("again: %+v", second)
	}
	// By pages, all of them.
	in, done, known := api.Redrive{Limit: 2}, 0, 0
	for {
		page, err := w.client.RedriveDead(w.ctx, in)
		must(t, err)
		if len(page.Jobs) > 2 {
			t.Errorf("%d in a page of 2", len(page.Jobs))
		}
		done, known = done+page.Redriven, known+page.Skipped[api.RedriveKnown]
		if in.Cursor = page.Next; in.Cursor == "" {
			break
		}
	}
	if done != 3 || known != 6 {
		t.Errorf("by pages %d were redriven and %d were before", done, known)
	}
	if _, _, text := w.ask("GET", "/metrics", "", ""); !strings.Contains(string(text), `sandlot_jobs_redriven_total{queue="b",tenant="default"} 3`) || !strings.Contains(string(text), `sandlot_dead_jobs{pool="main",tenant="default"} 9`) {
		t.Error("metrics lack what was redriven")
	}
}

func TestRedriveOfWhatIsGoneIsRefused(t *testing.T) {
	w := newWorld(t, nil)
	w.work(2, (&mortal{}).run)
	large := echo("large")
	large.Files = []job.File{{Path: "data", Content: strings.Repeat("x", 2*queue.MaxInlineSpec)}}
	removed, kept := w.ended(echo("removed")), w.ended(large)
	w.dead(2, client.DeadOptions{})
	must(t, w.client.Remove(w.ctx, removed.ID))
	_, err := w.client.Redrive(w.ctx, removed.ID)
	if p := problem(t, err); p.Status != http.StatusGone || !strings.Contains(p.Detail, "died at") {
		t.Errorf("redriving what was removed: %v", p)
	}

	// A dead job's inputs stay, whatever their age.
	_, err = w.queue.Orphans(w.ctx, 0)
	must(t, err)
	again, err := w.client.Redrive(w.ctx, kept.ID)
	must(t, err)
	if again = w.wait(again.ID); again.State != job.Dead {
		t.Fatalf("redriven as %+v", again)
	}
	rec, err := w.queue.Get(w.ctx, "default", again.ID)
	must(t, err)
	if rec.SpecRef == "" || !strings.HasPrefix(rec.SpecRef, again.ID+"/") || rec.Retention < time.Hour {
		t.Fatalf("its record is %+v", rec)
	}
	must(t, w.queue.Delete(w.ctx, queue.Inputs, rec.SpecRef))
	_, err = w.client.Redrive(w.ctx, again.ID)
	if p := problem(t, err); p.Status != http.StatusGone || !strings.Contains(p.Detail, "inputs of job "+again.ID) {
		t.Errorf("redriving without inputs: %v", p)
	}
	out, err := w.client.RedriveDead(w.ctx, api.Redrive{})
	must(t, err)
	if out.Redriven != 0 || out.Skipped[api.RedriveExpired] != 1 || out.Skipped[api.RedriveRefused] != 2 {
		t.Errorf("redriving all: %+v", out)
	}
	if list := w.dead(1, client.DeadOptions{DeadFilter: api.DeadFilter{Job: removed.ID}}); !list[0].Expired {
		t.Errorf("listed as %+v", list[0])
	}
}

func TestADeadItemIsRedrivenAsAJobOfItsOwn(t *testing.T) {
	w := newWorld(t, small(5))
	var m mortal
	w.work(4, m.run)
	b := w.uploaded(lines(12))
	if b = w.finished(b.ID); b.States[job.Dead] != 12 {
		t.Fatalf("the batch ended with %v", b.States)
	}
	w.dead(12, client.DeadOptions{DeadFilter: api.DeadFilter{Batch: b.ID}})
	m.healthy.Store(true)
	out, err := w.client.RedriveDead(w.ctx, api.Redrive{DeadFilter: api.DeadFilter{Batch: b.ID}})
	must(t, err)
	if out.Redriven != 12 || out.Stopped != nil {
		t.Fatalf("redriven: %+v", out)
	}
	for _, j := range out.Jobs {
		again := w.wait(j.RedrivenAs)
		if again.State != job.Succeeded || again.RedriveOf != j.ID || again.Batch != "" || again.Key != "" {
			t.Fatalf("redriven as %+v", again)
		}
	}
	if list := w.dead(12, client.DeadOptions{}); list[3].RedrivenState != job.Succeeded || list[3].Expired || list[3].Batch != b.ID {
		t.Errorf("listed as %+v", list[3])
	}
	now, err := w.client.Batch(w.ctx, b.ID)
	must(t, err)
	if now.States[job.Dead] != 12 || now.Jobs != 12 {
		t.Errorf("the batch counts %v now", now.States)
	}
}
