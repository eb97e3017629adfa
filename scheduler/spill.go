package scheduler

import (
	"container/heap"
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/sandlot-dev/sandlot/pkg/job"
	"github.com/sandlot-dev/sandlot/pkg/queue"
)

const (
	// spillLook is how often is looked for jobs that are due to spill over,
	// and so how late that may be.
	spillLook = 250 * time.Millisecond
	// spillAgain is when one is looked at again that could not be placed.
	spillAgain = 10 * time.Second
	// spillAtOnce is how many of a pool spill over in one go.
	spillAtOnce = 256
)

// spills are the jobs that wait where their image prefers, by when they spill
// over, kept by the fold that keeps the index. They are grouped by where from
// and where to, so that the many that have nowhere to go cost one look.
type spills struct {
	s *Scheduler

	mu     sync.Mutex
	byID   map[string]*spilling
	routes map[spillRoute]*spillOrder
}

// spillRoute is a pool, and the places to which jobs spill over from it.
type spillRoute struct{ pool, to string }

// spilling is a job that may spill over.
type spilling struct {
	id, tenant string
	seq        uint64 // of its record
	due        time.Time
	route      spillRoute
	at         int // in its order
}

func newSpills(s *Scheduler) *spills {
	return &spills{s: s, byID: map[string]*spilling{}, routes: map[spillRoute]*spillOrder{}}
}

// apply folds one change of a record in. One that comes late may bring a job
// back that does not wait any more; its record says so when it is due.
func (p *spills) apply(c queue.Change) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if old := p.byID[c.ID]; old != nil {
		if old.seq >= c.Seq {
			return
		}
		p.remove(old)
	}
	if at := c.SpillAt(); !c.Removed && !at.IsZero() {
		p.add(&spilling{id: c.ID, tenant: shared(c.Tenant), seq: c.Seq, due: at, route: spillRoute{shared(c.Pool), shared(placeNames(c.Spill.To))}})
	}
}

func (p *spills) add(one *spilling) {
	p.byID[one.id] = one
	if p.routes[one.route] == nil {
		p.routes[one.route] = &spillOrder{}
	}
	heap.Push(p.routes[one.route], one)
}

func (p *spills) remove(one *spilling) {
	delete(p.byID, one.id)
	order := p.routes[one.route]
	if heap.Remove(order, one.at); order.Len() == 0 {
		delete(p.routes, one.route)
	}
}

// due takes out up to n jobs of a pool that are due and could be placed.
func (p *spills) due(pool string, now time.Time, n int) (list []*spilling) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for r, order := range p.routes {
		if r.pool != pool || (*order)[0].due.After(now) || !p.s.anyServed(placesOf(r.to)) {
			continue
		}
		for len(list) < n && order.Len() > 0 && !(*order)[0].due.After(now) {
			list = append(list, (*order)[0])
			p.remove((*order)[0])
		}
	}
	return list
}

// again puts a job back that was taken out, unless more is known of it by now.
func (p *spills) again(one *spilling, at time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.byID[one.id] == nil {
		one.due = at
		p.add(one)
	}
}

// run spills jobs over that wait in a pool, for as long as it is led here.
func (p *spills) run(ctx context.Context, pool string) error {
	look := time.NewTicker(spillLook)
	defer look.Stop()
	for {
		jobs := p.due(pool, time.Now(), spillAtOnce)
		if err := p.spill(ctx, jobs); err != nil && ctx.Err() == nil {
			p.s.log.Warn("spill jobs over", "pool", pool, "error", err)
		}
		if len(jobs) == spillAtOnce && ctx.Err() == nil {
			continue
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-look.C:
		}
	}
}

// spill moves jobs, and then takes away the hints that they had.
func (p *spills) spill(ctx context.Context, jobs []*spilling) error {
	var moved []queue.Summary
	var failed error
	for _, one := range jobs {
		served := true
		before, ok, err := p.s.Queue.Spill(ctx, one.tenant, one.id, func(rec job.Record) (place job.Place, found bool) {
			place, found = p.s.spillPlace(rec)
			served = found
			return place, found
		})
		switch {
		case err != nil:
			failed = errors.Join(failed, err)
			p.again(one, time.Now().Add(time.Second))
		case ok:
			moved = append(moved, before)
			p.s.lead.Counters.Spilled.Add(1)
		case !served:
			p.again(one, time.Now().Add(spillAgain))
		}
	}
	if len(moved) > 0 {
		failed = errors.Join(failed, p.s.Queue.Withdraw(ctx, moved...))
	}
	return failed
}

// spillPlace is where a job spills over to now; false if nowhere.
func (s *Scheduler) spillPlace(rec job.Record) (job.Place, bool) {
	if rec.Spill == nil {
		return job.Place{}, false
	}
	for _, place := range rec.Spill.To {
		if s.served(place) && s.takes(place, limitsOfRecord(rec)) {
			return place, true
		}
	}
	return job.Place{}, false
}

