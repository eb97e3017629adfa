package scheduler

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/sandlot-dev/sandlot/pkg/api"
	"github.com/sandlot-dev/sandlot/pkg/job"
	"github.com/sandlot-dev/sandlot/pkg/queue"
)

func (s *Scheduler) handlePools(w http.ResponseWriter, r *http.Request) error {
	list := []api.Pool{}
	pools, err := s.pools(r.Context())
	if err != nil {
		return err
	}
	for _, p := range pools {
		v, err := s.viewPool(r.Context(), p)
		if err != nil {
			return err
		}
		list = append(list, v)
	}
	return writeJSON(w, http.StatusOK, api.Pools{Pools: list})
}

func (s *Scheduler) handlePool(w http.ResponseWriter, r *http.Request) error {
	p, revision, err := s.Queue.Pool(r.Context(), r.PathValue("pool"))
	if errors.Is(err, job.ErrNotFound) {
		return s.unknownPool(r.Context(), r.PathValue("pool"))
	}
	if err != nil {
		return fmt.Errorf("read pool: %w", err)
	}
	v, err := s.viewPool(r.Context(), p)
	if err != nil {
		return err
	}
	v.Revision = revision
	return writeJSON(w, http.StatusOK, v)
}

// ofGateway refuses what takes a scheduler: streams come and go with pools.
func ofGateway() error {
	return api.NewProblem(http.StatusServiceUnavailable, api.TypeUnavailable, "this server is a gateway, which makes and removes no pools; ask a scheduler that releases jobs")
}

func (s *Scheduler) unknownPool(ctx context.Context, name string) error {
	pools, err := s.pools(ctx)
	if err != nil {
		return err
	}
	return api.NewProblem(http.StatusNotFound, api.TypeNotFound, "there is no pool %q; there are %s", clean(name), poolNames(pools))
}

// viewPool is a pool with what stands in it at the moment.
func (s *Scheduler) viewPool(ctx context.Context, p job.Pool) (api.Pool, error) {
	v := api.Pool{Name: p.Name, Paused: p.Paused, UpdatedAt: p.UpdatedAt}
	lanes, err := s.Queue.Lanes(ctx, p.Name, queue.EveryClass)
	if err != nil {
		return v, fmt.Errorf("view pool: %w", err)
	}
	for _, c := range p.Classes {
		one := api.PoolClass{Class: c}
		depth, err := s.Queue.Depth(ctx, p.Name, c.Name)
		if err != nil {
			return v, fmt.Errorf("view pool: %w", err)
		}
		one.Ready, one.Running = depth.Waiting, depth.Held
		one.Workers, one.Slots, one.Busy = s.workers.slots(p.Name, c.Name)
		for _, lane := range lanes {
			if lane.Class == c.Name {
				one.Queued += int(lane.Backlog)
			}
		}
		v.Classes = append(v.Classes, one)
	}
	return v, nil
}

func (s *Scheduler) handlePutPool(w http.ResponseWriter, r *http.Request) error {
	name := r.PathValue("pool")
	if s.Gateway {
		return ofGateway()
	}
	if why := api.BadPool(name); why != "" {
		return invalid("pool", clean(name), "%s", why)
	}
	in, err := decoded(s, w, r, api.DecodePoolSettings)
	if err != nil {
		return err
	}
	set := job.NewPool(name)
	if in.Classes != nil {
		set.Classes = in.Classes
	}
	set.Paused = in.Paused
	set, revision, err := s.setPool(r.Context(), set, in.Revision)
	if err != nil {
		return err
	}
	v, err := s.viewPool(r.Context(), set)
	if err != nil {
		return err
	}
	v.Revision = revision
	return writeJSON(w, http.StatusOK, v)
}

// setPool stores a pool by compare-and-set, again if somebody else was
// faster, unless revision says which settings are meant.
func (s *Scheduler) setPool(ctx context.Context, set job.Pool, revision uint64) (job.Pool, uint64, error) {
	for {
		before, have, err := s.Queue.Pool(ctx, set.Name)
		switch {
		case errors.Is(err, job.ErrNotFound):
			if err := s.roomForPool(ctx); err != nil {
				return set, 0, err
			}
		case err != nil:
			return set, 0, fmt.Errorf("read pool: %w", err)
		}
		if revision != 0 && revision != have {
			return set, 0, changedMeanwhile(have)
		}
		for _, c := range before.Classes {
			if _, stays := set.Class(c.Name); !stays {
				if err := s.emptyClass(ctx, set.Name, c.Name); err != nil {
					return set, 0, err
				}
			}
		}
		stored, now, err := s.Queue.SetPool(ctx, set, have)
		if errors.Is(err, queue.ErrChanged) {
			continue
		}
		if err != nil {
			return set, 0, fmt.Errorf("set pool: %w", err)
		}
		return stored, now, s.lead.led.await(ctx, func(known []job.Pool) bool {
			return slices.ContainsFunc(known, func(p job.Pool) bool { return p.Name == stored.Name && !p.UpdatedAt.Before(stored.UpdatedAt) })
		})
	}
}

