package scheduler

import (
	"context"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/sandlot-dev/sandlot/pkg/api"
	"github.com/sandlot-dev/sandlot/pkg/job"
	"github.com/sandlot-dev/sandlot/pkg/queue"
)

// folds is what a scheduler knows of the batches that are objects: their keys,
// and of their items those that have a record. Each scheduler folds the same
// records in, so that each knows the counts at every moment; the leader moves
// what has ended to segments, and what is there is dropped here.
type folds struct {
	// ready is closed once all that was there at the start is known.
	ready chan struct{}

	mu  sync.Mutex
	all map[scoped]*fold
	// wakes are told of every change, one signal each.
	wakes []chan struct{}
}

// fold is one batch.
type fold struct {
	tenant, id string
	// seq orders the versions of b; known says that there is one.
	seq   uint64
	known bool
	b     job.Batch
	// cursor is how far the leader has come, ahead of b.Cursor.
	cursor int

	// live are items with a record that has not ended.
	live map[int]liveItem
	// ended are items with a final record after b.Folded, in the order in
	// which they came; at has their places, bytes their size.
	ended []endedItem
	at    map[int]bool
	bytes int64
	// counts is over ended.
	counts job.BatchCounts
	// groups is how many of each group have passed, of a batch with stop_after
	// that this scheduler leads; reached are groups that have enough, not yet
	// looked at.
	groups  map[string]int
	reached map[string]bool
	// stored are final records that are in a segment already.
	stored map[int]uint64
	// changed is closed and replaced at each change.
	changed chan struct{}
}

type liveItem struct {
	state job.State
	group string
}

type endedItem struct {
	shard, index, size int
	seq                uint64
	key, group         string
	state              job.State
	blame              job.Blame
	reason             job.Reason
}

func (e endedItem) failure(batch string) job.Failure {
	return job.Failure{ID: job.ItemID(batch, e.index), Key: e.key, State: e.state, Blame: e.blame, Reason: e.reason}
}

func newFolds() *folds { return &folds{ready: make(chan struct{}), all: map[scoped]*fold{}} }

// wake is a channel that gets a signal after every change. Give it back by
// unwake.
func (x *folds) wake() <-chan struct{} {
	c := make(chan struct{}, 1)
	x.mu.Lock()
	defer x.mu.Unlock()
	x.wakes = append(x.wakes, c)
	return c
}

// unwake gives a channel of wake back.
func (x *folds) unwake(c <-chan struct{}) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.wakes = slices.DeleteFunc(x.wakes, func(one chan struct{}) bool { return one == c })
}

// touch tells of a change of f.
func (x *folds) touch(f *fold) {
	close(f.changed)
	f.changed = make(chan struct{})
	for _, c := range x.wakes {
		select {
		case c <- struct{}{}:
		default:
		}
	}
}

func (x *folds) of(tenant, id string) *fold {
	f := x.all[scoped{tenant, id}]
	if f == nil {
		f = &fold{tenant: tenant, id: id, live: map[int]liveItem{}, at: map[int]bool{}, reached: map[string]bool{}, stored: map[int]uint64{}, changed: make(chan struct{})}
		x.all[scoped{tenant, id}] = f
	}
	return f
}

