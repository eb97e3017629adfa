package scheduler_test

import (
	"context"
	"fmt"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sandlot-dev/sandlot/pkg/api"
	"github.com/sandlot-dev/sandlot/pkg/client"
	"github.com/sandlot-dev/sandlot/pkg/job"
	"github.com/sandlot-dev/sandlot/pkg/telemetry"
	"github.com/sandlot-dev/sandlot/scheduler"
)

// fullShares asks for the numbers that are promised, which take minutes; the
// lines that begin with figure are for whoever keeps them.
var fullShares = os.Getenv("SANDLOT_SHARES") == "full"

// finished counts the jobs of each tenant that have ended.
type finished struct {
	mu       sync.Mutex
	byTenant map[string]int
	all      int
}

// fiveMilliseconds is a worker's whole work on a job.
func (f *finished) fiveMilliseconds(rec job.Record) (job.State, *job.Result) {
	timer := time.NewTimer(5 * time.Millisecond)
	<-timer.C
	f.mu.Lock()
	defer f.mu.Unlock()
	f.byTenant[rec.Tenant]++
	f.all++
	return job.Succeeded, nil
}

func (f *finished) of(tenant string) (its, all int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.byTenant[tenant], f.all
}

func (f *finished) now() map[string]int {
	f.mu.Lock()
	defer f.mu.Unlock()
	copied := map[string]int{}
	for t, n := range f.byTenant {
		copied[t] = n
	}
	return copied
}

// fill accepts n jobs of a tenant, as a submit would.
func (w *world) fill(tenant string, n int) {
	w.t.Helper()
	for first := 0; first < n; first += 1000 {
		recs := make([]job.Record, min(1000, n-first))
		for i := range recs {
			id := fmt.Sprintf("%s-%06d", tenant, first+i)
			recs[i] = job.Record{ID: id, Tenant: tenant, Queue: "default", Priority: 5, BodyHash: id, Retention: time.Hour,
				Image: job.Image{Name: "python", Digest: digest}, Spec: &job.Spec{Image: job.Image{Name: "python", Digest: digest}}}
		}
		for _, a := range w.queue.AcceptMany(w.ctx, recs) {
			must(w.t, a.Err)
		}
	}
}

// patient gives a world the time that the full numbers need.
func (w *world) patient() {
	ctx, cancel := context.WithTimeout(w.t.Context(), 8*time.Minute)
	w.t.Cleanup(cancel)
	w.ctx = ctx
}

func TestFinishedJobsFollowTheWeights(t *testing.T) {
	tenants, queued, enough := 6, 400, 1000
	if fullShares {
		tenants, queued = 20, 5000
	}
	w := newWorld(t, nil)
	w.patient()
	weights, sum := map[string]int{}, 0
	for i := range tenants {
		id := fmt.Sprintf("t%02d", i)
		weights[id] = []int{1, 2, 4}[i%3]
		sum += weights[id]
		_, err := w.client.SetTenant(w.ctx, id, api.TenantSettings{Share: job.Share{Weight: weights[id]}})
		must(t, err)
		w.fill(id, queued)
	}
	f := &finished{byTenant: map[string]int{}}
	w.work(8, f.fiveMilliseconds)
	eventually(t, w, "the first have ended", func() bool { _, all := f.of(""); return all > 0 })
	before, began := f.now(), time.Now()
	eventually(t, w, "enough have ended", func() bool {
		_, all := f.of("")
		return fullShares && time.Since(began) > 10*time.Second || !fullShares && all > enough
	})
	after := f.now()
	total, worst := 0, 0.0
	for id := range weights {
		total += after[id] - before[id]
		if after[id] >= queued {
			t.Fatalf("tenant %s has nothing left to share: %d", id, after[id])
		}
	}
	for id, weight := range weights {
		got, want := float64(after[id]-before[id]), float64(total*weight)/float64(sum)
		off := max(got-want, want-got)
		if slack := 0.1*want + float64(64*weight)/float64(sum); off > slack && !fullShares || off > 0.1*want && fullShares {
			t.Errorf("tenant %s of weight %d finished %v jobs, its share is %.0f", id, weight, got, want)
		}
		worst = max(worst, 100*off/want)
	}
	rate := float64(total) / time.Since(began).Seconds()
	t.Logf("%d jobs of %d tenants at %.0f/s: the worst share is off by %.1f %%", total, tenants, rate, worst)
	if fullShares {
		fmt.Printf("figure shares_worst_deviation %.2f %%\nfigure shares_jobs_per_s %.0f jobs/s\n", worst, rate)
	}
}

