package scheduler

import (
	"context"
	"errors"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/sandlot-dev/sandlot/pkg/job"
	"github.com/sandlot-dev/sandlot/pkg/queue"
)

const (
	// releasePoll is the net below the signals that wake the loop.
	releasePoll = time.Second
	// cappedAgain is when lanes at their cap are looked at again first, then
	// twice as long after that, and so on: the end of a job is told a moment
	// before its hint is gone.
	cappedAgain = 5 * time.Millisecond
	// READY is kept between these depths: what lies there is in the order of
	// its release, and no later job of a better priority gets before it.
	shallow, deep = 8, 512
)

// releaser decides whose turn it is while this process leads.
type releaser struct {
	*Lead
	class   string
	lease   *queue.Lease
	backlog *backlog
	fair    *fair
	level   level
	// patience is when to look again at who is at a cap.
	patience time.Duration
}

// release releases the hints of every class of a pool.
func (l *Lead) release(ctx context.Context, lease *queue.Lease) error {
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error {
		ends := map[string]context.CancelFunc{}
		for {
			pool, changed := l.led.look(lease.Pool())
			for _, c := range pool.Classes {
				if ends[c.Name] != nil {
					continue
				}
				ctx, end := context.WithCancel(ctx)
				ends[c.Name] = end
				group.Go(func() error {
					if err := l.releaseClass(ctx, lease, c.Name); ctx.Err() == nil {
						return err
					}
					return nil // removed, or not leading any more
				})
			}
			for name, end := range ends {
				if _, stays := pool.Class(name); !stays {
					end()
					delete(ends, name)
				}
			}
			select {
			case <-ctx.Done():
				return context.Cause(ctx)
			case <-changed:
			}
		}
	})
	return group.Wait()
}

// releaseClass keeps READY just so full that no slot waits for it, taking
// hints from the lanes in the order that fair decides.
func (l *Lead) releaseClass(ctx context.Context, lease *queue.Lease, class string) error {
	r := &releaser{Lead: l, class: class, lease: lease, backlog: newBacklog(l.Queue, lease.Pool(), class), fair: newFair(l.Aging, l.tokens), level: level{target: shallow}, patience: cappedAgain}
	wakes, stop, err := l.Queue.Wakes(lease.Pool(), class, r.backlog.arrive)
	if err != nil {
		return err
	}
	defer stop()
	timer := time.NewTimer(releasePoll)
	defer timer.Stop()
	for {
		changed := l.settings.changes()
		again, err := r.fill(ctx)
		switch {
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case errors.Is(err, job.ErrLostClaim):
			return err // another leads
		case err != nil:
			l.Logger.Warn("release", "pool", lease.Pool(), "error", err)
			if err := wait(ctx, 200*time.Millisecond); err != nil {
				return err
			}
		}
		timer.Reset(again)
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-wakes:
			r.patience = cappedAgain
		case <-changed:
		case <-timer.C:
			r.patience = min(2*r.patience, releasePoll)
		}
	}
}

// fill releases until READY is as full as it should be or no hint may go, and
// says when to look again if nothing happens until then.
func (r *releaser) fill(ctx context.Context) (again time.Duration, err error) {
	for {
		if pool, _ := r.led.look(r.lease.Pool()); pool.Paused {
			return releasePoll, nil
		}
		if err := r.backlog.refresh(ctx); err != nil {
			return releasePoll, err
		}
		lanes := r.backlog.waiting()
		if len(lanes) == 0 {
			r.level.more = false
			return releasePoll, nil
		}
		depth, err := r.Queue.Depth(ctx, r.lease.Pool(), r.class)
		if err != nil {
			return releasePoll, err
		}
		room := r.level.room(depth, time.Now())
		if room <= 0 {
			return releasePoll, nil
		}
		moved, held, err := r.turn(ctx, lanes, room)
		if err != nil || moved == 0 {
			return held.wait(time.Now(), r.patience), err
		}
	}
}

