package scheduler

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/sandlot-dev/sandlot/pkg/job"
	"github.com/sandlot-dev/sandlot/pkg/queue"
)

const (
	// releasePoll is the net below the signals that wake the loop.
	releasePoll = time.Second
	// releaseBatch is how many hints of a lane are moved at once.
	releaseBatch = 64
	// READY is kept between these depths: what lies there is in the order of
	// its release, and no later job of a better priority gets before it.
	shallow, deep = 8, 512
)

// release decides whose turn it is: it keeps READY just so full that no slot
// waits for it, taking hints from the lanes of the best priority first.
func (l *Lead) release(ctx context.Context, lease *queue.Lease) error {
	wakes, stop, err := l.Queue.Wakes()
	if err != nil {
		return err
	}
	defer stop()
	poll := time.NewTicker(releasePoll)
	defer poll.Stop()
	level := level{target: shallow}
	for {
		err := l.fill(ctx, lease, &level)
		switch {
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case errors.Is(err, job.ErrLostClaim):
			return err // another leads
		case err != nil:
			l.Logger.Warn("release", "error", err)
			if err := wait(ctx, 200*time.Millisecond); err != nil {
				return err
			}
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-wakes:
		case <-poll.C:
		}
	}
}

// fill releases until READY is as full as it should be or no hint waits.
func (l *Lead) fill(ctx context.Context, lease *queue.Lease, level *level) error {
	for {
		depth, err := l.Queue.Depth(ctx)
		if err != nil {
			return err
		}
		room := level.room(depth)
		if room <= 0 {
			return nil
		}
		lanes, err := l.Queue.Lanes(ctx)
		if err != nil || len(lanes) == 0 {
			return err
		}
		moved, err := l.releaseBest(ctx, lease, lanes, room)
		if err != nil || moved == 0 {
			return err
		}
	}
}

// releaseBest releases up to n hints of the best priority there is, in turns
// from the lanes that have it.
func (l *Lead) releaseBest(ctx context.Context, lease *queue.Lease, lanes []queue.Lane, n int) (moved int, err error) {
	best := slices.MinFunc(lanes, func(a, b queue.Lane) int { return a.Priority - b.Priority }).Priority
	lanes = slices.DeleteFunc(lanes, func(lane queue.Lane) bool { return lane.Priority != best })
	share := max(1, min(n/len(lanes), releaseBatch))
	for _, lane := range lanes {
		if n <= 0 {
			break
		}
		done, err := l.Queue.Release(ctx, lease, lane, min(share, n))
		l.Counters.Released.Add(int64(done.Released))
		l.Counters.Dropped.Add(int64(done.Dropped))
		moved += done.Released + done.Dropped
		n -= done.Released
		if err != nil {
			return moved, err
		}
	}
	return moved, nil
}

// level finds the depth of READY at which slots never wait: it rises while
// they do, and sinks slowly while they do not.
type level struct{ target int }

// room is how many hints READY should get now.
func (v *level) room(d queue.Depth) int {
	floor := max(shallow, 2*d.Asking)
	switch {
	case d.Waiting == 0 && d.Asking > 0:
		v.target = min(2*v.target, deep)
	case d.Waiting > v.target/2:
		v.target -= max(1, v.target/16)
	}
	v.target = max(v.target, floor)
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