func TestFloodDoesNotStarveOthers(t *testing.T) {
	flood, small, each := 3000, 5, 20
	if fullShares {
		flood, small = 100_000, 20
	}
	w := newWorld(t, nil)
	w.patient()
	clients := map[string]*client.Client{}
	for i := range small {
		id := fmt.Sprintf("small%02d", i)
		clients[id] = w.tenant(id, job.Share{})
	}
	_, err := w.client.SetTenant(w.ctx, "flood", api.TenantSettings{})
	must(t, err)
	f := &finished{byTenant: map[string]int{}}
	w.fill("flood", flood)
	w.work(8, f.fiveMilliseconds)
	eventually(t, w, "the flood is under way", func() bool { n, _ := f.of("flood"); return n > 50 })

	var mu sync.Mutex
	var firsts, lasts time.Duration
	var waiting sync.WaitGroup
	before, _ := f.of("flood")
	for id, c := range clients {
		waiting.Go(func() {
			first, last, err := w.smallBatch(c, each)
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				t.Errorf("tenant %s: %v", id, err)
			}
			firsts, lasts = max(firsts, first), max(lasts, last)
		})
	}
	waiting.Wait()
	after, _ := f.of("flood")
	t.Logf("first results within %v, last within %v; %d of the flood meanwhile", firsts, lasts, after-before)
	if left := flood - after; left <= 0 {
		t.Fatal("the flood is over: nothing was shown")
	}
	// What had been released when they came is before them, then all share.
	if most := 512 + 3*each + each*small; after-before > most && !fullShares {
		t.Errorf("%d of the flood went before the last of the small ones, at most %d should", after-before, most)
	}
	if fullShares {
		fmt.Printf("figure flood_first_result %d ms\nfigure flood_last_result %d ms\n", firsts.Milliseconds(), lasts.Milliseconds())
		if firsts > time.Second || lasts > 5*time.Second {
			t.Errorf("too late")
		}
	}
}

// smallBatch submits n jobs and says when their first and last results came.
func (w *world) smallBatch(c *client.Client, n int) (first, last time.Duration, err error) {
	began, batch := time.Now(), client.NewBatch()
	var body strings.Builder
	for i := range n {
		fmt.Fprintf(&body, `{"key":"k%d","image":"python","command":["true"]}`+"\n", i)
	}
	if err := c.SubmitMany(w.ctx, batch, strings.NewReader(body.String()), func(api.LineAnswer) error { return nil }); err != nil {
		return 0, 0, err
	}
	results := 0
	err = c.BatchResults(w.ctx, batch, client.ResultOptions{Follow: true}, func(api.BatchResult) error {
		if results++; results == 1 {
			first = time.Since(began)
		}
		last = time.Since(began)
		return nil
	})
	if err == nil && results != n {
		err = fmt.Errorf("%d results of %d", results, n)
	}
	return first, last, err
}

