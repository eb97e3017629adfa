package scheduler

import (
	"cmp"
	"slices"
	"strings"
	"sync"
	"time"
	"unique"

	"github.com/sandlot-dev/sandlot/pkg/job"
	"github.com/sandlot-dev/sandlot/pkg/queue"
)

// index is a bounded view of the records, newest first, kept by one fold over
// queue.Follow. Lists, counts and waiters live on it.
type index struct {
	most int
	// boot names this life of the index: positions in lists of results mean
	// nothing in another.
	boot string

	mu      sync.RWMutex
	entries map[string]*entry
	// order has all entries by age, oldest first; unsorted until ready.
	order   []*entry
	sorted  bool
	gone    int // entries of order that are no more
	dropped int64
	queues  map[scoped]*queueCount
	// tenants counts all queues of each together.
	tenants map[string]*queueCount
	batches map[scoped]*batch
	waiters map[string]map[chan struct{}]bool
	finals  map[final]int64
	ready   chan struct{}
}

// scoped is a name that means something within a tenant only.
type scoped struct{ tenant, name string }

func (a scoped) compare(b scoped) int {
	return cmp.Or(strings.Compare(a.tenant, b.tenant), strings.Compare(a.name, b.name))
}

// entry is what the index knows of a job.
type entry struct {
	id, tenant, key, batch, queue, image, worker string
	digest                                       string
	pool, class                                  string
	labels                                       map[string]string
	schedule                                     *job.Tick
	state                                        job.State
	blame                                        job.Blame
	reason                                       job.Reason
	priority, attempt                            int
	accepted, updated, notBefore                 time.Time
	seq                                          uint64
	gone                                         bool
	// item: its batch is an object, which does its own counting.
	item bool
	// place is the position among the results of the batch.
	place int
	// answered is when the result first went to a client.
	answered time.Time
}

type queueCount struct {
	states map[job.State]int
}

// final is a kind of end, for metrics.
type final struct {
	state  job.State
	blame  job.Blame
	reason job.Reason
}

// batch is what the index knows of a batch.
type batch struct {
	jobs     int
	states   map[job.State]int
	verdicts map[verdictKind]int
	// done has the entries in the order in which they ended; nil where the
	// job is known no more.
	done []*entry
	// changed is closed and replaced at each change.
	changed chan struct{}
}

type verdictKind struct {
	blame  job.Blame
	reason job.Reason
}

func newIndex(most int, boot string) *index {
	return &index{
		most: most, boot: boot, entries: map[string]*entry{}, queues: map[scoped]*queueCount{}, tenants: map[string]*queueCount{}, batches: map[scoped]*batch{},
		waiters: map[string]map[chan struct{}]bool{}, finals: map[final]int64{}, ready: make(chan struct{}),
	}
}

// caughtUp is called once all that was there at the start is known.
func (x *index) caughtUp() {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.sorted {
		return
	}
	slices.SortFunc(x.order, byAge)
	x.sorted = true
	close(x.ready)
}

func byAge(a, b *entry) int {
	return cmp.Or(a.accepted.Compare(b.accepted), cmp.Compare(a.id, b.id))
}

// apply folds one change in. Changes may come twice and late.
func (x *index) apply(c queue.Change) {
	x.mu.Lock()
	defer x.mu.Unlock()
	old := x.entries[c.ID]
	_, _, item := job.Item(c.ID)
	switch {
	case item && !c.Removed && c.State.Final():
		// Items that have ended are their batch's to tell of: a million of
		// them must not be here.
		if old != nil {
			x.forget(old)
		}
		x.count(c.Summary)
		x.notify(c.ID)
	case c.Removed:
		if old != nil && old.seq <= c.Seq {
			x.forget(old)
			x.notify(c.ID)
		}
	case old == nil:
		x.insert(newEntry(c))
		x.count(c.Summary)
		x.notify(c.ID)
	case old.seq < c.Seq && !old.state.Final():
		x.replace(old, c)
		x.count(c.Summary)
		x.notify(c.ID)
	}
	x.trim()
}

// count counts ends that happen while we look.
func (x *index) count(s queue.Summary) {
	if x.sorted && s.State.Final() {
		x.finals[final{s.State, s.Blame, s.Reason}]++
	}
}

// accepted notes a job before the queue tells of it, so that who has just
// submitted finds it in every list.
func (x *index) accepted(s queue.Summary) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.entries[s.ID] == nil {
		x.insert(newEntry(queue.Change{Summary: s}))
	}
}

// removed forgets a job at once.
func (x *index) removed(id string) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if e := x.entries[id]; e != nil {
		x.forget(e)
		x.notify(id)
	}
}

// shared makes equal texts share their memory.
func shared(s string) string { return unique.Make(s).Value() }

func newEntry(c queue.Change) *entry {
	e := &entry{id: c.ID, tenant: shared(c.Tenant), key: c.Key, batch: shared(c.Batch), queue: shared(c.Queue), image: shared(c.Image.Name), digest: shared(c.Image.Digest),
		pool: shared(c.Pool), class: shared(c.Class),
		labels: c.Labels, schedule: c.Schedule, priority: c.Priority, accepted: c.AcceptedAt, place: -1}
	_, _, e.item = job.Item(c.ID)
	e.set(c)
	return e
}

