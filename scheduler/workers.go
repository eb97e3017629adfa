package scheduler

import (
	"cmp"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/sandlot-dev/sandlot/pkg/api"
	"github.com/sandlot-dev/sandlot/pkg/job"
	"github.com/sandlot-dev/sandlot/pkg/queue"
)

// workers is who lives, as the WORKERS keys say.
type workers struct {
	mu     sync.RWMutex
	byID   map[string]queue.Worker
	listed bool
}

func newWorkers() *workers { return &workers{byID: map[string]queue.Worker{}} }

// apply folds one change in.
func (w *workers) apply(c queue.WorkerChange) {
	w.mu.Lock()
	defer w.mu.Unlock()
	switch key := c.Worker.Pool + "/" + c.Worker.ID; {
	case c.Listed:
		w.listed = true
	case c.Gone:
		delete(w.byID, key)
	default:
		w.byID[key] = c.Worker
	}
}

// all are the workers by pool and id.
func (w *workers) all() []queue.Worker {
	w.mu.RLock()
	defer w.mu.RUnlock()
	list := make([]queue.Worker, 0, len(w.byID))
	for _, one := range w.byID {
		list = append(list, one)
	}
	slices.SortFunc(list, func(a, b queue.Worker) int {
		return cmp.Or(strings.Compare(a.Pool, b.Pool), strings.Compare(a.ID, b.ID))
	})
	return list
}

// admit refuses a job that none of the workers of its class can run. Without
// any worker the job is accepted and waits for one.
func (w *workers) admit(pool, class string, l job.Limits) error {
	var unfit []api.Unfit
	var largest api.Size
	fit := 0
	for _, one := range w.all() {
		if !one.Serves(pool, class) {
			continue
		}
		if len(one.Unfit) > 0 {
			unfit = append(unfit, unfitOf(one)...)
			continue
		}
		fit++
		if (one.CPU == 0 || l.CPU <= one.CPU) && (one.Memory == 0 || l.Memory <= job.Bytes(one.Memory)) {
			return nil
		}
		largest.CPU = max(largest.CPU, one.CPU)
		largest.Memory = max(largest.Memory, job.Bytes(one.Memory))
	}
	switch {
	case fit > 0:
		return tooLarge(l, largest)
	case len(unfit) > 0:
		p := api.NewProblem(http.StatusServiceUnavailable, api.TypeUnfit, "no worker can enforce %s", limitsOf(unfit))
		for _, u := range unfit {
			p.Errors = append(p.Errors, api.FieldError{Location: u.Limit, Message: u.Why})
		}
		return p
	}
	return nil
}

func tooLarge(l job.Limits, largest api.Size) error {
	var errors []api.FieldError
	if l.CPU > largest.CPU {
		errors = append(errors, api.FieldError{Location: "limits.cpu", Value: l.CPU,
			Message: fmt.Sprintf("is more than any worker has; the largest has %g cores", largest.CPU)})
	}
	if l.Memory > largest.Memory {
		errors = append(errors, api.FieldError{Location: "limits.memory", Value: int64(l.Memory),
			Message: fmt.Sprintf("is more than any worker can give; the largest gives %s", largest.Memory/job.MiB*job.MiB)})
	}
	if len(errors) == 0 { // each fits somewhere, but not in one place
		errors = append(errors, api.FieldError{Location: "limits",
			Message: fmt.Sprintf("no single worker has both %g cores and %s of memory", l.CPU, l.Memory)})
	}
	return api.Invalid(errors)
}

// unfitOf reads the reasons of a worker, written "limits.pids: why".
func unfitOf(w queue.Worker) []api.Unfit {
	var list []api.Unfit
	for _, reason := range w.Unfit {
		limit, why, _ := strings.Cut(reason, ":")
		limit = strings.TrimSpace(limit)
		if !strings.Contains(limit, ".") {
			limit = "limits." + limit
		}
		list = append(list, api.Unfit{Limit: limit, Why: strings.TrimSpace(why)})
	}
	return list
}

func limitsOf(unfit []api.Unfit) string {
	var names []string
	for _, u := range unfit {
		if !slices.Contains(names, u.Limit) {
			names = append(names, u.Limit)
		}
	}
	slices.Sort(names)
	return strings.Join(names, ", ")
}

// slots counts the places of the workers that take jobs of a class, and how
// many of them are taken.
func (w *workers) slots(pool, class string) (fit, slots, busy int) {
	for _, one := range w.all() {
		if one.Fit() && one.Serves(pool, class) {
			fit++
			slots += one.Slots
			busy += len(one.Held)
		}
	}
	return fit, slots, busy
}

// heldOf are the jobs of a tenant that a worker holds.
func heldOf(w queue.Worker, tenant string) []string {
	var held []string
	for _, h := range w.Held {
		if h.Tenant == tenant {
			held = append(held, h.Job)
		}
	}
	return held
}

// inPool counts the workers of a pool.
func (w *workers) inPool(pool string) (n int) {
	for _, one := range w.all() {
		if one.Pool == pool {
			n++
		}
	}
	return n
}

// viewWorker is a worker as a client sees it.
func viewWorker(w queue.Worker) api.Worker {
	v := api.Worker{
		ID: w.ID, Pool: w.Pool, Classes: w.Classes, State: api.WorkerReady, Unfit: unfitOf(w), Slots: w.Slots, Busy: len(w.Held),
		Largest: api.Size{CPU: w.CPU, Memory: job.Bytes(w.Memory)}, Images: w.Images, Labels: w.Labels,
		Runtime:   job.Runtime{Runsc: w.Versions["runsc"], Containerd: w.Versions["containerd"], Sandlot: w.Versions["sandlot"]},
		StartedAt: w.Started, SeenAt: w.SeenAt, Why: w.Why, Quarantined: w.Quarantined,
		Memory: job.Bytes(w.Room), MemoryTaken: job.Bytes(w.Taken()), Spares: w.Spares,
	}
	for _, h := range w.Held {
		v.Jobs = append(v.Jobs, h.Job)
	}
	switch {
	case len(w.Unfit) > 0:
		v.State = api.WorkerUnfit
	case w.Draining:
		v.State = api.WorkerDraining
	case w.Quarantined.After(time.Now()):
		v.State = api.WorkerQuarantined
	}
	return v
}
