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

// The kinds of timers. What a timer is for is of no matter to who looks: the
// record says what is to be done.
const (
	timerRun     = "run"      // when the job is due
	timerStartBy = "start_by" // when budgets.start_by is over
	timerTotal   = "total"    // when budgets.total is
)

// waits reports whether a job is not due, so that it has a timer and no hint.
func (s Summary) waits(now time.Time) bool { return s.NotBefore.Sub(now) > shortWait }

// timers are those that a waiting job has, by kind.
func (s Summary) timers(now time.Time) map[string]time.Time {
	var all map[string]time.Time
	set := func(kind string, at time.Time) {
		if all == nil {
			all = map[string]time.Time{}
		}
		all[kind] = at
	}
	if s.waits(now) {
		set(timerRun, s.NotBefore)
	}
	if s.Budgets.StartBy > 0 && s.Attempt == 0 {
		set(timerStartBy, job.Budgets{StartBy: s.Budgets.StartBy}.Deadline(s.AcceptedAt, 0))
	}
	if s.Budgets.Total > 0 {
		set(timerTotal, s.Budgets.EndBy(s.AcceptedAt))
	}
	return all
}

// timer has a job looked at at a given time. There is one per job and kind;
// publishing it again replaces it.
func (q *Queue) timer(s Summary, kind string, at time.Time) *nats.Msg {
	msg := q.hint(timerSubject(s.Tenant, s.ID, kind), s)
	msg.Header.Set(headerTimer, kind)
	// Written here since the client's own option cuts off the fraction of
	// the second, and the timer would go off early.
	msg.Header.Set(jetstream.ScheduleHeader, "@at "+at.UTC().Format(time.RFC3339Nano))
	msg.Header.Set(jetstream.ScheduleTargetHeader, dueSubject(s.Pool, s.Tenant, s.Priority))
	return msg
}

// setTimer has a job that waits looked at when it is due.
func (q *Queue) setTimer(ctx context.Context, s Summary) error {
	_, err := q.publish(ctx, q.timer(s, timerRun, s.NotBefore))
	return err
}

// dropTimers removes the timers that a job may have had when it was as in s.
// What is left of them does nothing, so nobody waits for it. A message that
// lives for a second takes the place of each: that needs no right to purge.
func (q *Queue) dropTimers(s Summary) {
	s.Attempt = 0
	for kind := range s.timers(time.Time{}) {
		msg := q.message(timerSubject(s.Tenant, s.ID, kind))
		msg.Header.Set(jetstream.MsgRollup, jetstream.MsgRollupSubject)
		msg.Header.Set(jetstream.MsgTTLHeader, "1s")
		if err := q.nc.PublishMsg(msg); err != nil {
			q.log.Debug("drop timers", "job", s.ID, "error", err)
		}
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

// wakeUp looks at a job one of whose timers went off.
func (q *Queue) wakeUp(ctx context.Context, m jetstream.Msg) error {
	meta, err := m.Metadata()
	if err != nil {
		return err
	}
	for {
		s, err := q.read(ctx, m.Headers().Get(headerTenant), m.Headers().Get(headerJob))
		if errors.Is(err, job.ErrNotFound) {
			return nil
		}
		if err != nil {
			return err
		}
		if s.State != job.Retrying && s.State != job.Queued {
			return nil // who runs it keeps its time
		}
		ended, err := q.expire(ctx, s, time.Now())
		if errors.Is(err, errMoved) {
			continue
		}
		if ended || err != nil {
			return err
		}
		sum, kind := s.summary(), m.Headers().Get(headerTimer)
		if kind == "" {
			kind = timerRun // of the release before there were others
		}
		if at, early := sum.timers(time.Now())[kind]; early {
			_, err := q.publish(ctx, q.timer(sum, kind, at))
			return err
		}
		if kind != timerRun {
			return nil
		}
		return q.giveHint(ctx, sum, "due"+strconv.FormatUint(meta.Sequence.Stream, 10))
	}
}

// expire ends a waiting job if one of its budgets is over; errMoved if the
// record says something else by now.
func (q *Queue) expire(ctx context.Context, s stored, now time.Time) (ended bool, err error) {
	verdict, over := s.Budgets.Expiry(s.AcceptedAt, s.Attempt, now)
	if !over {
		return false, nil
	}
	if err := job.Change(s.State, s.Attempt, job.EventExpire, s.Attempt, job.Expired); err != nil {
		return false, err
	}
	before := s.summary()
	s.State = job.Expired
	s.end(now.UTC(), verdict)
	if _, err := q.put(ctx, s); err != nil {
		return false, err
	}
	q.dropTimers(before)
	return true, nil
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

// Missing reports whether a waiting job lacks one of its timers, or one of
// its budgets was over some time ago and it waits all the same.
func (t Timers) Missing(s Summary, now time.Time, grace time.Duration) bool {
	if _, over := s.Budgets.Expiry(s.AcceptedAt, s.Attempt, now); over {
		_, long := s.Budgets.Expiry(s.AcceptedAt, s.Attempt, now.Add(-grace))
		return long
	}
	for kind := range s.timers(now) {
		if _, there := t.set[maphash.String(t.seed, timerSubject(s.Tenant, s.ID, kind))]; !there {
			return true
		}
	}
	return false
}
