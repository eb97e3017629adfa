package worker

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"time"

	"go.opentelemetry.io/otel/attribute"

	"github.com/sandlot-dev/sandlot/pkg/job"
	"github.com/sandlot-dev/sandlot/pkg/queue"
	"github.com/sandlot-dev/sandlot/pkg/telemetry"
)

// sealTime is how long the store may take to accept a job's output.
const sealTime = 30 * time.Second

// report says in the record how the attempt ended: with a verdict, or with
// another attempt to follow. failure is the error of prepare or run, which
// tells why the attempt was stopped if it was.
func (a *attempt) report(ctx context.Context, failure error, seen job.Observation) {
	switch {
	case errors.Is(failure, job.ErrLostClaim):
		a.worker.Queue.Drop(a.claim)
		a.log.WarnContext(ctx, "claim is lost; the attempt ends in silence")
		return
	case errors.Is(failure, ErrDrained):
		a.again(ctx, seen, job.Attempt{Outcome: job.Drained, Detail: "the worker was stopped"}, 0)
		return
	case errors.Is(failure, ErrExpired) && seen.Ended == "":
		seen.Ended = job.HasExpired
	case failure != nil && seen.Fault == "" && seen.Ended == "":
		fault := faulty(failure)
		seen.Fault, seen.FaultReason = fault.Fault, fault.FaultReason
	}
	a.decide(ctx, seen)
}

// decide judges what was seen. A fault of the platform, or a verdict that the
// job asks to retry, is followed by another attempt while there are any left
// and time for it.
func (a *attempt) decide(ctx context.Context, seen job.Observation) {
	_, span := telemetry.Start(ctx, telemetry.Decide)
	seen.Age = job.MillisOf(time.Since(a.record.AcceptedAt))
	state, verdict := job.Decide(a.spec, seen)
	span.Set(attribute.String(telemetry.KeyState, string(state)),
		attribute.String(telemetry.KeyBlame, string(verdict.Blame)),
		attribute.String(telemetry.KeyReason, string(verdict.Reason)))
	a.record.Timings.Decide = span.End(nil).End

	if verdict.Blame == job.BlamePlatform {
		a.log.WarnContext(ctx, "the platform failed an attempt", "reason", verdict.Reason, "error", verdict.Evidence.Detail)
	}
	outcome, wait, again := a.spec.Retry.Next(a.record.Attempts, verdict, rand.Float64())
	if again && (verdict.Blame == job.BlamePlatform || a.timeFor(wait)) {
		a.again(ctx, seen, job.Attempt{Outcome: outcome, Reason: verdict.Reason, Detail: detail(verdict)}, wait)
		return
	}
	a.commit(ctx, seen, state, verdict)
}

// timeFor reports whether another attempt could begin after a wait: if not,
// this one's own verdict tells more than that the time was over.
func (a *attempt) timeFor(wait time.Duration) bool {
	_, over := a.record.Budgets.Expiry(a.record.AcceptedAt, a.record.Attempt, time.Now().Add(wait))
	return !over
}

// detail is what an attempt says of a verdict that does not stand.
func detail(v job.Verdict) string {
	e := v.Evidence
	switch {
	case e.Detail != "":
		return e.Detail
	case e.Signal != "":
		return "died of " + e.Signal
	case e.ExitCode != nil:
		return fmt.Sprintf("exit code %d", *e.ExitCode)
	case e.Unit != "":
		return fmt.Sprintf("%.0f of %.0f %s", e.Measured, e.Limit, e.Unit)
	}
	return ""
}

// again gives the job back to the queue for another attempt.
func (a *attempt) again(ctx context.Context, seen job.Observation, how job.Attempt, delay time.Duration) {
	a.record.Spans = a.spans()
	var at time.Time
	if delay > 0 {
		at = time.Now().Add(delay)
	}
	err := a.worker.Queue.Retry(ctx, a.claim, how, at)
	if errors.Is(err, queue.ErrCanceling) {
		a.commit(ctx, seen, job.Canceled, job.Verdict{Blame: job.BlameNone, Reason: job.WasCanceled})
		return
	}
	a.told(ctx, err, "outcome", how.Outcome, "reason", how.Reason)
}

