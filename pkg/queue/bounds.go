package queue

import (
	"context"
	"fmt"
	"sync"
	"time"
)

// bounds keeps room in the record streams: at their limit even a record that
// only changes its state could not be written, so new ones stop at 80 %.
type bounds struct {
	mu     sync.Mutex
	asked  time.Time
	room   []int64 // bytes left below the line, per shard
	intake int64
	timers int64
}

const (
	recordShare = 0.8
	intakeShare = 0.9
	// hintSize is about what a hint takes in its stream.
	hintSize = 512
	// maxTimers bounds DELAY, whose timers the server keeps in memory.
	maxTimers = 1_000_000
)

// admit counts one record of the given size and what prompts it, or refuses
// it.
func (b *bounds) admit(ctx context.Context, q *Queue, s Summary, size int) error {
	shard, timers := q.shard(s.ID), int64(len(s.timers(time.Now())))
	b.mu.Lock()
	defer b.mu.Unlock()
	if time.Since(b.asked) > time.Second {
		if err := q.room.check(); err != nil {
			return err
		}
		if err := b.ask(ctx, q); err != nil {
			return err
		}
	}
	// A record is written three times at least, and its result is larger
	// than its spec; only the last of them stays.
	need := int64(2*size + 1024)
	if b.room[shard] < need {
		return &FullError{What: fmt.Sprintf("records are at %.0f %% of their space", 100*recordShare), RetryAfter: 5 * time.Second}
	}
	if b.intake < hintSize {
		return &FullError{What: fmt.Sprintf("waiting jobs are at %.0f %% of their space", 100*intakeShare), RetryAfter: 5 * time.Second}
	}
	if b.timers < timers {
		return &FullError{What: fmt.Sprintf("%d jobs wait for a time, and no more can", maxTimers), RetryAfter: 30 * time.Second}
	}
	b.room[shard] -= need
	b.timers -= timers
	b.intake -= hintSize
	return nil
}

func (b *bounds) ask(ctx context.Context, q *Queue) error {
	room := make([]int64, q.layout.shards)
	for s := range room {
		left, err := q.roomIn(ctx, recordStream(s), recordShare)
		if err != nil {
			return err
		}
		room[s] = left
	}
	intake, err := q.roomIn(ctx, intakeStream, intakeShare)
	if err != nil {
		return err
	}
	delay, err := q.streamInfo(ctx, delayStream, "")
	if err != nil {
		return err
	}
	b.room, b.intake, b.timers, b.asked = room, intake, maxTimers-int64(delay.State.Msgs), time.Now()
	return nil
}

// roomIn is how many bytes a stream may still take below a share of its limit.
func (q *Queue) roomIn(ctx context.Context, name string, share float64) (int64, error) {
	info, err := q.streamInfo(ctx, name, "")
	if err != nil {
		return 0, err
	}
	return int64(share*float64(info.Config.MaxBytes)) - int64(info.State.Bytes), nil
}
