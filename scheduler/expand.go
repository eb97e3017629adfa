package scheduler

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"sync"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"golang.org/x/sync/errgroup"

	"github.com/sandlot-dev/sandlot/pkg/job"
	"github.com/sandlot-dev/sandlot/pkg/queue"
	"github.com/sandlot-dev/sandlot/pkg/telemetry"
)

const (
	// expandAtOnce is how many items of a batch become jobs in one go, after
	// which it is another batch's turn.
	expandAtOnce = 256
	// A batch has at most so many items that are jobs and have not begun:
	// what is done in expandAhead, but not fewer than leastAhead nor more than
	// mostAhead. Batches of a tenant share it, so that a later one need not
	// wait for all of an earlier one.
	leastAhead, mostAhead = 256, 8192
	expandAhead           = 4 * time.Second
	// expandBatches is how many batches of a tenant take turns; others wait.
	expandBatches = 32
	// cursorAfter and cursorEvery bound what is expanded again after a crash.
	cursorAfter = 2048
	cursorEvery = time.Second
	// itemRetention is a net below the batch: items are stored in segments
	// long before.
	itemRetention = 30 * 24 * time.Hour
)

// batchLead is what the leader does for batches: it expands them, stores what
// has ended, ends the rest of groups that have enough, and calls back.
type batchLead struct {
	s *Scheduler
	// running is what is remembered of batches while this process leads. The
	// expander's alone.
	running map[scoped]*expansion
	// drafting is held while items become jobs.
	drafting sync.RWMutex
}

// expansion is a batch that is being expanded.
type expansion struct {
	items *manifest
	// saved is the cursor as last written, at savedAt.
	saved   int
	savedAt time.Time
	// rate is how many items end a second, seen over the last ones.
	rate   float64
	ended  int
	seenAt time.Time
	// asked are the jobs that were canceled by the leader.
	asked map[int]bool
}

