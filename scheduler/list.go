package scheduler

import (
	"encoding/base64"
	"fmt"
	"maps"
	"slices"
	"sort"
	"strconv"
	"strings"
	"time"

	"github.com/sandlot-dev/sandlot/pkg/api"
	"github.com/sandlot-dev/sandlot/pkg/job"
)

// filter says which jobs a list shows; empty fields match all
// of a tenant.
type filter struct {
	tenant string // not optional
	state  job.State
	queue  string
	batch  string
	reason job.Reason
	// schedule is the name of one.
	schedule string
	labels   map[string]string
	limit    int
	before   position
}

// position is a place in the order of all jobs.
type position struct {
	at time.Time
	id string
}

func (p position) String() string {
	return base64.RawURLEncoding.EncodeToString(fmt.Appendf(nil, "%d.%s", p.at.UnixNano(), p.id))
}

func parsePosition(text string) (position, bool) {
	raw, err := base64.RawURLEncoding.DecodeString(text)
	nanos, id, ok := strings.Cut(string(raw), ".")
	n, errNumber := strconv.ParseInt(nanos, 10, 64)
	return position{time.Unix(0, n), id}, err == nil && ok && errNumber == nil
}

func (f filter) matches(e *entry) bool {
	if e.gone || f.tenant != e.tenant || f.state != "" && f.state != e.state || f.queue != "" && f.queue != e.queue ||
		f.batch != "" && f.batch != e.batch || f.reason != "" && f.reason != e.reason ||
		f.schedule != "" && (e.schedule == nil || f.schedule != e.schedule.Name) {
		return false
	}
	return hasLabels(e.labels, f.labels)
}

// list is one page, newest first.
func (x *index) list(f filter) api.List {
	x.mu.RLock()
	defer x.mu.RUnlock()
	page := api.List{Jobs: []api.Summary{}, Dropped: x.dropped}
	end := len(x.order)
	if f.before.id != "" {
		mark := &entry{accepted: f.before.at, id: f.before.id}
		end = sort.Search(len(x.order), func(i int) bool { return byAge(x.order[i], mark) >= 0 })
	}
	for i := end - 1; i >= 0; i-- {
		e := x.order[i]
		if !f.matches(e) {
			continue
		}
		if len(page.Jobs) == f.limit {
			last := page.Jobs[f.limit-1]
			page.Next = position{last.AcceptedAt, last.ID}.String()
			break
		}
		page.Jobs = append(page.Jobs, e.summary())
	}
	return page
}

func (e *entry) summary() api.Summary {
	return api.Summary{
		ID: e.id, State: e.state, Key: e.key, Batch: e.batch, Image: e.image, Queue: e.queue, Priority: e.priority,
		Labels: e.labels, Schedule: e.schedule, AcceptedAt: e.accepted, UpdatedAt: e.updated, NotBefore: e.notBefore, Blame: e.blame, Reason: e.reason,
		Attempt: e.attempt, Worker: e.worker,
	}
}

// queueList counts what has not ended of a tenant, per queue.
func (x *index) queueList(tenant string) []api.Queue {
	x.mu.RLock()
	defer x.mu.RUnlock()
	oldest := map[string]time.Time{}
	for _, e := range x.order {
		if _, ok := oldest[e.queue]; !ok && !e.gone && e.tenant == tenant && (e.state == job.Queued || e.state == job.Retrying) {
			oldest[e.queue] = e.accepted
		}
	}
	list := []api.Queue{}
	for _, name := range slices.SortedFunc(maps.Keys(x.queues), scoped.compare) {
		if name.tenant != tenant {
			continue
		}
		s := x.queues[name].states
		list = append(list, api.Queue{
			Name: name.name, Queued: s[job.Queued], Running: s[job.Running], Retrying: s[job.Retrying],
			Canceling: s[job.Canceling], Oldest: oldest[name.name],
		})
	}
	return list
}

