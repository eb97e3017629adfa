package scheduler_test

import (
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sandlot-dev/sandlot/pkg/api"
	"github.com/sandlot-dev/sandlot/pkg/job"
	"github.com/sandlot-dev/sandlot/pkg/queue"
	"github.com/sandlot-dev/sandlot/scheduler"
)

// workIn runs a worker of a pool whose jobs all succeed.
func (w *world) workIn(id, pool string, classes ...string) {
	w.t.Helper()
	w.workAs(queue.Worker{ID: id, Pool: pool, Classes: classes, Slots: 1, CPU: 8, Memory: 64 << 30, Started: time.Now()}, succeed)
}

// explained is the last of what is said of a job.
func (w *world) explained(id string) string {
	w.t.Helper()
	e, err := w.client.Explain(w.ctx, id)
	must(w.t, err)
	return e.Sentences[len(e.Sentences)-1]
}

func TestJobRunsInThePoolAndClassThatItNames(t *testing.T) {
	w := newWorld(t, nil)
	_, err := w.client.SetPool(w.ctx, "gpu", api.PoolSettings{Classes: []job.Class{{Name: "m", CPU: 2, Memory: job.GiB}, {Name: "l", CPU: 8}}})
	must(t, err)
	w.workIn("w-l", "gpu", "l")
	w.workIn("w-main", "main", "s")
	named, large := echo("x"), echo("x")
	named.Pool, named.Class = "gpu", "l"
	large.Pool, large.Limits.CPU = "gpu", 4
	for name, want := range map[string]struct {
		submit              api.Submit
		pool, class, worker string
	}{
		"both named":       {named, "gpu", "l", "w-l"},
		"first that fits":  {large, "gpu", "l", "w-l"},
		"nothing is named": {echo("x"), "main", "s", "w-main"},
	} {
		done, err := w.client.Submit(w.ctx, want.submit, 20*time.Second)
		must(t, err)
		if done.Pool != want.pool || done.Class != want.class || done.Worker != want.worker || done.State != job.Succeeded {
			t.Errorf("%s: %s in %s/%s on %s", name, done.State, done.Pool, done.Class, done.Worker)
		}
	}
	small := echo("x")
	small.Pool = "gpu"
	waiting, err := w.client.Submit(w.ctx, small, 0)
	must(t, err)
	if said := w.explained(waiting.ID); waiting.Class != "m" || said != "No worker of class m of pool gpu is registered; start one with `sandlot worker --pool gpu --class m`." {
		t.Errorf("class %s: %s", waiting.Class, said)
	}
}

func TestPoolOrClassThatCannotBeIsRefused(t *testing.T) {
	w := newWorld(t, nil)
	_, err := w.client.SetPool(w.ctx, "gpu", api.PoolSettings{Classes: []job.Class{{Name: "m", CPU: 2}, {Name: "l", CPU: 8, Memory: 2 * job.GiB}}})
	must(t, err)
	for name, c := range map[string]struct {
		pool, class    string
		cpu            float64
		memory         job.Bytes
		location, says string
	}{
		"unknown pool":        {pool: "cpu", location: "pool", says: "is not known; there are gpu, main"},
		"unknown class":       {pool: "gpu", class: "s", location: "class", says: "is no class of pool gpu; it has m, l"},
		"too large for class": {pool: "gpu", class: "m", cpu: 3, location: "limits.cpu", says: "more than class m of pool gpu takes, 2 cores"},
		"too large for all":   {pool: "gpu", cpu: 9, location: "limits.cpu", says: "more than any class of pool gpu takes, 8 cores"},
		"nowhere both":        {pool: "gpu", cpu: 4, memory: 4 * job.GiB, location: "limits", says: "together are more than any class of pool gpu takes"},
	} {
		in := echo("x")
		in.Pool, in.Class, in.Limits.CPU, in.Limits.Memory = c.pool, c.class, c.cpu, c.memory
		_, err := w.client.Submit(w.ctx, in, 0)
		p := problem(t, err)
		if p.Status != http.StatusUnprocessableEntity || len(p.Errors) == 0 {
			t.Errorf("%s: %v", name, p)
			continue
		}
		at := slices.IndexFunc(p.Errors, func(e api.FieldError) bool { return e.Location == c.location })
		if at < 0 || !strings.Contains(p.Errors[at].Message, c.says) {
			t.Errorf("%s: %+v", name, p.Errors)
		}
	}
	_, err = w.client.SetPool(w.ctx, "Bad Name", api.PoolSettings{})
	if p := problem(t, err); p.Status != http.StatusUnprocessableEntity {
		t.Errorf("bad name: %v", p)
	}
	_, err = w.client.SetPool(w.ctx, "x", api.PoolSettings{Classes: []job.Class{{Name: "a"}, {Name: "a"}, {Name: "B!", CPU: -1, Memory: 1}}})
	if p := problem(t, err); len(p.Errors) != 4 {
		t.Errorf("bad classes: %+v", p.Errors)
	}
	acme := w.tenant("acme", job.Share{})
	if _, err := acme.SetPool(w.ctx, "mine", api.PoolSettings{}); problem(t, err).Status != http.StatusForbidden {
		t.Errorf("a tenant sets a pool: %v", err)
	}
	if pools, err := acme.Pools(w.ctx); err != nil || len(pools) != 2 {
		t.Errorf("a tenant lists pools: %v %v", pools, err)
	}
}

