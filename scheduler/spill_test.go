package scheduler_test

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/sandlot-dev/sandlot/pkg/api"
	"github.com/sandlot-dev/sandlot/pkg/job"
	"github.com/sandlot-dev/sandlot/pkg/queue"
)

// prefer makes the pool gpu and has the image python prefer it.
func (w *world) prefer(after job.Millis, to ...string) {
	w.t.Helper()
	_, err := w.client.SetPool(w.ctx, "gpu", api.PoolSettings{Classes: []job.Class{{Name: "m", CPU: 4}}})
	must(w.t, err)
	pool := "gpu"
	got, err := w.client.SetImage(w.ctx, "python", api.ImageSettings{Pool: &pool, SpillAfter: &after, SpillTo: &to})
	must(w.t, err)
	if got.Pool != pool || got.SpillAfter != after || len(got.SpillTo) != len(to) || !got.Present {
		w.t.Fatalf("set %+v", got)
	}
}

// tells waits until something said of a job contains text.
func (w *world) tells(id, text string) {
	w.t.Helper()
	said := ""
	defer func() {
		if w.t.Failed() {
			w.t.Logf("of %s is said: %s", id, said)
		}
	}()
	eventually(w.t, w, "it is said: "+text, func() bool {
		e, err := w.client.Explain(w.ctx, id)
		said = strings.Join(e.Sentences, " ")
		return err == nil && strings.Contains(said, text)
	})
}

func (w *world) await(id string) api.Job {
	w.t.Helper()
	done, err := w.client.Wait(w.ctx, id)
	must(w.t, err)
	return done
}

func TestImagePrefersAPoolWhereItIsServed(t *testing.T) {
	w := newWorld(t, nil)
	w.prefer(job.MaxSpillAfter, "main")
	w.workIn("w-gpu", "gpu", "m")
	w.workIn("w-main", "main", "s")
	named, large := echo("x"), echo("x")
	named.Pool, large.Limits.CPU = "main", 5
	for name, c := range map[string]struct {
		submit api.Submit
		pool   string
	}{
		"no pool is named":            {echo("x"), "gpu"},
		"another one is named":        {named, "main"},
		"it is too large for the one": {large, "main"},
	} {
		done, err := w.client.Submit(w.ctx, c.submit, 20*time.Second)
		must(t, err)
		if done.Pool != c.pool || done.State != job.Succeeded {
			t.Errorf("%s: %s in %s", name, done.State, done.Pool)
		}
	}
}

func TestJobSpillsOverThatWaitsTooLong(t *testing.T) {
	const after = job.Millis(4000)
	for name, prepare := range map[string]func(*world){
		"no worker is there": func(*world) {},
		"the pool is paused": func(w *world) { w.workIn("w-gpu", "gpu", "m"); w.pausePool("gpu") },
		"its tenant is at its cap": func(w *world) {
			_, err := w.client.SetTenant(w.ctx, job.DefaultTenant, api.TenantSettings{Share: job.Share{MaxRunning: 1}})
			must(w.t, err)
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, nil)
			w.prefer(after, "main")
			prepare(w)
			w.workIn("w-main", "main", "s")
			named := echo("x")
			named.Pool = "gpu"
			var ids []string
			for range 3 {
				accepted, err := w.client.Submit(w.ctx, echo("x"), 0)
				must(t, err)
				if accepted.Pool != "gpu" || accepted.Class != "m" {
					t.Fatalf("it went to %s/%s", accepted.Pool, accepted.Class)
				}
				ids = append(ids, accepted.ID)
			}
			w.tells(ids[2], "It waits in pool gpu, preferred by image python; spills over to main in ")
			for _, id := range ids {
				done := w.await(id)
				if waited := done.Timings.Claim.Sub(done.AcceptedAt); done.Pool != "main" || done.State != job.Succeeded || len(done.Attempts) != 1 || waited < after.Duration() {
					t.Errorf("%s in %s after %d attempts and %s", done.State, done.Pool, len(done.Attempts), waited)
				}
				w.tells(id, "It waited in pool gpu, preferred by image python, for too long and spilled over to main.")
			}
			stays, err := w.client.Submit(w.ctx, named, 0)
			must(t, err)
			eventually(t, w, "it has waited for longer than those did", func() bool { return time.Since(stays.AcceptedAt) > after.Duration()+time.Second })
			if now, err := w.client.Get(w.ctx, stays.ID); err != nil || now.Pool != "gpu" || now.State != job.Queued {
				t.Errorf("a job that names its pool is %s in %s, %v", now.State, now.Pool, err)
			}
		})
	}
}

func (w *world) pausePool(name string) {
	w.t.Helper()
	p, err := w.client.Pool(w.ctx, name)
	must(w.t, err)
	set := api.PoolSettings{Paused: true}
	for _, c := range p.Classes {
		set.Classes = append(set.Classes, c.Class)
	}
	_, err = w.client.SetPool(w.ctx, name, set)
	must(w.t, err)
}