func TestCapOnRunningIsNeverExceeded(t *testing.T) {
	w := newWorld(t, nil)
	_, err := w.client.SetTenant(w.ctx, "capped", api.TenantSettings{Share: job.Share{MaxRunning: 3}})
	must(t, err)
	_, err = w.as(token, "default").SetQueue(w.ctx, "narrow", api.QueueSettings{Share: job.Share{MaxRunning: 1}})
	must(t, err)
	w.fill("capped", 60)
	w.fill("default", 100)
	for range 20 {
		in := echo("x")
		in.Queue = "narrow"
		_, err := w.client.Submit(w.ctx, in, 0)
		must(t, err)
	}
	var mu sync.Mutex
	running, most := map[string]int{}, map[string]int{}
	f := &finished{byTenant: map[string]int{}}
	w.work(8, func(rec job.Record) (job.State, *job.Result) {
		names := []string{rec.Tenant, rec.Tenant + "/" + rec.Queue}
		mu.Lock()
		for _, n := range names {
			running[n]++
			most[n] = max(most[n], running[n])
		}
		mu.Unlock()
		state, result := f.fiveMilliseconds(rec)
		mu.Lock()
		for _, n := range names {
			running[n]--
		}
		mu.Unlock()
		return state, result
	})
	eventually(t, w, "all have ended", func() bool { _, all := f.of(""); return all == 180 })
	if most["capped"] != 3 || most["default/narrow"] != 1 || most["default"] < 4 {
		t.Errorf("at most %v ran at once", most)
	}
}

func TestPausedJobsWaitUntilTheyAreResumed(t *testing.T) {
	w := newWorld(t, nil)
	pause := func(paused bool) {
		_, err := w.client.SetTenant(w.ctx, "acme", api.TenantSettings{Share: job.Share{Paused: paused}})
		must(t, err)
	}
	pause(true)
	w.fill("acme", 10)
	w.fill("default", 20)
	f := &finished{byTenant: map[string]int{}}
	w.work(4, f.fiveMilliseconds)
	eventually(t, w, "the others have ended", func() bool { n, _ := f.of("default"); return n == 20 })
	if n, _ := f.of("acme"); n != 0 {
		t.Fatalf("%d ran while paused", n)
	}
	began := time.Now()
	pause(false)
	eventually(t, w, "it goes on", func() bool { n, _ := f.of("acme"); return n > 0 })
	t.Logf("went on after %v", time.Since(began).Round(time.Millisecond))
	eventually(t, w, "it has ended", func() bool { n, _ := f.of("acme"); return n == 10 })
}

func TestRateBoundsHowManyStart(t *testing.T) {
	w := newWorld(t, nil)
	_, err := w.client.SetQueue(w.ctx, "default", api.QueueSettings{Share: job.Share{Rate: job.Rate{PerSecond: 20, Burst: 5}}})
	must(t, err)
	w.fill("default", 25)
	f := &finished{byTenant: map[string]int{}}
	began := time.Now()
	w.work(8, f.fiveMilliseconds)
	eventually(t, w, "all have ended", func() bool { _, all := f.of(""); return all == 25 })
	// Five at once, perhaps before the worker came, then one each 50 ms.
	if took := time.Since(began); took < 700*time.Millisecond {
		t.Errorf("25 jobs took %v at 20 a second with a burst of 5", took)
	}
}

func TestExplainSaysWhatInTheSharesKeepsAJobWaiting(t *testing.T) {
	w := newWorld(t, nil)
	acme := w.tenant("acme", job.Share{Weight: 3, MaxRunning: 1})
	other := w.tenant("other", job.Share{Weight: 1})
	release := make(chan struct{})
	w.work(1, func(job.Record) (job.State, *job.Result) { <-release; return job.Succeeded, nil })
	defer close(release)
	for _, c := range []*client.Client{acme, acme, other} {
		_, err := c.Submit(w.ctx, echo("x"), 0)
		must(t, err)
	}
	held := echo("x")
	held.Queue = "night"
	_, err := acme.SetQueue(w.ctx, "night", api.QueueSettings{Share: job.Share{Paused: true, Rate: job.Rate{PerSecond: 5}}})
	must(t, err)
	j, err := acme.Submit(w.ctx, held, 0)
	must(t, err)
	want := []string{
		`It waits because tenant "acme" is at its cap of running jobs, 1 of 1`,
		`It waits because queue "night" is paused; ` + "`sandlot queues set night --paused=false`",
		`At most 5 jobs of queue "night" start in a second, and 5 at once.`,
		`with one job of its tenant of the same or a better priority before it; other tenants with waiting jobs: 1, and its own has 3 of 4 parts, 75 %.`,
	}
	var told string
	eventually(t, w, "the first job runs", func() bool {
		e, err := acme.Explain(w.ctx, j.ID)
		must(t, err)
		told = strings.Join(e.Sentences, "\n")
		return strings.Contains(told, want[0])
	})
	for _, text := range want {
		if !strings.Contains(told, text) {
			t.Errorf("lacks %q:\n%s", text, told)
		}
	}
}