func TestPoolWithJobsOrWorkersStays(t *testing.T) {
	w := newWorld(t, nil)
	for _, name := range []string{"gpu", "idle"} {
		_, err := w.client.SetPool(w.ctx, name, api.PoolSettings{Classes: []job.Class{{Name: "m"}, {Name: "l"}}})
		must(t, err)
	}
	in := echo("x")
	in.Pool, in.Class = "gpu", "l"
	waiting, err := w.client.Submit(w.ctx, in, 0)
	must(t, err)
	w.workIn("w1", "idle", "m")
	eventually(t, w, "the worker is known", func() bool {
		all, err := w.client.Workers(w.ctx)
		return err == nil && len(all) == 1
	})
	for what, try := range map[string]func() error{
		"remove with a job":    func() error { return w.client.RemovePool(w.ctx, "gpu") },
		"remove with a worker": func() error { return w.client.RemovePool(w.ctx, "idle") },
		"remove the default":   func() error { return w.client.RemovePool(w.ctx, "main") },
		"leave out the class": func() error {
			_, err := w.client.SetPool(w.ctx, "gpu", api.PoolSettings{Classes: []job.Class{{Name: "m"}}})
			return err
		},
	} {
		if p := problem(t, try()); p.Status != http.StatusConflict {
			t.Errorf("%s: %v", what, p)
		}
	}
	_, err = w.client.Cancel(w.ctx, waiting.ID)
	must(t, err)
	eventually(t, w, "the pool is empty", func() bool { return w.client.RemovePool(w.ctx, "gpu") == nil })
	if err := w.client.RemovePool(w.ctx, "gpu"); problem(t, err).Status != http.StatusNotFound {
		t.Errorf("removed twice: %v", err)
	}
	if _, err := w.client.Submit(w.ctx, in, 0); problem(t, err).Status != http.StatusUnprocessableEntity {
		t.Errorf("submit to a pool that was removed: %v", err)
	}
}

func TestPausedPoolKeepsWaitingWhatIsReleasedToo(t *testing.T) {
	w := newWorld(t, nil)
	var ids []string
	for range 4 { // released, since nobody asks yet
		j, err := w.client.Submit(w.ctx, echo("x"), 0)
		must(t, err)
		ids = append(ids, j.ID)
	}
	eventually(t, w, "all are released", func() bool {
		p, err := w.client.Pool(w.ctx, "main")
		return err == nil && p.Classes[0].Ready == len(ids)
	})
	_, err := w.client.SetPool(w.ctx, "main", api.PoolSettings{Paused: true})
	must(t, err)
	w.workIn("w1", "main", "s")
	j, err := w.client.Submit(w.ctx, echo("x"), 500*time.Millisecond)
	must(t, err)
	if j.State != job.Queued || !strings.Contains(w.explained(j.ID), "Pool main is paused") {
		t.Errorf("%s: %s", j.State, w.explained(j.ID))
	}
	for _, id := range ids {
		if got, err := w.client.Get(w.ctx, id); err != nil || got.State != job.Queued {
			t.Errorf("a job that was released is %s, %v", got.State, err)
		}
	}
	_, err = w.client.SetPool(w.ctx, "main", api.PoolSettings{})
	must(t, err)
	for _, id := range append(ids, j.ID) {
		if done, err := w.client.Wait(w.ctx, id); err != nil || done.State != job.Succeeded {
			t.Errorf("resumed: %s, %v", done.State, err)
		}
	}
}

func TestWorkersShowTheirClasses(t *testing.T) {
	w := newWorld(t, nil)
	_, err := w.client.SetPool(w.ctx, "main", api.PoolSettings{Classes: []job.Class{{Name: "s"}, {Name: "m"}}})
	must(t, err)
	w.workIn("w1", "main", "s", "m")
	var all []api.Worker
	eventually(t, w, "the worker is known", func() bool { all, err = w.client.Workers(w.ctx); return err == nil && len(all) == 1 })
	if !slices.Equal(all[0].Classes, []string{"s", "m"}) {
		t.Fatalf("%+v", all[0])
	}
	p, err := w.client.Pool(w.ctx, "main")
	must(t, err)
	if len(p.Classes) != 2 || p.Classes[1].Workers != 1 || p.Classes[1].Slots != 1 {
		t.Fatalf("%+v", p)
	}
}

func TestGatewayKnowsThePoolsAndMakesNone(t *testing.T) {
	w := newWorld(t, func(c *scheduler.Config) { c.Gateway = true })
	_, _, err := w.queue.SetPool(w.ctx, job.Pool{Name: "gpu", Classes: []job.Class{{Name: "m"}}, Paused: true}, 0)
	must(t, err)
	in := echo("x")
	in.Pool = "gpu"
	eventually(t, w, "it accepts jobs of the pool", func() bool {
		j, err := w.client.Submit(w.ctx, in, 0)
		return err == nil && strings.Contains(w.explained(j.ID), "Pool gpu is paused")
	})
	for what, try := range map[string]func() error{
		"set":    func() error { _, err := w.client.SetPool(w.ctx, "x", api.PoolSettings{}); return err },
		"remove": func() error { return w.client.RemovePool(w.ctx, "gpu") },
	} {
		if p := problem(t, try()); p.Status != http.StatusServiceUnavailable || !strings.Contains(p.Detail, "gateway") {
			t.Errorf("%s: %v", what, p)
		}
	}
}
