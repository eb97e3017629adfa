package worker

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/sandlot-dev/sandlot/pkg/job"
	"github.com/sandlot-dev/sandlot/pkg/queue"
	"github.com/sandlot-dev/sandlot/pkg/telemetry"
)

// slotContexts end one after the other: first nothing is taken any more, then
// nothing runs any more, then nothing is reported any more.
type slotContexts struct{ taking, running, reporting context.Context }

// skipPause keeps a slot from taking at once again what it gave back.
const skipPause = time.Second

// slot takes one job after the other, while the gate is open, and runs each
// to its end.
func (w *Worker) slot(until *slotContexts, g *gate, place *queue.Registration) {
	for pause := time.Duration(0); ; {
		taking, leave, ok := g.enter(until.taking)
		if !ok {
			return
		}
		delivery, err := w.Queue.Take(taking, place)
		switch {
		case err == nil:
			pause = 0
			w.one(&slotContexts{taking, until.running, until.reporting}, place, delivery)
		case taking.Err() == nil:
			w.log.Warn("cannot take a job", "error", err)
			pause = min(max(2*pause, 100*time.Millisecond), 5*time.Second)
			_ = sleep(taking, pause)
		}
		leave()
	}
}

// one runs one job that was taken: it waits for room, claims and runs it.
func (w *Worker) one(until *slotContexts, place *queue.Registration, delivery queue.Delivery) {
	ctx, recording := w.Telemetry.Job(telemetry.WithTraceParent(until.reporting, delivery.Record.TraceParent))
	log := w.log.With("job", delivery.Record.ID)
	_, span := telemetry.StartAt(ctx, telemetry.Take, delivery.TakenAt)
	spec, need, err := w.admit(until.taking, delivery.Record)
	span.End(err)
	if err != nil {
		log.InfoContext(ctx, "gave a job back", "reason", err)
		if err := w.Queue.Skip(ctx, delivery); err != nil {
			log.WarnContext(ctx, "cannot give a job back", "error", err)
		}
		_ = sleep(until.taking, skipPause)
		return
	}
	free := func() { w.memory.Release(need) }
	defer func() { free() }()

	_, span = telemetry.Start(ctx, telemetry.Claim)
	claim, err := w.Queue.Claim(ctx, place, delivery)
	span.End(err)
	if errors.Is(err, job.ErrStale) {
		log.DebugContext(ctx, "job is not to be had", "reason", err)
		return
	}
	if err != nil {
		log.WarnContext(ctx, "cannot claim a job", "error", err)
		return
	}
	a := w.newAttempt(claim, spec, recording, log)
	a.prepared = func() { w.warmed(place, claim.Record.Image.Digest) }
	stoppable, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	defer context.AfterFunc(until.running, func() { stop(context.Cause(until.running)) })()
	if end := claim.Record.Budgets.EndBy(claim.Record.AcceptedAt); !end.IsZero() {
		defer time.AfterFunc(time.Until(end), func() { stop(ErrExpired) }).Stop()
	}
	w.held.add(a, stop)
	defer w.held.remove(a)
	// The job has its answer before its sandbox is cleared away, and nothing of
	// it runs any more by then; its memory is free after that.
	if box := a.work(stoppable, ctx); box != nil {
		w.clear(func() { a.remove(ctx, box) }, free)
		free = func() {}
	}
}

// clear clears a sandbox away while its slot goes on. No more than one per slot
// are under way at a time.
func (w *Worker) clear(remove, free func()) {
	w.clearing <- struct{}{}
	w.cleared.Go(func() {
		remove()
		free()
		<-w.clearing
	})
}

// errNoRoom: the job does not fit beside those that run.
var errNoRoom = errors.New("no room in memory")

// admit reads what is to run and waits until it fits into the memory beside
// what runs already; need is how much of it is taken then.
func (w *Worker) admit(ctx context.Context, record job.Record) (spec job.Spec, need int64, err error) {
	if spec, err = w.spec(ctx, record); err != nil {
		return spec, 0, err
	}
	need = int64(spec.Limits.Memory + w.Allowance)
	if need > int64(w.Memory) {
		return spec, 0, fmt.Errorf("needs %s of %s: %w", job.Bytes(need), w.Memory, errNoRoom)
	}
	waiting, cancel := context.WithTimeoutCause(ctx, roomWait, errNoRoom)
	defer cancel()
	if err := w.memory.Acquire(waiting, need); err != nil {
		return spec, 0, context.Cause(waiting)
	}
	return spec, need, nil
}

// spec is what the record says is to run, or what the object that it refers
// to says.
func (w *Worker) spec(ctx context.Context, record job.Record) (spec job.Spec, err error) {
	if record.Spec != nil {
		return *record.Spec, nil
	}
	object, _, err := w.Queue.Open(ctx, queue.Inputs, record.SpecRef)
	if err != nil {
		return spec, fmt.Errorf("open spec %q: %w", record.SpecRef, err)
	}
	defer func() { err = errors.Join(err, object.Close()) }()
	if err := json.NewDecoder(object).Decode(&spec); err != nil {
		return spec, fmt.Errorf("read spec %q: %w", record.SpecRef, err)
	}
	return spec, nil
}

// sleep waits for d, or fails when ctx ends first.
func sleep(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