// unfinished counts the jobs of a tenant, or of one of its queues, that have
// not ended: those that wait, and those that run.
func (x *index) unfinished(tenant, queue string) (queued, running int) {
	x.mu.RLock()
	defer x.mu.RUnlock()
	q := x.tenants[tenant]
	if queue != "" {
		q = x.queues[scoped{tenant, queue}]
	}
	if q != nil {
		queued = q.states[job.Queued] + q.states[job.Retrying]
		running = q.states[job.Running] + q.states[job.Canceling]
	}
	return queued, running
}

// hasDropped reports whether there are jobs that the index knows no more.
func (x *index) hasDropped() bool {
	x.mu.RLock()
	defer x.mu.RUnlock()
	return x.dropped > 0
}

// batchCounts counts a batch; false when none of its jobs is known.
func (x *index) batchCounts(tenant, id string) (api.Batch, bool) {
	x.mu.RLock()
	defer x.mu.RUnlock()
	b := x.batches[scoped{tenant, id}]
	if b == nil {
		return api.Batch{}, false
	}
	counts := api.Batch{ID: id, Jobs: b.jobs, Final: b.final(), States: map[job.State]int{}, Verdicts: []api.VerdictCount{}, Dropped: x.dropped}
	for s, n := range b.states {
		if n > 0 {
			counts.States[s] = n
		}
	}
	for k, n := range b.verdicts {
		if n > 0 {
			counts.Verdicts = append(counts.Verdicts, api.VerdictCount{Blame: k.blame, Reason: k.reason, Count: n})
		}
	}
	slices.SortFunc(counts.Verdicts, func(a, b api.VerdictCount) int {
		return strings.Compare(string(a.Blame)+string(a.Reason), string(b.Blame)+string(b.Reason))
	})
	return counts, true
}

// ended is a job of a batch that has ended; next is the place after it.
type ended struct {
	id   string
	next int
}

// results are jobs of the batch that ended, from a place on, at most n; where
// to go on; whether all known jobs have ended and are told; and what tells of
// more.
func (x *index) results(tenant, id string, from, n int) (jobs []ended, next int, all bool, changed <-chan struct{}) {
	x.mu.RLock()
	defer x.mu.RUnlock()
	b := x.batches[scoped{tenant, id}]
	if b == nil {
		return nil, from, true, nil
	}
	next = min(from, len(b.done))
	for ; next < len(b.done) && len(jobs) < n; next++ {
		if e := b.done[next]; e != nil {
			jobs = append(jobs, ended{e.id, next + 1})
		}
	}
	return jobs, next, next == len(b.done) && b.final() == b.jobs, b.changed
}

// ahead counts the jobs of a tenant that wait for their turn and come before
// this one: of a better priority, or of the same and older.
func (x *index) ahead(tenant string, priority int, at time.Time, id string, now time.Time) int {
	x.mu.RLock()
	defer x.mu.RUnlock()
	n := 0
	for _, e := range x.order {
		if e.gone || e.tenant != tenant || e.state != job.Queued && e.state != job.Retrying || e.id == id || e.notBefore.After(now) {
			continue
		}
		if e.priority < priority || e.priority == priority && e.accepted.Before(at) {
			n++
		}
	}
	return n
}

// unfinishedIn counts the jobs of a class that have not ended.
func (x *index) unfinishedIn(pool, class string) (n int) {
	x.mu.RLock()
	defer x.mu.RUnlock()
	for _, e := range x.order {
		if !e.gone && !e.state.Final() && e.pool == pool && e.class == class {
			n++
		}
	}
	return n
}

// waitingTenants are those of whom jobs wait.
func (x *index) waitingTenants() []string {
	x.mu.RLock()
	defer x.mu.RUnlock()
	var ids []string
	for id, t := range x.tenants {
		if t.states[job.Queued]+t.states[job.Retrying] > 0 {
			ids = append(ids, id)
		}
	}
	return ids
}
