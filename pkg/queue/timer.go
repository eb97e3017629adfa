package queue

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/sandlot-dev/sandlot/pkg/job"
)

// timerRun is the timer that has a job looked at when it is due.
const timerRun = "run"

// setTimer has the job looked at when it is due. There is one timer per job
// and kind; setting it again replaces it.
func (q *Queue) setTimer(ctx context.Context, s Summary) error {
	msg := q.hint(timerSubject(s.Tenant, s.ID, timerRun), s)
	// Written here since the client's own option cuts off the fraction of
	// the second, and the timer would go off early.
	msg.Header.Set(jetstream.ScheduleHeader, "@at "+s.NotBefore.UTC().Format(time.RFC3339Nano))
	msg.Header.Set(jetstream.ScheduleTargetHeader, dueSubject(s.Pool, s.Tenant, s.Priority))
	_, err := q.publish(ctx, msg)
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
		if err := m.DoubleAck(ctx); err != nil {
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