func TestExplainSaysThatNobodyLeadsThePool(t *testing.T) {
	w := newWorld(t, func(c *scheduler.Config) { c.Gateway = true })
	j, err := w.client.Submit(w.ctx, echo("x"), 0)
	must(t, err)
	e, err := w.client.Explain(w.ctx, j.ID)
	must(t, err)
	if told := strings.Join(e.Sentences, "\n"); !strings.Contains(told, "No scheduler leads pool main, so no more of its jobs are released") {
		t.Error(told)
	}
}

func TestExplainSaysThatAnItemIsNoJobYet(t *testing.T) {
	w := newWorld(t, nil)
	b := w.uploaded(lines(300))
	eventually(t, w, "the first items are jobs", func() bool {
		e, err := w.client.Explain(w.ctx, job.ItemID(b.ID, 299))
		must(t, err)
		return e.Sentences[0] == "It is item 299 of its batch and no job yet: 256 of the 300 items are or were, and more become jobs as those end."
	})
	first, err := w.client.Explain(w.ctx, job.ItemID(b.ID, 0))
	must(t, err)
	if told := strings.Join(first.Sentences, "\n"); strings.Contains(told, "no job yet") || !strings.Contains(told, "No worker of class s") {
		t.Error(told)
	}
}

func TestMetricsTellTheDemandOfAPoolAndWhatEachTenantGets(t *testing.T) {
	w := newWorld(t, nil)
	w.tenant("acme", job.Share{MaxQueued: 20})
	for range 21 {
		_, err := w.as(token, "acme").Submit(w.ctx, echo("x"), 0)
		if err != nil && problem(t, err).Status != 429 {
			t.Fatal(err)
		}
	}
	metrics := func() string { _, _, body := w.ask("GET", "/metrics", "", ""); return string(body) }
	eventually(t, w, "the first are released", func() bool { return strings.Contains(metrics(), `sandlot_jobs_released_total{tenant="acme"}`) })
	// Some are released, some not; one that is being moved counts twice for a moment.
	eventually(t, w, "the demand is all of them", func() bool { return strings.Contains(metrics(), `sandlot_pool_demand{class="s",pool="main"} 20`) })
	told := metrics()
	for _, want := range []string{
		`sandlot_jobs_refused_total{code="429",reason="full",tenant="acme"} 1`,
		`sandlot_queue_backlog{queue="default",state="queued",tenant="acme"} 20`,
	} {
		if !strings.Contains(told, want) {
			t.Errorf("lacks %s", want)
		}
	}
	f := &finished{byTenant: map[string]int{}}
	w.work(4, f.fiveMilliseconds)
	eventually(t, w, "there is no demand left", func() bool {
		told := metrics()
		return strings.Contains(told, `sandlot_pool_demand{class="s",pool="main"} 0`) && strings.Contains(told, `sandlot_jobs_released_total{tenant="acme"} 20`)
	})
}

func TestKEDAExampleAsksForWhatThereIs(t *testing.T) {
	example, err := os.ReadFile("../deploy/kubernetes/keda.yaml")
	must(t, err)
	if query := "max(" + telemetry.MetricDemand + `{pool="main",class="s"})`; !strings.Contains(string(example), query) {
		t.Errorf("lacks %s", query)
	}
}
