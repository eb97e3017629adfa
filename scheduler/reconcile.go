package scheduler

import (
	"context"
	"time"

	"github.com/sandlot-dev/sandlot/pkg/job"
	"github.com/sandlot-dev/sandlot/pkg/queue"
)

const (
	// passPause is the least time between two passes.
	passPause = 2 * time.Second
	// passAgain is when a pass is repeated that failed.
	passAgain = 5 * time.Second
	// orphanAge is how old an object must be before it can be an orphan:
	// inputs are stored before their record is.
	orphanAge = 30 * time.Minute
)

// reconcile compares records with hints: when this scheduler begins to lead,
// after each reconnect (the server may have restarted), after a worker was
// lost, and every ten minutes. Outside of power loss it should find only what
// crashed gateways and workers left.
func (l *Lead) reconcile(ctx context.Context) error {
	given := map[string]time.Time{} // by job: hints that a pass gave
	next := time.NewTimer(0)
	defer next.Stop()
	sweep := time.Now()
	for again := false; ; {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-next.C:
		case <-l.kicks:
			again = false
		case <-l.Queue.Reconnected():
			again = false
		}
		after := l.Every
		young, err := l.pass(ctx, given)
		switch {
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case err != nil:
			l.Logger.Warn("reconcile", "error", err)
			after = passAgain
		case young && !again:
			// What was too young then is judged by one more pass.
			after, again = l.Grace+time.Second, true
		default:
			again = false
		}
		if err == nil && !time.Now().Before(sweep) {
			l.sweep(ctx)
			sweep = time.Now().Add(l.Every)
		}
		next.Reset(after)
		if err := wait(ctx, min(passPause, l.Every)); err != nil {
			return err
		}
	}
}

// sweep removes what belongs to no job.
func (l *Lead) sweep(ctx context.Context) {
	n, err := l.Queue.Orphans(ctx, orphanAge)
	l.Counters.Orphans.Add(int64(n))
	if err != nil && ctx.Err() == nil {
		l.Logger.Warn("remove orphans", "error", err)
	}
}

// pass looks at every record once. young: some had changed too recently to
// tell whether their hint is missing.
func (l *Lead) pass(ctx context.Context, given map[string]time.Time) (young bool, err error) {
	view := hints{now: time.Now(), grace: l.Grace, given: given}
	if view.heads, err = l.Queue.Heads(ctx); err != nil {
		return false, err
	}
	if view.ready, err = l.Queue.InReady(ctx); err != nil {
		return false, err
	}
	var suspects []queue.Summary
	err = l.Queue.Records(ctx, func(s queue.Summary) error {
		switch view.judge(s) {
		case suspect:
			suspects = append(suspects, s)
		case tooYoung:
			young = true
		}
		return nil
	})
	if err != nil {
		return false, err
	}
	restored, abandoned := 0, 0
	for _, s := range suspects {
		found, err := l.mend(ctx, s)
		switch {
		case err != nil:
			return false, err
		case found && s.State.Final():
		case found && (s.State == job.Running || s.State == job.Canceling):
			abandoned++
		case found:
			restored++
		}
		if found {
			given[s.ID] = time.Now()
		}
	}
	view.forget()
	l.Counters.Passes.Add(1)
	l.Counters.Restored.Add(int64(restored))
	l.Counters.Abandoned.Add(int64(abandoned))
	if restored+abandoned > 0 {
		l.Logger.Info("reconciled", "restored", restored, "abandoned", abandoned)
	}
	return young, nil
}

func (l *Lead) mend(ctx context.Context, s queue.Summary) (bool, error) {
	if s.State == job.Running || s.State == job.Canceling {
		return l.Queue.Abandon(ctx, s)
	}
	return l.Queue.Restore(ctx, s)
}

// hints is what a pass knows of the hints there are.
type hints struct {
	now   time.Time
	grace time.Duration
	heads map[string]time.Time // since when the first hint of a lane waits
	ready map[string]bool      // jobs with a hint in READY
	given map[string]time.Time // jobs whose hint was given again, and when
}

type judgement int

const (
	fine     judgement = iota
	suspect            // worth a look at the record and its holder
	tooYoung           // ask again later
)

// judge says whether a record may have lost its hint or its holder. Release
// is first in, first out within a lane: a job that is older than the head of
// its lane has left it.
func (h hints) judge(s queue.Summary) judgement {
	switch s.State {
	case job.Running, job.Canceling:
		return suspect // its holder's key says more
	case job.Queued, job.Retrying:
	default:
		return fine
	}
	if h.ready[s.ID] {
		return fine
	}
	if s.NotBefore.After(h.now) {
		return suspect // its timer must be there
	}
	since := s.UpdatedAt
	if s.NotBefore.After(since) {
		since = s.NotBefore
	}
	if at, ok := h.given[s.ID]; ok && at.After(since) {
		since = at
	}
	if h.now.Sub(since) < h.grace {
		return tooYoung
	}
	if head, waits := h.heads[s.Lane()]; waits && !since.Add(h.grace).Before(head) {
		return fine // it stands in its lane, behind the head
	}
	return suspect
}

// forget drops what no lane can hold any more.
func (h hints) forget() {
	for id, at := range h.given {
		if h.now.Sub(at) > time.Hour {
			delete(h.given, id)
		}
	}
}