// set takes over what changes in the life of a job.
func (e *entry) set(c queue.Change) {
	e.state, e.attempt, e.worker = job.State(shared(string(c.State))), c.Attempt, shared(c.Worker)
	e.blame, e.reason = job.Blame(shared(string(c.Blame))), job.Reason(shared(string(c.Reason)))
	e.updated, e.notBefore, e.seq = c.UpdatedAt, c.NotBefore, c.Seq
}

func (x *index) insert(e *entry) {
	x.entries[e.id] = e
	x.order = append(x.order, e)
	if x.sorted { // nearly always the newest: few steps
		for i := len(x.order) - 1; i > 0 && byAge(x.order[i-1], e) > 0; i-- {
			x.order[i-1], x.order[i] = x.order[i], x.order[i-1]
		}
	}
	x.add(e, 1)
	if b := x.batchOf(e); b != nil {
		b.jobs++
		b.settle(e)
	}
}

func (x *index) replace(e *entry, c queue.Change) {
	x.add(e, -1)
	e.set(c)
	x.add(e, 1)
	if b := x.batchOf(e); b != nil {
		b.settle(e)
	}
}

func (x *index) forget(e *entry) {
	x.add(e, -1)
	delete(x.entries, e.id)
	e.gone = true
	x.gone++
	b := x.batches[scoped{e.tenant, e.batch}]
	if e.batch == "" || b == nil {
		return
	}
	b.jobs--
	if e.place >= 0 {
		b.done[e.place] = nil
	}
	b.wake()
	if b.jobs == 0 {
		delete(x.batches, scoped{e.tenant, e.batch})
	}
}

// add counts an entry in its queue and batch, n times.
func (x *index) add(e *entry, n int) {
	q := x.queues[scoped{e.tenant, e.queue}]
	if q == nil {
		q = &queueCount{states: map[job.State]int{}}
		x.queues[scoped{e.tenant, e.queue}] = q
	}
	q.states[e.state] += n
	t := x.tenants[e.tenant]
	if t == nil {
		t = &queueCount{states: map[job.State]int{}}
		x.tenants[e.tenant] = t
	}
	t.states[e.state] += n
	b := x.batchOf(e)
	if b == nil {
		return
	}
	b.states[e.state] += n
	if e.state.Final() {
		b.verdicts[verdictKind{e.blame, e.reason}] += n
	}
}

func (x *index) batchOf(e *entry) *batch {
	if e.batch == "" || e.item {
		return nil
	}
	b := x.batches[scoped{e.tenant, e.batch}]
	if b == nil {
		b = &batch{states: map[job.State]int{}, verdicts: map[verdictKind]int{}, changed: make(chan struct{})}
		x.batches[scoped{e.tenant, e.batch}] = b
	}
	return b
}

// settle puts a job that has ended behind the others that have.
func (b *batch) settle(e *entry) {
	if e.state.Final() && e.place < 0 {
		e.place = len(b.done)
		b.done = append(b.done, e)
	}
	b.wake()
}

func (b *batch) wake() {
	close(b.changed)
	b.changed = make(chan struct{})
}

func (b *batch) final() int {
	n := 0
	for s, count := range b.states {
		if s.Final() {
			n += count
		}
	}
	return n
}

// trim drops the oldest jobs that have ended, or the oldest of all when too
// few have, in bulk so that each costs little.
func (x *index) trim() {
	if x.sorted && x.gone > len(x.order)/4+1024 {
		x.compact()
	}
	if len(x.entries) <= x.most+x.most/16 || !x.sorted {
		return
	}
	for _, onlyFinal := range []bool{true, false} {
		for _, e := range x.order {
			if len(x.entries) <= x.most {
				break
			}
			if !e.gone && (e.state.Final() || !onlyFinal) {
				x.forget(e)
				x.dropped++
			}
		}
	}
	x.compact()
}

func (x *index) compact() {
	x.order = slices.DeleteFunc(x.order, func(e *entry) bool { return e.gone })
	x.gone = 0
}

// watch signals every change of a job until stop is called.
func (x *index) watch(id string) (changes <-chan struct{}, stop func()) {
	c := make(chan struct{}, 1)
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.waiters[id] == nil {
		x.waiters[id] = map[chan struct{}]bool{}
	}
	x.waiters[id][c] = true
	return c, func() {
		x.mu.Lock()
		defer x.mu.Unlock()
		delete(x.waiters[id], c)
		if len(x.waiters[id]) == 0 {
			delete(x.waiters, id)
		}
	}
}

func (x *index) notify(id string) {
	for c := range x.waiters[id] {
		select {
		case c <- struct{}{}:
		default:
		}
	}
}

// state is what the index knows of the state of a job.
func (x *index) state(id string) (job.State, bool) {
	x.mu.RLock()
	defer x.mu.RUnlock()
	e := x.entries[id]
	if e == nil {
		return "", false
	}
	return e.state, true
}

// answered notes that the result of a job went to a client, and says when it
// did so first as far as this life knows.
func (x *index) answered(id string, now time.Time) time.Time {
	x.mu.Lock()
	defer x.mu.Unlock()
	e := x.entries[id]
	if e == nil {
		return now
	}
	if e.answered.IsZero() {
		e.answered = now
	}
	return e.answered
}