func (s *Scheduler) roomForPool(ctx context.Context) error {
	pools, err := s.pools(ctx)
	if err == nil && len(pools) >= job.MaxPools {
		err = api.NewProblem(http.StatusConflict, api.TypeConflict, "there are %d pools, which is all that there may be; remove one first", len(pools))
	}
	return err
}

// emptyClass refuses while jobs wait or run in a class.
func (s *Scheduler) emptyClass(ctx context.Context, pool, class string) error {
	lanes, err := s.Queue.Lanes(ctx, pool, class)
	if err != nil {
		return fmt.Errorf("look into pool: %w", err)
	}
	depth, err := s.Queue.Depth(ctx, pool, class)
	if err != nil {
		return fmt.Errorf("look into pool: %w", err)
	}
	// What is ready may be of jobs that were canceled; the index knows.
	n := max(depth.Held, s.index.unfinishedIn(pool, class))
	for _, lane := range lanes {
		n += int(lane.Backlog)
	}
	if n > 0 {
		return api.NewProblem(http.StatusConflict, api.TypeNotFinal, "%s of class %q of pool %q have not ended; cancel them or wait for their end", jobs(n), class, pool)
	}
	return nil
}

func (s *Scheduler) handleDeletePool(w http.ResponseWriter, r *http.Request) error {
	name := r.PathValue("pool")
	if s.Gateway {
		return ofGateway()
	}
	if name == job.DefaultPool {
		return api.NewProblem(http.StatusConflict, api.TypeConflict, "the pool %q is always there; set it to {} to have nothing set for it", name)
	}
	p, revision, err := s.Queue.Pool(r.Context(), name)
	if errors.Is(err, job.ErrNotFound) {
		return s.unknownPool(r.Context(), name)
	}
	if err != nil {
		return fmt.Errorf("read pool: %w", err)
	}
	for _, c := range p.Classes {
		if err := s.emptyClass(r.Context(), name, c.Name); err != nil {
			return err
		}
	}
	if n := s.workers.inPool(name); n > 0 {
		return api.NewProblem(http.StatusConflict, api.TypeConflict, "%d workers are in pool %q; stop them first", n, name)
	}
	if err := s.Queue.RemovePool(r.Context(), name, revision); err != nil {
		if errors.Is(err, queue.ErrChanged) {
			return api.NewProblem(http.StatusConflict, api.TypeConflict, "the settings of pool %q were changed at the same time; try again", name)
		}
		return fmt.Errorf("remove pool: %w", err)
	}
	err = s.lead.led.await(r.Context(), func(known []job.Pool) bool {
		return !slices.ContainsFunc(known, func(p job.Pool) bool { return p.Name == name })
	})
	if err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

// pools are those there are, as this scheduler has heard.
func (s *Scheduler) pools(ctx context.Context) ([]job.Pool, error) {
	if known := s.lead.led.pools(); known != nil {
		return known, nil
	}
	pools, err := s.Queue.Pools(ctx)
	if err != nil {
		return nil, fmt.Errorf("read pools: %w", err)
	}
	return pools, nil
}

// placement is where a job waits and runs, and where else it may.
type placement struct {
	job.Place
	preferred string
	spill     *job.Spill
}

func (at placement) into(rec *job.Record) {
	rec.Pool, rec.Class, rec.Preferred, rec.Spill = at.Pool, at.Class, at.preferred, at.spill
}

// place is where a job runs: in the pool and the class that it names, else
// where its image prefers, else in the default pool, and there in the first
// class that is large enough.
func (s *Scheduler) place(ctx context.Context, spec job.Spec) (placement, error) {
	pools, err := s.pools(ctx)
	if err != nil {
		return placement{}, err
	}
	if prefer, ok := s.settings.preference(spec.Image.Name); ok && spec.Pool == "" {
		if at, ok := s.preferred(pools, prefer, spec); ok {
			return at, nil
		}
	}
	pool := spec.Pool
	setDefault(&pool, job.DefaultPool)
	i := slices.IndexFunc(pools, func(p job.Pool) bool { return p.Name == pool })
	if i < 0 {
		return placement{}, invalid("pool", clean(pool), "is not known; there are %s", poolNames(pools))
	}
	class, err := classIn(pools[i], spec)
	if err != nil {
		return placement{}, err
	}
	return placement{Place: job.Place{Pool: pool, Class: class}}, s.workers.admit(pool, class, spec.Limits)
}

// preferred is the first place that takes a job, of the pool that its image
// prefers and those to which it spills over; false if none does.
func (s *Scheduler) preferred(pools []job.Pool, prefer job.Preference, spec job.Spec) (at placement, ok bool) {
	var places []job.Place
	for _, name := range append([]string{prefer.Pool}, prefer.SpillTo...) {
		i := slices.IndexFunc(pools, func(p job.Pool) bool { return p.Name == name })
		if i < 0 {
			continue
		}
		if class, err := classIn(pools[i], spec); err == nil {
			places = append(places, job.Place{Pool: name, Class: class})
		}
	}
	for i, place := range places {
		if s.workers.admit(place.Pool, place.Class, spec.Limits) != nil {
			continue
		}
		at.Place = place
		if place.Pool == prefer.Pool {
			at.preferred = place.Pool
			if rest := places[i+1:]; len(rest) > 0 {
				at.spill = &job.Spill{After: prefer.SpillAfter, To: rest}
			}
		}
		return at, true
	}
	return at, false
}

func classIn(p job.Pool, spec job.Spec) (string, error) {
	if spec.Class == "" {
		for _, c := range p.Classes {
			if c.Takes(spec.Limits) {
				return c.Name, nil
			}
		}
		return "", api.Invalid(tooLargeFor(spec.Limits, fmt.Sprintf("any class of pool %s takes", p.Name), p.Classes...))
	}
	c, ok := p.Class(spec.Class)
	switch {
	case !ok:
		return "", invalid("class", clean(spec.Class), "is no class of pool %s; it has %s", p.Name, classNames(p.Classes))
	case !c.Takes(spec.Limits):
		return "", api.Invalid(tooLargeFor(spec.Limits, fmt.Sprintf("class %s of pool %s takes", c.Name, p.Name), c))
	}
	return c.Name, nil
}

// tooLargeFor names the limits that are above those of every class.
func tooLargeFor(l job.Limits, than string, classes ...job.Class) []api.FieldError {
	cpu := slices.MaxFunc(classes, func(a, b job.Class) int { return compareBounds(a.CPU, b.CPU) }).CPU
	memory := slices.MaxFunc(classes, func(a, b job.Class) int { return compareBounds(a.Memory, b.Memory) }).Memory
	var errors []api.FieldError
	if cpu > 0 && l.CPU > cpu {
		errors = append(errors, api.FieldError{Location: "limits.cpu", Value: l.CPU, Message: fmt.Sprintf("is more than %s, %g cores", than, cpu)})
	}
	if memory > 0 && l.Memory > memory {
		errors = append(errors, api.FieldError{Location: "limits.memory", Value: int64(l.Memory), Message: fmt.Sprintf("is more than %s, %s", than, memory)})
	}
	if len(errors) == 0 { // each fits somewhere, but not in one place
		errors = append(errors, api.FieldError{Location: "limits", Message: fmt.Sprintf("%g cores and %s of memory together are more than %s", l.CPU, l.Memory, than)})
	}
	return errors
}

// compareBounds orders bounds, of which 0 is none and so the largest.
func compareBounds[T float64 | job.Bytes](a, b T) int {
	if a == 0 || b == 0 {
		return cmp.Compare(b, a)
	}
	return cmp.Compare(a, b)
}

func poolNames(pools []job.Pool) string {
	var names []string
	for _, p := range pools {
		names = append(names, p.Name)
	}
	return strings.Join(names, ", ")
}

func classNames(classes []job.Class) string {
	var names []string
	for _, c := range classes {
		names = append(names, c.Name)
	}
	return strings.Join(names, ", ")
}

// poolTime bounds how long a change of a pool waits to be seen here.
const poolTime = 5 * time.Second

// await waits until this scheduler knows of a change of the pools.
func (p *ledPools) await(ctx context.Context, ok func([]job.Pool) bool) error {
	ctx, cancel := context.WithTimeout(ctx, poolTime)
	defer cancel()
	for {
		_, changed := p.look("")
		if ok(p.pools()) {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// pools are all that are known, nil before any are.
func (p *ledPools) pools() []job.Pool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.known
}