// apply folds one change of an item in.
func (x *folds) apply(c queue.Change, shard int) {
	id, index, ok := job.Item(c.ID)
	if !ok || !c.Removed && c.Batch != id {
		return
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	f := x.of(c.Tenant, id)
	switch {
	case c.Removed:
		delete(f.live, index)
		delete(f.stored, index)
	case !c.State.Final():
		f.live[index] = liveItem{job.State(shared(string(c.State))), shared(c.Group)}
		if f.enough(c.Group) {
			f.reached[c.Group] = true
		}
	case f.folded(shard, c.Seq):
		delete(f.live, index)
		f.stored[index] = c.Seq
	case f.at[index]:
		return
	default:
		delete(f.live, index)
		f.add(endedItem{
			shard: shard, seq: c.Seq, index: index, size: c.Size, key: c.Key, group: c.Group,
			state: job.State(shared(string(c.State))), blame: job.Blame(shared(string(c.Blame))), reason: job.Reason(shared(string(c.Reason))),
		})
	}
	x.touch(f)
}

func (f *fold) folded(shard int, seq uint64) bool {
	return shard < len(f.b.Folded) && seq <= f.b.Folded[shard]
}

func (f *fold) add(e endedItem) {
	f.ended = append(f.ended, e)
	f.at[e.index] = true
	f.bytes += int64(e.size)
	f.counts.Add(e.failure(f.id))
	if f.groups != nil && e.state == job.Succeeded {
		f.groups[e.group]++
		if f.enough(e.group) {
			f.reached[e.group] = true
		}
	}
}

// enough reports whether the rest of a group is to end.
func (f *fold) enough(group string) bool {
	return f.b.StopAfter != nil && f.groups[group] >= f.b.StopAfter.Passed
}

// countGroups begins to count groups, from what is in segments.
func (f *fold) countGroups(stored map[string]int) {
	f.groups, f.reached = maps.Clone(stored), map[string]bool{}
	if f.groups == nil {
		f.groups = map[string]int{}
	}
	for _, e := range f.ended {
		if e.state == job.Succeeded {
			f.groups[e.group]++
		}
	}
	for group := range f.groups {
		if f.enough(group) {
			f.reached[group] = true
		}
	}
}

// set takes a version of a batch over, unless a later one is known.
func (x *folds) set(c queue.BatchChange) {
	x.mu.Lock()
	defer x.mu.Unlock()
	f := x.of(c.Tenant, c.ID)
	if f.seq >= c.Seq {
		return
	}
	f.seq, f.known = c.Seq, !c.Removed
	if c.Removed {
		delete(x.all, scoped{c.Tenant, c.ID})
		x.touch(f)
		return
	}
	moved := !slices.Equal(f.b.Folded, c.Batch.Folded)
	f.b = c.Batch
	f.cursor = max(f.cursor, f.b.Cursor)
	if f.b.State.Final() { // what is long is read when it is asked for
		f.b.Manifest, f.b.Results, f.b.Dropped = nil, nil, nil
		f.live = map[int]liveItem{} // one whose end was missed is stored as well
	}
	if moved {
		f.refold()
	}
	x.touch(f)
}

// refold drops what is in segments by now.
func (f *fold) refold() {
	old, groups := f.ended, f.groups
	f.ended, f.at, f.bytes, f.counts, f.groups = nil, map[int]bool{}, 0, job.BatchCounts{}, nil
	defer func() { f.groups = groups }() // they are counted already
	for _, e := range old {
		if f.folded(e.shard, e.seq) {
			f.stored[e.index] = e.seq
		} else {
			f.add(e)
		}
	}
}

// get is a batch as it is known; false if it is not.
func (x *folds) get(tenant, id string) (foldView, bool) {
	x.mu.Lock()
	defer x.mu.Unlock()
	f := x.all[scoped{tenant, id}]
	if f == nil || !f.known {
		return foldView{}, false
	}
	return f.view(), true
}

// foldView is a fold at one moment.
type foldView struct {
	job.Batch
	cursor  int
	counts  job.BatchCounts // of all that have ended
	live    map[job.State]int
	changed <-chan struct{}
}

func (f *fold) view() foldView {
	v := foldView{Batch: f.b, cursor: f.cursor, counts: f.b.Counts.Plus(f.counts), live: map[job.State]int{}, changed: f.changed}
	for _, one := range f.live {
		v.live[one.state]++
	}
	return v
}

// ended are the items whose end is told after a place, and that have a record
// still; behind says that others before them are in segments, and come first.
func (x *folds) ended(tenant, id string, after place, most int) (list []endedItem, behind bool) {
	x.mu.Lock()
	defer x.mu.Unlock()
	f := x.all[scoped{tenant, id}]
	if f == nil {
		return nil, false
	}
	if !after.past(f.b.Folded) {
		return nil, true
	}
	for _, e := range f.ended {
		if !after.has(e.shard, e.seq) {
			if list = append(list, e); len(list) == most {
				break
			}
		}
	}
	return list, false
}

// active are the keys of the batches whose items may run, the oldest first.
func (x *folds) active() []scoped {
	x.mu.Lock()
	defer x.mu.Unlock()
	var found []*fold
	for _, f := range x.all {
		if f.known && f.b.State.Active() {
			found = append(found, f)
		}
	}
	slices.SortFunc(found, func(a, b *fold) int {
		if c := a.b.OpenedAt.Compare(b.b.OpenedAt); c != 0 {
			return c
		}
		return strings.Compare(a.id, b.id)
	})
	names := make([]scoped, len(found))
	for i, f := range found {
		names[i] = scoped{f.tenant, f.id}
	}
	return names
}

// stored are final records that are in segments.
func (x *folds) stored() map[scoped][]queue.Ending {
	x.mu.Lock()
	defer x.mu.Unlock()
	found := map[scoped][]queue.Ending{}
	for name, f := range x.all {
		if !f.known {
			continue
		}
		for index, seq := range f.stored {
			found[name] = append(found[name], queue.Ending{ID: job.ItemID(f.id, index), Seq: seq})
		}
	}
	return found
}

// over are batches whose time is over.
func (x *folds) over(now time.Time) []scoped {
	x.mu.Lock()
	defer x.mu.Unlock()
	var names []scoped
	for name, f := range x.all {
		if f.known && expired(f.b, now) {
			names = append(names, name)
		}
	}
	return names
}

// toCall are the batches whose callback is due, and otherwise when the next
// one is.
func (x *folds) toCall(now time.Time) (due []foldView, next time.Duration) {
	x.mu.Lock()
	defer x.mu.Unlock()
	next = time.Minute
	for _, f := range x.all {
		if !f.known || !f.b.State.Final() || f.b.Called == nil || f.b.Called.NextAt.IsZero() {
			continue
		}
		if until := f.b.Called.NextAt.Sub(now); until > 0 {
			next = min(next, until)
		} else {
			due = append(due, f.view())
		}
	}
	return due, next
}

// drop forgets a batch at once, and tells what records are left of it.
func (x *folds) drop(tenant, id string) (left []queue.Ending) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if f := x.all[scoped{tenant, id}]; f != nil {
		for index, seq := range f.stored {
			left = append(left, queue.Ending{ID: job.ItemID(id, index), Seq: seq})
		}
		delete(x.all, scoped{tenant, id})
		x.touch(f)
	}
	return left
}