// served reports whether jobs of a class run at the moment: its pool is not
// paused, and a worker takes them.
func (s *Scheduler) served(place job.Place) bool {
	pool, _ := s.lead.led.look(place.Pool)
	if _, there := pool.Class(place.Class); !there || pool.Paused {
		return false
	}
	fit, _, _ := s.workers.slots(place.Pool, place.Class)
	return fit > 0
}

func (s *Scheduler) anyServed(places []job.Place) bool {
	for _, place := range places {
		if s.served(place) {
			return true
		}
	}
	return false
}

// takes reports whether a class, and one of its workers, is large enough.
func (s *Scheduler) takes(place job.Place, l job.Limits) bool {
	pool, _ := s.lead.led.look(place.Pool)
	class, there := pool.Class(place.Class)
	return there && class.Takes(l) && s.workers.admit(place.Pool, place.Class, l) == nil
}

func limitsOfRecord(rec job.Record) job.Limits {
	switch {
	case rec.Limits != nil:
		return *rec.Limits
	case rec.Spec != nil:
		return rec.Spec.Limits
	}
	return job.Limits{}
}

// placeNames writes places as one text, and placesOf reads it.
func placeNames(places []job.Place) string {
	names := make([]string, len(places))
	for i, p := range places {
		names[i] = p.Pool + "/" + p.Class
	}
	return strings.Join(names, " ")
}

func placesOf(text string) []job.Place {
	var places []job.Place
	for _, name := range strings.Fields(text) {
		pool, class, _ := strings.Cut(name, "/")
		places = append(places, job.Place{Pool: pool, Class: class})
	}
	return places
}

// spillOrder is a heap with the job on top that is due first.
type spillOrder []*spilling

func (o spillOrder) Len() int           { return len(o) }
func (o spillOrder) Less(i, j int) bool { return o[i].due.Before(o[j].due) }
func (o spillOrder) Swap(i, j int) {
	o[i], o[j] = o[j], o[i]
	o[i].at, o[j].at = i, j
}

// Push implements heap.Interface.
func (o *spillOrder) Push(x any) {
	one := x.(*spilling)
	one.at = len(*o)
	*o = append(*o, one)
}

// Pop implements heap.Interface.
func (o *spillOrder) Pop() any {
	last := len(*o) - 1
	one := (*o)[last]
	(*o)[last] = nil
	*o = (*o)[:last]
	return one
}

// explainPlace says why a job waits in a pool that it did not name, and where
// it goes when it has waited too long; empty if its image prefers none.
func (s *Scheduler) explainPlace(rec job.Record, now time.Time) string {
	switch {
	case rec.Preferred == "":
		return ""
	case rec.Pool != rec.Preferred:
		return fmt.Sprintf("It waited in pool %s, preferred by image %s, for too long and spilled over to %s.", rec.Preferred, rec.Image.Name, rec.Pool)
	case rec.State != job.Queued && rec.State != job.Retrying:
		return ""
	}
	text := fmt.Sprintf("It waits in pool %s, preferred by image %s", rec.Pool, rec.Image.Name)
	if rec.Spill == nil {
		return text + "; no other pool is set to take it, so it does not spill over."
	}
	at := rec.Spill.At(rec.UpdatedAt, rec.NotBefore)
	to, served := s.spillPlace(rec)
	if left := at.Sub(now); left > 0 {
		if !served {
			to = rec.Spill.To[0]
		}
		return fmt.Sprintf("%s; spills over to %s in %s.", text, to.Pool, roundUp(left))
	}
	if served {
		return fmt.Sprintf("%s; spills over to %s now.", text, to.Pool)
	}
	var why []string
	for _, place := range rec.Spill.To {
		why = append(why, s.explainUnserved(place, limitsOfRecord(rec)))
	}
	return fmt.Sprintf("%s; it would spill over, but %s.", text, strings.Join(why, "; "))
}

// explainUnserved says why a job cannot spill over to a class.
func (s *Scheduler) explainUnserved(place job.Place, l job.Limits) string {
	pool, _ := s.lead.led.look(place.Pool)
	class, there := pool.Class(place.Class)
	switch {
	case !there:
		return fmt.Sprintf("there is no class %s of pool %s any more", place.Class, place.Pool)
	case pool.Paused:
		return fmt.Sprintf("pool %s is paused", place.Pool)
	case !s.served(place):
		return fmt.Sprintf("no worker takes jobs of class %s of pool %s", place.Class, place.Pool)
	case !class.Takes(l):
		return fmt.Sprintf("it is too large for class %s of pool %s", place.Class, place.Pool)
	}
	return fmt.Sprintf("it is too large for the workers of class %s of pool %s", place.Class, place.Pool)
}

// roundUp is a wait for a reader, never less than it is.
func roundUp(d time.Duration) time.Duration {
	return (d + time.Second - 1).Truncate(time.Second)
}