// expand makes jobs of items, in turns from the batches there are.
func (l *batchLead) expand(ctx context.Context) error {
	l.running = map[scoped]*expansion{}
	defer func() {
		for _, e := range l.running {
			e.items.close()
		}
	}()
	wakes := l.s.folds.wake()
	defer l.s.folds.unwake(wakes)
	select { // what has ended must be known before it is told what has not
	case <-l.s.folds.ready:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	for _, ready := range []<-chan struct{}{l.s.index.ready, l.s.cancels.ready} {
		select {
		case <-ready:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	poll := time.NewTicker(releasePoll)
	defer poll.Stop()
	for {
		did, err := l.expandRound(ctx)
		var full *queue.FullError
		switch {
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case errors.As(err, &full):
			if err := wait(ctx, max(full.RetryAfter, 200*time.Millisecond)); err != nil {
				return err
			}
		case err != nil:
			l.s.log.Warn("expand batches", "error", err)
			if err := wait(ctx, time.Second); err != nil {
				return err
			}
		}
		if did && err == nil {
			continue
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-wakes:
		case <-poll.C:
		}
	}
}

// expandRound gives each batch a turn.
func (l *batchLead) expandRound(ctx context.Context) (did bool, err error) {
	names := l.s.folds.active()
	l.retire(names)
	tenants := map[string]int{}
	for _, name := range names {
		tenants[name.tenant]++
	}
	turns := map[string]int{}
	var failed error
	for _, name := range names {
		if turns[name.tenant]++; turns[name.tenant] > expandBatches {
			continue
		}
		more, err := l.expandSome(ctx, name, min(tenants[name.tenant], expandBatches))
		did = did || more
		if err != nil { // of this batch; others may go on
			failed = errors.Join(failed, err)
		}
	}
	return did, failed
}

// retire forgets batches that do not run any more.
func (l *batchLead) retire(names []scoped) {
	for name, e := range l.running {
		if !slices.Contains(names, name) {
			e.items.close()
			delete(l.running, name)
		}
	}
}

// expandSome makes jobs of the next items of a batch that shares its tenant's
// room with others.
func (l *batchLead) expandSome(ctx context.Context, name scoped, sharers int) (bool, error) {
	var b job.Batch
	var cursor, ended int
	if !l.s.folds.look(name, func(f *fold) {
		b, cursor = f.b, f.cursor
		ended = f.b.Counts.Ended() + f.counts.Ended()
	}) || !b.State.Active() {
		return false, nil
	}
	e := l.running[name]
	if e == nil {
		e = &expansion{items: newManifest(l.s.Queue, b, cursor), saved: b.Cursor, seenAt: time.Now(), ended: ended, asked: map[int]bool{}}
		if err := l.countGroups(ctx, name, b); err != nil {
			return false, err
		}
		l.running[name] = e
	}
	e.measure(ended)
	if err := l.endEarly(ctx, name, b, e); err != nil {
		return false, err
	}
	n := min(e.room(b, cursor-ended)/sharers, expandAtOnce, b.Jobs-cursor)
	if n <= 0 {
		return false, l.saveCursor(ctx, name, b, e, cursor)
	}
	drafted, err := l.makeJobs(ctx, name, b, e, n)
	if err != nil {
		e.items.close()
		delete(l.running, name) // begin again at the cursor
		return false, fmt.Errorf("expand batch %s: %w", b.ID, err)
	}
	cursor += drafted
	l.s.folds.look(name, func(f *fold) { f.cursor = max(f.cursor, cursor) })
	return true, l.saveCursor(ctx, name, b, e, cursor)
}

// makeJobs stores the records of the next items, and says how many items
// those were.
func (l *batchLead) makeJobs(ctx context.Context, name scoped, b job.Batch, e *expansion, n int) (int, error) {
	l.drafting.RLock()
	defer l.drafting.RUnlock()
	recs, drafted, err := l.draftItems(ctx, name, b, e, n)
	if err == nil {
		err = l.s.Queue.Expand(ctx, b.Since, recs)
	}
	return drafted, err
}

// measure finds out how many items end a second.
func (e *expansion) measure(ended int) {
	if d := time.Since(e.seenAt); d >= time.Second {
		e.rate = (e.rate + float64(ended-e.ended)/d.Seconds()) / 2
		e.ended, e.seenAt = ended, time.Now()
	}
}

// room is how many more items may become jobs, unfinished of them being jobs
// already. What ends at once needs no turn.
func (e *expansion) room(b job.Batch, unfinished int) int {
	if b.State == job.BatchCanceling {
		return mostAhead - unfinished
	}
	return min(max(int(e.rate*expandAhead.Seconds()), leastAhead), mostAhead) - unfinished
}

// draftItems are the records of the next items, drafted of them, less those
// that were canceled before their turn and are stored already.
func (l *batchLead) draftItems(ctx context.Context, name scoped, b job.Batch, e *expansion, n int) (recs []job.Record, drafted int, err error) {
	recs = make([]job.Record, 0, n)
	for ; drafted < n; drafted++ {
		line, index, err := e.items.next(ctx)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, 0, err
		}
		dropped := slices.Contains(b.Dropped, index)
		if dropped {
			if _, stored, err := l.s.storedItem(ctx, b, index); err != nil {
				return nil, 0, err
			} else if stored {
				continue
			}
		}
		rec, err := l.s.itemOf(ctx, b, line, index)
		if err != nil {
			return nil, 0, err
		}
		switch {
		case b.State == job.BatchCanceling:
			cancelItem(&rec, "The batch was canceled before its turn.")
		case dropped:
			cancelItem(&rec, wasDropped)
		case b.StopAfter != nil && l.enough(name, line.Group):
			cancelItem(&rec, enoughOf(line.Group, b.StopAfter.Passed))
		default:
			if order, why := l.s.cancels.endsItem(b, rec); order != "" {
				cancelItem(&rec, why)
				rec.CanceledBy = order
			}
		}
		recs = append(recs, rec)
	}
	return recs, drafted, nil
}

func enoughOf(group string, passed int) string {
	return fmt.Sprintf("Its group %q has the %d results that passed which stop_after asks for.", group, passed)
}

// cancelItem makes the record of an item that never runs.
func cancelItem(rec *job.Record, why string) {
	rec.State, rec.Spans = job.Canceled, nil
	rec.Result = &job.Result{Verdict: job.Verdict{Blame: job.BlameNone, Reason: job.WasCanceled, Evidence: job.Evidence{Detail: why}}, Steps: []job.StepResult{}}
}

// itemOf is the record of an item that has not been a job yet.
func (s *Scheduler) itemOf(ctx context.Context, b job.Batch, line manifestLine, index int) (job.Record, error) {
	ctx, recording := s.Telemetry.Job(ctx)
	now := time.Now().UTC()
	id := job.ItemID(b.ID, index)
	ctx, stage := telemetry.StartAt(ctx, telemetry.Submit, now, attribute.String(telemetry.KeyJob, id))
	hash, err := bodyHash(*line.Spec)
	if err != nil {
		return job.Record{}, err
	}
	rec := recordOf(line.Spec, hash)
	rec.Pool, rec.Class, rec.Preferred, rec.Spill = line.Pool, line.Class, line.Preferred, line.Spill
	rec.ID, rec.Tenant, rec.Batch, rec.Key, rec.Group = id, b.Tenant, b.ID, line.Key, line.Group
	rec.Retention, rec.TraceParent = itemRetention, telemetry.TraceParent(ctx)
	err = s.storeSpec(ctx, &rec)
	rec.Timings.Submit = time.Now().UTC()
	stage.EndAt(rec.Timings.Submit, err)
	rec.Spans = recording.Spans()
	return rec, err
}

// saveCursor writes how far the expansion has come, now and then.
func (l *batchLead) saveCursor(ctx context.Context, name scoped, b job.Batch, e *expansion, cursor int) error {
	if cursor <= e.saved || cursor < b.Jobs && cursor < e.saved+cursorAfter && time.Since(e.savedAt) < cursorEvery {
		return nil
	}
	c, err := l.s.Queue.ChangeBatch(ctx, name.tenant, name.name, func(b *job.Batch) error {
		b.Cursor = max(b.Cursor, min(cursor, b.Jobs))
		return nil
	})
	if errors.Is(err, job.ErrNotFound) {
		return nil // removed
	}
	if err != nil {
		return err
	}
	e.saved, e.savedAt = cursor, time.Now()
	l.s.folds.set(c)
	return nil
}

// countGroups has the groups of a batch with stop_after counted.
func (l *batchLead) countGroups(ctx context.Context, name scoped, b job.Batch) error {
	for b.StopAfter != nil {
		mark, err := l.s.readCheckpoint(ctx, b.Checkpoint)
		if err != nil && !errors.Is(err, job.ErrNotFound) {
			return err
		}
		same := false
		there := l.s.folds.look(name, func(f *fold) {
			if same = err == nil && f.b.Checkpoint == b.Checkpoint; same {
				f.countGroups(mark.Groups)
			}
			b = f.b
		})
		if same || !there {
			return nil
		}
		if err := wait(ctx, 10*time.Millisecond); err != nil {
			return err
		}
	}
	return nil
}

func (l *batchLead) enough(name scoped, group string) (yes bool) {
	l.s.folds.look(name, func(f *fold) { yes = f.enough(group) })
	return yes
}

// cancelsAtOnce is how many jobs are canceled side by side.
const cancelsAtOnce = 16

// endEarly cancels jobs of a batch that is to end, and of groups that have
// enough.
func (l *batchLead) endEarly(ctx context.Context, name scoped, b job.Batch, e *expansion) error {
	why := map[int]string{}
	var reached map[string]bool
	l.s.folds.look(name, func(f *fold) {
		if b.State != job.BatchCanceling && len(f.reached) == 0 {
			return
		}
		reached, f.reached = f.reached, map[string]bool{}
		for index, one := range f.live {
			switch {
			case e.asked[index]:
			case b.State == job.BatchCanceling:
				why[index] = "The batch was canceled."
			case reached[one.group]:
				why[index] = enoughOf(one.group, b.StopAfter.Passed)
			}
		}
	})
	group, canceling := errgroup.WithContext(ctx)
	group.SetLimit(cancelsAtOnce)
	for index, text := range why {
		group.Go(func() error {
			id := job.ItemID(b.ID, index)
			_, err := l.s.Queue.CancelFor(canceling, name.tenant, id, text)
			if errors.Is(err, job.ErrStale) || errors.Is(err, job.ErrNotFound) {
				return nil
			}
			return err
		})
	}
	if err := group.Wait(); err != nil {
		l.s.folds.look(name, func(f *fold) { maps.Copy(f.reached, reached) }) // again
		return fmt.Errorf("end jobs of batch %s: %w", b.ID, err)
	}
	for index := range why {
		e.asked[index] = true
	}
	return nil
}
