package scheduler

import (
	"context"
	"maps"
	"slices"
	"time"

	"github.com/sandlot-dev/sandlot/pkg/job"
	"github.com/sandlot-dev/sandlot/pkg/queue"
)

const (
	// passPause is the least time between two passes.
	passPause = 2 * time.Second
	// passShare is the part of the time that passes take at most: a 50th.
	passShare = 50
	// passAgain is when a pass is repeated that failed.
	passAgain = 5 * time.Second
	// deliveredAgain is after what time a hint that was delivered should have
	// led to a claim.
	deliveredAgain = 3 * time.Second
	// orphanAge is how old an object must be before it can be an orphan:
	// inputs are stored before their record is.
	orphanAge = 30 * time.Minute
)

// reconcile compares records with hints: when this scheduler begins to lead a
// pool, after each reconnect (the server may have restarted), after a worker was
// lost, and every ten minutes at the latest: as often as a small share of one
// processor's time allows, since nobody tells of a gateway that died, or was
// cut off, between a record and its hint. Outside of power loss it should find
// only what such gateways and crashed workers left.
func (l *Lead) reconcile(ctx context.Context) error {
	past := &past{given: map[string]time.Time{}, listed: map[string]bool{}}
	reconnected := l.Queue.Reconnected()
	next := time.NewTimer(0)
	defer next.Stop()
	sweep := time.Now()
	for judged := sweep.Add(l.Grace + time.Second); ; {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-next.C:
		case <-l.kicks:
			judged = time.Now().Add(l.Grace + time.Second)
		case <-reconnected:
			reconnected = l.Queue.Reconnected()
			judged = time.Now().Add(l.Grace + time.Second)
		}
		after := l.Every
		if len(l.led.all()) == 0 {
			next.Reset(after)
			continue
		}
		began := time.Now()
		young, err := l.pass(ctx, past)
		after = l.after(time.Since(began))
		left := time.Until(judged)
		switch {
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case err != nil:
			l.Logger.Warn("reconcile", "error", err)
			after = passAgain
		case young && left > 0 && len(past.delivered) > 0:
			after = min(left, deliveredAgain)
		case young && left > 0:
			after = left // what was too young then is old enough
		}
		if err == nil && !time.Now().Before(sweep) && l.led.has(job.DefaultPool) {
			l.sweep(ctx)
			sweep = time.Now().Add(l.Every)
		}
		next.Reset(after)
		if err := wait(ctx, min(passPause, l.Every)); err != nil {
			return err
		}
	}
}

// after is the time to the next pass when one took so long.
func (l *Lead) after(took time.Duration) time.Duration {
	return min(l.Every, max(l.Often, passShare*took))
}

// sweep removes what belongs to no job.
func (l *Lead) sweep(ctx context.Context) {
	n, err := l.Queue.Orphans(ctx, orphanAge)
	l.Counters.Orphans.Add(int64(n))
	if err != nil && ctx.Err() == nil {
		l.Logger.Warn("remove orphans", "error", err)
	}
}

// pass looks once at every record of the pools that are led here. young: some had changed, or had their hint
// delivered, too recently to tell whether all is well with them.
func (l *Lead) pass(ctx context.Context, past *past) (young bool, err error) {
	view := hints{now: time.Now(), grace: l.Grace, past: past, delivered: map[string]uint64{},
		heads: map[string]time.Time{}, ready: map[string]map[string]queue.ReadyHint{}}
	led := l.led.all()
	for _, pool := range led {
		heads, err := l.Queue.Heads(ctx, pool)
		if err != nil {
			return false, err
		}
		ready, err := l.Queue.InReady(ctx, pool)
		if err != nil {
			return false, err
		}
		maps.Copy(view.heads, heads)
		view.ready[pool] = ready
	}
	if view.timers, err = l.Queue.Timers(ctx); err != nil {
		return false, err
	}
	var suspects, dead []queue.Summary
	var strays []queue.ReadyHint
	listed := map[string]bool{}
	err = l.Queue.Records(ctx, func(s queue.Summary) error {
		strays = append(strays, view.strays(s)...)
		if !slices.Contains(led, s.Pool) {
			return nil
		}
		switch view.judge(s) {
		case suspect:
			suspects = append(suspects, s)
		case buried:
			if listed[s.ID] = true; !past.listed[s.ID] {
				dead = append(dead, s)
			}
		case tooYoung:
			young = true
		}
		return nil
	})
	if err != nil {
		return false, err
	}
	for _, hint := range strays {
		if err := l.Queue.TakeBack(ctx, hint); err != nil {
			return false, err
		}
	}
	l.Counters.Stray.Add(int64(len(strays)))
	var found finds
	if len(dead) > 0 { // the index is read only if somebody may be missing from it
		n, err := l.Queue.Bury(ctx, dead)
		if err != nil {
			return false, err
		}
		found.buried = int64(n)
	}
	past.listed = listed
	for _, s := range suspects {
		if err := l.mend(ctx, s, view.ready[s.Pool][s.ID], &found); err != nil {
			return false, err
		}
		past.given[s.ID] = view.now
	}
	past.next(view)
	l.Counters.Passes.Add(1)
	l.Counters.Restored.Add(found.restored)
	l.Counters.Abandoned.Add(found.abandoned)
	l.Counters.Redelivered.Add(found.redelivered)
	l.Counters.Buried.Add(found.buried)
	if found != (finds{}) {
		l.Logger.Info("reconciled", "restored", found.restored, "abandoned", found.abandoned, "redelivered", found.redelivered, "buried", found.buried)
	}
	return young, nil
}