// look calls fn with a fold, while nobody changes it; false if there is none.
func (x *folds) look(name scoped, fn func(f *fold)) bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	f := x.all[name]
	if f == nil || !f.known {
		return false
	}
	fn(f)
	return true
}

// list shows the batches of a tenant, newest first.
func (x *folds) list(tenant string, most int) api.Batches {
	x.mu.Lock()
	var views []foldView
	for name, f := range x.all {
		if name.tenant == tenant && f.known {
			views = append(views, f.view())
		}
	}
	x.mu.Unlock()
	slices.SortFunc(views, func(a, b foldView) int { return b.CreatedAt.Compare(a.CreatedAt) })
	out := api.Batches{Batches: []api.Batch{}, Dropped: max(len(views)-most, 0)}
	for _, v := range views[:min(len(views), most)] {
		out.Batches = append(out.Batches, v.api())
	}
	return out
}

// api is the batch as a client sees it. Items that have had no turn yet are
// queued.
func (v foldView) api() api.Batch {
	b := v.Batch
	out := api.Batch{
		ID: b.ID, Jobs: b.Jobs, Final: v.counts.Ended(), States: maps.Clone(v.counts.States), Verdicts: v.counts.Verdicts,
		BatchProgress: &api.BatchProgress{
			State: b.State, Name: b.Name, Lines: b.Lines, Rejected: b.Refused, Expanded: min(max(v.cursor, b.Cursor), b.Jobs),
			Failures: v.counts.Failures, GroupsPassed: v.counts.Groups, StopAfter: b.StopAfter, Success: b.Success,
			Outcome: b.Outcome, OutcomeReason: b.OutcomeReason, Callback: b.Callback, Called: b.Called,
			CreatedAt: b.CreatedAt, FinishedAt: b.FinishedAt, ExpiresAt: b.ExpiresAt,
		},
	}
	if out.States == nil {
		out.States = map[job.State]int{}
	}
	if out.Verdicts == nil {
		out.Verdicts = []job.VerdictCount{}
	}
	if b.State == job.BatchUploading {
		return out
	}
	queued := b.Jobs - out.Final
	for s, n := range v.live {
		if s != job.Queued {
			out.States[s] += n
			queued -= n
		}
	}
	if queued > 0 {
		out.States[job.Queued] = queued
	}
	return out
}

// follow keeps the folds' keys up to date.
func (x *folds) follow(ctx context.Context, q *queue.Queue) error {
	return q.FollowBatches(ctx, x.set, sync.OnceFunc(func() { close(x.ready) }))
}