// commit writes the final record.
func (a *attempt) commit(ctx context.Context, seen job.Observation, state job.State, verdict job.Verdict) {
	_, span := telemetry.Start(ctx, telemetry.Commit)
	steps, err := a.seal(ctx, seen.Steps)
	if err != nil && state != job.Dead && state != job.Canceled {
		// A result whose output is lost is no result.
		span.End(err)
		seen.Fault, seen.FaultReason, seen.Unfinished = err.Error(), job.SandboxFault, true
		seen.Ended, seen.OOMKills, seen.PIDsHits = "", 0, 0
		a.decide(ctx, seen)
		return
	}
	record := *a.record
	record.State = state
	record.Result = &job.Result{
		Verdict: verdict, Steps: steps, Artifacts: a.artifacts.list, Applied: seen.Applied, Runtime: a.worker.Versions,
	}
	// The record holds the span of its own writing, up to here.
	record.Timings.Commit = span.End(nil).End
	record.Spans = a.spans()
	a.note(&record, verdict)
	err = a.worker.Queue.Commit(ctx, a.claim, record)
	if errors.Is(err, queue.ErrCanceling) && state != job.Canceled {
		a.commit(ctx, seen, job.Canceled, job.Verdict{Blame: job.BlameNone, Reason: job.WasCanceled})
		return
	}
	a.told(ctx, err, "state", state, "blame", verdict.Blame, "reason", verdict.Reason)
}

// note writes into the record how its last attempt ended.
func (a *attempt) note(record *job.Record, verdict job.Verdict) {
	n := len(record.Attempts)
	if n == 0 {
		return
	}
	record.Attempts = slices.Clone(record.Attempts)
	last := &record.Attempts[n-1]
	last.EndedAt, last.Reason = record.Timings.Commit, verdict.Reason
	switch {
	case record.State == job.Canceled:
		last.Outcome = job.AttemptCanceled
	case record.State == job.Expired:
		last.Outcome = job.AttemptExpired
	case verdict.Blame == job.BlamePlatform:
		last.Outcome, last.Detail = job.Fault, verdict.Evidence.Detail
	default:
		last.Outcome = job.Finished
	}
}

// spans are those of earlier attempts and of this one.
func (a *attempt) spans() []job.Span { return slices.Concat(a.earlier, a.recording.Spans()) }

// told logs what became of the report, and lets go of what could not be
// reported.
func (a *attempt) told(ctx context.Context, err error, about ...any) {
	switch {
	case err == nil:
		a.log.InfoContext(ctx, "attempt ended", about...)
	case errors.Is(err, job.ErrLostClaim):
		a.worker.Queue.Drop(a.claim)
		a.log.WarnContext(ctx, "claim is lost; nothing was reported", "error", err)
	default:
		// A claim that is not held is ended by whoever looks at the job next.
		a.worker.Queue.Drop(a.claim)
		a.log.ErrorContext(ctx, "attempt was not reported", "error", err)
	}
}

// seal puts the outputs into the results of their steps and stores in full
// what the record cannot hold.
func (a *attempt) seal(ctx context.Context, steps []job.StepResult) ([]job.StepResult, error) {
	ctx, cancel := context.WithTimeout(ctx, sealTime)
	defer cancel()
	var first error
	keep := a.output.fit()
	sealed := slices.Clone(steps)
	for i := range sealed {
		for stream, out := range map[Stream]*job.Output{Stdout: &sealed[i].Stdout, Stderr: &sealed[i].Stderr} {
			c := a.output.captures[captureKey{i, stream}]
			*out = c.inline(keep)
			if !out.Truncated {
				continue
			}
			ref := fmt.Sprintf("%s/%d/%s", a.prefix(), i, stream)
			if err := a.store(ctx, ref, c); err == nil {
				out.Ref = ref
			} else if first == nil {
				first = fmt.Errorf("store %s of step %q: %w", stream, sealed[i].Name, err)
			}
		}
	}
	return sealed, first
}

// store puts the whole of a stream into the store; it tries until ctx ends.
func (a *attempt) store(ctx context.Context, ref string, c *capture) error {
	for pause := 50 * time.Millisecond; ; pause = min(2*pause, 2*time.Second) {
		err := a.artifacts.store.PutOutput(ctx, ref, c.whole())
		if err == nil {
			return nil
		}
		a.log.WarnContext(ctx, "cannot store output, trying again", "error", err)
		if sleep(ctx, pause) != nil {
			return err
		}
	}
}

// whole reads all bytes of the stream from the start.
func (c *capture) whole() io.Reader {
	if c.file == nil {
		return bytes.NewReader(c.head)
	}
	return io.NewSectionReader(c.file, 0, c.bytes)
}