// finds counts what a pass had to mend.
type finds struct{ restored, abandoned, redelivered, buried int64 }

// mend does what a suspect needs, if a closer look confirms that it does.
func (l *Lead) mend(ctx context.Context, s queue.Summary, hint queue.ReadyHint, found *finds) error {
	count, done := &found.restored, false
	var err error
	switch {
	case s.State == job.Running || s.State == job.Canceling:
		count = &found.abandoned
		done, err = l.Queue.Abandon(ctx, s, hint)
	case hint.Delivered:
		count, done = &found.redelivered, true
		err = l.Queue.Redeliver(ctx, hint)
	default:
		done, err = l.Queue.Restore(ctx, s)
	}
	if done {
		*count++
	}
	return err
}

// past is what passes remember of those before.
type past struct {
	given     map[string]time.Time // jobs that were mended, and when
	delivered map[string]uint64    // jobs whose hint was out, unclaimed, and which
	listed    map[string]bool      // dead jobs that were seen to be in their index
}

// next keeps what the next pass needs.
func (p *past) next(h hints) {
	p.delivered = h.delivered
	for id, at := range p.given {
		if h.now.Sub(at) > time.Hour {
			delete(p.given, id)
		}
	}
}

// hints is what a pass knows of the hints there are.
type hints struct {
	now       time.Time
	grace     time.Duration
	heads     map[string]time.Time                  // since when the first hint of a lane waits
	ready     map[string]map[string]queue.ReadyHint // by pool and job
	timers    queue.Timers
	past      *past
	delivered map[string]uint64 // filled in by judge
}

type judgement int

const (
	fine     judgement = iota
	suspect            // worth a look at the record and its holder
	buried             // dead: the index of dead jobs should name it
	tooYoung           // ask again later
)

// judge says whether a record may have lost its hint or its holder.
func (h hints) judge(s queue.Summary) judgement {
	switch s.State {
	case job.Running, job.Canceling:
		return suspect // its holder's key says more
	case job.Queued, job.Retrying:
	case job.Dead:
		if h.now.Sub(s.UpdatedAt) < h.grace && !h.past.listed[s.ID] {
			return tooYoung // who ended it lists it right now
		}
		return buried
	default:
		return fine
	}
	hint, there := h.ready[s.Pool][s.ID]
	switch {
	case hint.Delivered:
		return h.judgeReady(s, hint)
	case h.timers.Missing(s, h.now, h.grace):
		return suspect
	case there:
		return fine
	}
	if s.NotBefore.After(h.now) {
		return fine // its timer is there
	}
	since := s.UpdatedAt
	if s.NotBefore.After(since) {
		since = s.NotBefore
	}
	if at := h.past.given[s.ID]; at.After(since) {
		since = at
	}
	if h.now.Sub(since) < h.grace {
		return tooYoung
	}
	// Release is first in, first out within a lane: a job that is older than
	// the head of its lane has left it.
	if head, waits := h.heads[s.Lane()]; waits && !since.Add(h.grace).Before(head) {
		return fine
	}
	return suspect
}

// strays are hints in pools other than the one where a job waits: it has
// spilled over, and its leader died before it took them away. A worker would
// end them; where there is none they would count as jobs that run.
func (h hints) strays(s queue.Summary) (list []queue.ReadyHint) {
	if s.State != job.Queued && s.State != job.Retrying {
		return nil
	}
	for pool, ready := range h.ready {
		if hint, there := ready[s.ID]; there && pool != s.Pool {
			list = append(list, hint)
		}
	}
	return list
}

// judgeReady judges a job whose hint is in READY. Who gets a hint claims the
// job at once, so one that is out for two passes was in the hands of somebody
// who is gone.
func (h hints) judgeReady(s queue.Summary, hint queue.ReadyHint) judgement {
	h.delivered[s.ID] = hint.Seq
	if h.past.delivered[s.ID] == hint.Seq {
		return suspect
	}
	return tooYoung
}