func TestJobWaitsOnWhileItHasNowhereToSpillTo(t *testing.T) {
	w := newWorld(t, nil)
	w.prefer(1000, "main")
	accepted, err := w.client.Submit(w.ctx, echo("x"), 0)
	must(t, err)
	w.tells(accepted.ID, "it would spill over, but no worker takes jobs of class s of pool main.")
	w.pausePool("main")
	w.tells(accepted.ID, "it would spill over, but pool main is paused.")
	if now, err := w.client.Get(w.ctx, accepted.ID); err != nil || now.Pool != "gpu" {
		t.Fatalf("it is in %s, %v", now.Pool, err)
	}
	w.workIn("w-gpu", "gpu", "m")
	if done := w.await(accepted.ID); done.Pool != "gpu" || done.State != job.Succeeded {
		t.Errorf("%s in %s", done.State, done.Pool)
	}
}

func TestJobsThatSpillOverOutliveTheirScheduler(t *testing.T) {
	w := newWorld(t, nil)
	w.prefer(1000, "main")
	var ids []string
	for range 5 {
		accepted, err := w.client.Submit(w.ctx, echo("x"), 0)
		must(t, err)
		ids = append(ids, accepted.ID)
	}
	w.restart()
	w.workIn("w-main", "main", "s")
	for _, id := range ids {
		if done := w.await(id); done.Pool != "main" || len(done.Attempts) != 1 {
			t.Errorf("in %s after %d attempts", done.Pool, len(done.Attempts))
		}
	}
	out, err := w.queue.Out(w.ctx, "gpu")
	lanes, lanesErr := w.queue.Lanes(w.ctx, "gpu", queue.EveryClass)
	if err != nil || lanesErr != nil || len(out) != 0 || len(lanes) != 0 {
		t.Errorf("hints are left in gpu: %+v %+v", out, lanes)
	}
}

func TestItemsOfABatchSpillOver(t *testing.T) {
	w := newWorld(t, nil)
	w.prefer(1000, "main")
	w.workIn("w-main", "main", "s")
	b, err := w.client.UploadBatch(w.ctx, strings.NewReader(`{"key":"a","image":"python","command":["true"]}`+"\n"), -1)
	must(t, err)
	eventually(t, w, "the batch has ended", func() bool {
		now, err := w.client.Batch(w.ctx, b.ID)
		return err == nil && now.Final == 1
	})
}

func TestPreferenceThatCannotBeIsRefused(t *testing.T) {
	w := newWorld(t, nil)
	gpu, nowhere, bad, none := "gpu", "nowhere", "Bad Name", ""
	short, wait := job.Millis(1), job.Millis(5000)
	for name, c := range map[string]struct {
		image    string
		set      api.ImageSettings
		status   int
		location string
	}{
		"unknown pool":     {"python", api.ImageSettings{Pool: &nowhere}, http.StatusUnprocessableEntity, "pool"},
		"bad name":         {"python", api.ImageSettings{Pool: &bad}, http.StatusUnprocessableEntity, "pool"},
		"too short a wait": {"python", api.ImageSettings{SpillAfter: &short}, http.StatusUnprocessableEntity, "spill_after_ms"},
		"unknown target":   {"python", api.ImageSettings{SpillTo: &[]string{"main", "nowhere"}}, http.StatusUnprocessableEntity, "spill_to[1]"},
		"target twice":     {"python", api.ImageSettings{SpillTo: &[]string{"main", "main"}}, http.StatusUnprocessableEntity, "spill_to[1]"},
		"no pool so far":   {"python", api.ImageSettings{SpillAfter: &wait}, http.StatusUnprocessableEntity, "pool"},
		"unknown image":    {"no/such:image", api.ImageSettings{SpillTo: &[]string{"main"}}, http.StatusNotFound, ""},
	} {
		_, err := w.client.SetImage(w.ctx, c.image, c.set)
		p := problem(t, err)
		if p.Status != c.status || c.location != "" && (len(p.Errors) != 1 || p.Errors[0].Location != c.location) {
			t.Errorf("%s: %v", name, p)
		}
	}
	w.prefer(5000, "main")
	acme := w.tenant("acme", job.Share{})
	if _, err := acme.SetImage(w.ctx, "python", api.ImageSettings{Pool: &gpu}); problem(t, err).Status != http.StatusForbidden {
		t.Errorf("a tenant sets it: %v", err)
	}
	// One that is to be built can be set before, and forgotten.
	got, err := w.client.SetImage(w.ctx, "gcc", api.ImageSettings{Pool: &gpu})
	if err != nil || got.SpillAfter != job.DefaultSpillAfter || len(got.SpillTo) != 1 || got.Present {
		t.Errorf("%+v, %v", got, err)
	}
	if got, err := w.client.SetImage(w.ctx, "gcc", api.ImageSettings{Pool: &none}); err != nil || got.Pool != "" {
		t.Errorf("%+v, %v", got, err)
	}
	// Without the pool jobs go where they went before.
	must(t, w.client.RemovePool(w.ctx, "gpu"))
	if accepted, err := w.client.Submit(w.ctx, echo("x"), 0); err != nil || accepted.Pool != "main" {
		t.Errorf("in %s, %v", accepted.Pool, err)
	}
}