// turn deals the room out among the lanes, and releases.
func (r *releaser) turn(ctx context.Context, lanes []waiting, room int) (moved int, h held, err error) {
	var out map[scoped]int
	if r.settings.anyCap(lanes) {
		// One at a time: two who count the same would exceed a cap.
		r.capped.Lock()
		defer r.capped.Unlock()
		if out, err = r.out(ctx); err != nil {
			return 0, h, err
		}
	}
	turns, h := r.fair.deal(table{
		now: time.Now(), room: room, lanes: lanes, share: r.settings.share, revision: r.settings.version(),
		out: func(tenant, queue string) int { return out[scoped{tenant, queue}] },
	})
	r.level.more = sumOf(turns) == room
	moved, err = r.move(ctx, turns)
	return moved, h, err
}

// wait is how long until those that were held back may go.
func (h held) wait(now time.Time, capped time.Duration) time.Duration {
	d := releasePoll
	if h.capped {
		d = capped
	}
	if !h.token.IsZero() {
		d = min(d, max(h.token.Sub(now), time.Millisecond))
	}
	return d
}

// out counts what tenants and queues have in READY, of all pools.
func (r *releaser) out(ctx context.Context) (map[scoped]int, error) {
	out := map[scoped]int{}
	for _, pool := range r.led.list() {
		list, err := r.Queue.Out(ctx, pool.Name)
		if err != nil {
			return nil, err
		}
		for _, o := range list {
			out[scoped{o.Tenant, ""}] += int(o.Hints)
			out[scoped{o.Tenant, o.Queue}] += int(o.Hints)
		}
	}
	return out, nil
}

func sumOf(turns []turn) int {
	n := 0
	for _, t := range turns {
		n += t.n
	}
	return n
}

// move releases the turns, and gives back what came to nothing.
func (r *releaser) move(ctx context.Context, turns []turn) (moved int, err error) {
	if len(turns) == 0 {
		return 0, nil
	}
	ask := make([]queue.Turn, len(turns))
	for i, t := range turns {
		ask[i] = queue.Turn{Lane: t.lane.Lane, N: t.n}
	}
	marks := r.backlog.marks(turns)
	done, err := r.Queue.Release(ctx, r.lease, ask...)
	for i, t := range turns {
		if err == nil {
			r.backlog.moved(t, marks[i], done[i])
		}
		r.fair.giveBack(t.lane.Lane, t.n-done[i].Released)
		r.Counters.released(t.lane.Tenant, done[i].Released)
		r.Counters.Dropped.Add(int64(done[i].Dropped))
		moved += done[i].Released + done[i].Dropped
	}
	if err != nil {
		r.backlog.doubt()
	}
	return moved, err
}

// level finds the depth of READY at which slots never wait: it rises when
// they do although there was more to release, and sinks while the least that
// lay there was plenty.
type level struct {
	target int
	least  int       // that lay there since
	since  time.Time // then
	raised time.Time
	// more: there was more to release than there was room for.
	more bool
}

const (
	// levelSpan is how long READY must have held plenty for the level to sink.
	levelSpan = 200 * time.Millisecond
	// levelPause is the time that a raise is given to show.
	levelPause = 5 * time.Millisecond
)

// room is how many hints READY should get now: none while it is half full, so
// that they come in numbers that are worth the trip.
func (v *level) room(d queue.Depth, now time.Time) int {
	v.least = min(v.least, d.Waiting)
	switch {
	case v.more && d.Waiting == 0 && d.Asking > 0 && now.Sub(v.raised) > levelPause:
		v.target, v.raised = min(2*v.target, deep), now
		v.least, v.since = 0, now
	case now.Sub(v.since) > levelSpan:
		if v.least > v.target/4 {
			v.target -= max(1, v.target/8)
		}
		v.least, v.since = d.Waiting, now
	}
	v.target = max(v.target, shallow, 2*d.Asking)
	if d.Waiting > v.target/2 {
		return 0
	}
	return v.target - d.Waiting
}

// wait waits, or returns why ctx ended.
func wait(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-timer.C:
		return nil
	}
}
