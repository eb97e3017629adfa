package queue

import (
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"strconv"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/sandlot-dev/sandlot/pkg/job"
)

// timerRun is the timer that has a job looked at when it is due.
const timerRun = "run"

// timer has a job looked at at a given time. There is one per job and kind;
// publishing it again replaces it.
func (q *Queue) timer(s Summary, kind string, at time.Time) *nats.Msg {
	msg := q.hint(timerSubject(s.Tenant, s.ID, kind), s)
	// Written here since the client's own option cuts off the fraction of
	// the second, and the timer would go off early.
	msg.Header.Set(jetstream.ScheduleHeader, "@at "+at.UTC().Format(time.RFC3339Nano))
	msg.Header.Set(jetstream.ScheduleTargetHeader, dueSubject(s.Pool, s.Tenant, s.Priority))
	return msg
}

// timersOf is how many timers a job needs when it is accepted.
func timersOf(s Summary) int {
	if time.Until(s.NotBefore) > shortWait {
		return 1
	}
	return 0
}

// setTimer has a job that waits looked at when it is due.
func (q *Queue) setTimer(ctx context.Context, s Summary) error {
	_, err := q.publish(ctx, q.timer(s, timerRun, s.NotBefore))
	return err
}

// dropTimers removes the timers of a job. What is left of them does nothing.
func (q *Queue) dropTimers(ctx context.Context, s stored) {
	stream, err := q.js.Stream(ctx, delayStream)
	if err == nil {
		err = stream.Purge(ctx, jetstream.WithPurgeSubject(timerSubject(s.Tenant, s.ID, "*")))
	}
	if err != nil {
		q.log.Debug("drop timers", "job", s.ID, "error", err)
	}
}

// Due gives hints of jobs whose timers went off, until ctx ends. It acts on
// the record alone, so a timer that is forged or late does nothing.
func (q *Queue) Due(ctx context.Context) error {
	for {
		err := q.due(ctx)
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		q.log.Debug("follow timers again", "error", err)
		if ended := pause(ctx, 500*time.Millisecond); ended != nil {
			return ended
		}
	}
}

func (q *Queue) due(ctx context.Context) error {
	consumer, err := q.js.Consumer(ctx, delayStream, dueConsumer)
	if err != nil {
		return fmt.Errorf("timers: %w", err)
	}
	iter, err := consumer.Messages(jetstream.PullMaxMessages(64), jetstream.PullHeartbeat(5*time.Second),
		jetstream.WithMessagesErrOnMissingHeartbeat(true))
	if err != nil {
		return fmt.Errorf("timers: %w", err)
	}
	defer iter.Stop()
	for {
		m, err := iter.Next(jetstream.NextContext(ctx))
		if err != nil {
			return fmt.Errorf("timers: %w", err)
		}
		if err := q.wakeUp(ctx, m); err != nil {
			q.log.Warn("timer", "job", m.Headers().Get(headerJob), "error", err)
			continue // it comes again
		}
		// An acknowledgement that is lost costs another look at the record.
		if err := m.Ack(); err != nil {
			return fmt.Errorf("timers: %w", err)
		}
	}
}

// wakeUp gives a job's hint if it is due.
func (q *Queue) wakeUp(ctx context.Context, m jetstream.Msg) error {
	meta, err := m.Metadata()
	if err != nil {
		return err
	}
	// At the leader: an older state would let the timer go unheard.
	s, err := q.readAtLeader(ctx, m.Headers().Get(headerTenant), m.Headers().Get(headerJob))
	if errors.Is(err, job.ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	if s.State != job.Retrying && s.State != job.Queued {
		return nil
	}
	if time.Until(s.NotBefore) > shortWait {
		return q.setTimer(ctx, s.summary())
	}
	return q.giveHint(ctx, s.summary(), "due"+strconv.FormatUint(meta.Sequence.Stream, 10))
}

// Timers is which timers there are, as they were when it was asked for.
type Timers struct {
	// set has hashes instead of names: there may be a million.
	set  map[uint64]struct{}
	seed maphash.Seed
}

// Timers asks which timers there are.
func (q *Queue) Timers(ctx context.Context) (Timers, error) {
	t := Timers{set: map[uint64]struct{}{}, seed: maphash.MakeSeed()}
	for {
		names, total, err := q.subjects(ctx, delayStream, "sched.>", len(t.set))
		if err != nil {
			return t, fmt.Errorf("list timers: %w", err)
		}
		for name := range names {
			t.set[maphash.String(t.seed, name)] = struct{}{}
		}
		if len(names) == 0 || len(t.set) >= total {
			return t, nil
		}
	}
}

// Due reports whether the timer is there that has a waiting job looked at
// when it is due.
func (t Timers) Due(s Summary) bool { return t.has(s, timerRun) }

func (t Timers) has(s Summary, kind string) bool {
	_, ok := t.set[maphash.String(t.seed, timerSubject(s.Tenant, s.ID, kind))]
	return ok
}
