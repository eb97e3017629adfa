package queue

import (
	"context"
	"encoding/json"
	"errors"
	"time"

	"github.com/sandlot-dev/sandlot/pkg/job"
)

// LogChunk is a piece of what a job printed.
type LogChunk struct {
	Schema  int       `json:"schema"`
	Job     string    `json:"job"`
	Attempt int       `json:"attempt"`
	Step    string    `json:"step"`
	Stream  string    `json:"stream"` // "stdout" or "stderr"
	Offset  int64     `json:"offset"` // of Data in its stream of the step
	Data    []byte    `json:"data"`   // at most 32 KiB
	At      time.Time `json:"at"`
	// Seq orders the chunks; set by the reader.
	Seq uint64 `json:"-"`
}

// maxLogChunk bounds what one chunk carries.
const maxLogChunk = 64 << 10

// Log sends a chunk to whoever follows, without waiting. False: it was
// dropped because the server does not keep up; the complete output stands in
// the result anyway.
func (q *Queue) Log(chunk LogChunk) bool {
	chunk.Schema = job.Schema
	body, err := json.Marshal(chunk)
	if err != nil || len(chunk.Data) > maxLogChunk || checkToken(chunk.Job) != nil ||
		!q.nc.IsConnected() || q.logs.PublishAsyncPending() >= logWindow/2 {
		q.droppedLogs.Add(1)
		return false
	}
	msg := q.message(logSubject(q.shard(chunk.Job), chunk.Job))
	msg.Data = body
	if _, err := q.logs.PublishMsgAsync(msg); err != nil {
		q.droppedLogs.Add(1)
		return false
	}
	return true
}

// FollowLogs calls fn for every kept chunk of a job after the given sequence
// and then for new ones: until ctx ends, fn returns an error, or, done being
// closed, all that was stored by then has been passed. Nil done means never.
func (q *Queue) FollowLogs(ctx context.Context, id string, after uint64, done <-chan struct{}, fn func(LogChunk) error) error {
	if checkToken(id) != nil {
		return nil // nothing can be there
	}
	each := func(m message) error {
		var chunk LogChunk
		if checkSchema(m.header) != nil || json.Unmarshal(m.data, &chunk) != nil {
			return nil
		}
		chunk.Seq, after = m.seq, m.seq
		return fn(chunk)
	}
	t := tail{stream: logStream, filter: logSubject(q.shard(id), id), each: each}
	if err := q.tailUntil(ctx, done, &after, t); err != nil {
		return err
	}
	// What arrived between the last chunk and done.
	t.after, t.caughtUp = after, func() error { return errTailDone }
	return q.tail(ctx, t)
}

// tailUntil tails live until done is closed.
func (q *Queue) tailUntil(ctx context.Context, done <-chan struct{}, after *uint64, t tail) error {
	select {
	case <-done:
		return nil
	default:
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	stop := make(chan struct{})
	defer close(stop)
	go func() {
		select {
		case <-done:
			cancel(errTailDone)
		case <-stop:
		}
	}()
	t.after = *after
	err := q.tail(ctx, t)
	if errors.Is(err, errTailDone) {
		return nil
	}
	return err
}
