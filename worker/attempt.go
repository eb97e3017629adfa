package worker

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"path/filepath"
	"strings"
	"time"

	"go.opentelemetry.io/otel/attribute"

	"github.com/sandlot-dev/sandlot/pkg/job"
	"github.com/sandlot-dev/sandlot/pkg/queue"
	"github.com/sandlot-dev/sandlot/pkg/telemetry"
)

const (
	// closeTime is how long a sandbox may take to be removed.
	closeTime = 30 * time.Second
)

// attempt is one try at one job, from its claim to its commit.
type attempt struct {
	worker    *Worker
	claim     *queue.Claim
	record    *job.Record // the claim's
	spec      job.Spec    // the record may only refer to it
	id        string      // names the sandbox and the directory of its output
	earlier   []job.Span  // what is known of the job from before
	recording *telemetry.Recording
	prepared  func() // called when there is a sandbox
	log       *slog.Logger

	output    *output
	artifacts *artifacts
}

func (w *Worker) newAttempt(claim *queue.Claim, spec job.Spec, recording *telemetry.Recording, log *slog.Logger) *attempt {
	a := &attempt{
		worker: w, claim: claim, record: &claim.Record, spec: spec,
		earlier: claim.Record.Spans, recording: recording,
		id:  sandboxID(claim.Record.ID, claim.Record.Attempt),
		log: log.With("attempt", claim.Record.Attempt),
	}
	a.output = newOutput(filepath.Join(w.Dir, "output", a.id), spec.Limits.Output)
	a.artifacts = &artifacts{store: outputs{w.Queue}, prefix: a.prefix()}
	return a
}

// sandboxID names the sandbox of one attempt. It is never the same twice, not
// even when a job that was removed is submitted again under its old id: what
// an earlier one left on the host must not meet a later one.
func sandboxID(id string, attempt int) string {
	plain := strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= '0' && r <= '9' || r == '-' {
			return r
		}
		return '-'
	}, strings.ToLower(id))
	return fmt.Sprintf("%.44s-%d-%08x", plain, attempt, rand.Uint32())
}

// prefix begins the names of all objects of the attempt.
func (a *attempt) prefix() string { return fmt.Sprintf("%s/%d", a.record.ID, a.record.Attempt) }

// work runs the attempt and returns its sandbox, which is to be removed: nil if
// there was none. ctx ends when it has to stop, and its cause says why;
// reporting lasts longer.
func (a *attempt) work(ctx, reporting context.Context) Sandbox {
	a.log.InfoContext(ctx, "attempt begins", "image", a.record.Image.Name)
	defer a.output.close()

	box, err := a.prepare(ctx)
	if err != nil {
		a.report(reporting, err, unprepared(ctx, err))
		return nil
	}
	seen, err := a.run(ctx, reporting, box)
	a.report(reporting, err, seen)
	return box
}

// prepare makes the sandbox.
func (a *attempt) prepare(ctx context.Context) (Sandbox, error) {
	ctx, span := telemetry.Start(ctx, telemetry.Prepare,
		attribute.String(telemetry.KeyImage, a.record.Image.Name),
		attribute.String(telemetry.KeyDigest, a.record.Image.Digest))
	task := Task{ID: a.id, Spec: a.spec, Env: map[string]string{}}
	if a.record.TraceParent != "" {
		task.Env["TRACEPARENT"] = a.record.TraceParent
	}
	if startup := a.spec.Budgets.Startup; startup > 0 {
		// Not ended once the sandbox is ready: it may live on this context.
		bounded, giveUp := context.WithCancelCause(ctx)
		ctx = bounded
		defer time.AfterFunc(startup.Duration(), func() {
			giveUp(fmt.Errorf("the sandbox was not ready within budgets.startup_ms, %s", startup))
		}).Stop()
	}
	box, err := a.worker.Runtime.Prepare(ctx, task)
	if ctx.Err() == nil && !errors.Is(err, job.ErrImage) {
		a.worker.health.note(a.record.ID, err, time.Now())
	}
	a.record.Timings.Prepare = span.End(err).End
	if err == nil {
		a.prepared()
	}
	return box, err
}

// run lets the sandbox run the steps while their output goes where it belongs.
func (a *attempt) run(ctx, reporting context.Context, box Sandbox) (job.Observation, error) {
	ctx, span := telemetry.Start(ctx, telemetry.Run)
	logs := newLogger(a.sendLog)
	sent := make(chan struct{})
	go func() {
		defer close(sent)
		logs.run(reporting)
	}()
	seen, err := box.Run(ctx, &sink{attempt: a, logs: logs, create: func(path string, size int64) (io.WriteCloser, error) {
		return a.artifacts.create(reporting, path, size)
	}})
	a.record.Timings.Run = span.End(err).End
	a.artifacts.close()
	logs.close()
	<-sent
	if a.artifacts.dropped > 0 {
		seen.Hit = append(seen.Hit, "artifacts")
	}
	return seen, err
}

// sink hands on what comes out of the sandbox.
type sink struct {
	attempt *attempt
	logs    *logger
	create  func(path string, size int64) (io.WriteCloser, error)
}

// Output keeps the data and sends it to those who follow the job.
func (s *sink) Output(i int, stream Stream, data []byte) error {
	s.logs.write(i, stream, data)
	return s.attempt.output.write(i, stream, data)
}

// Artifact opens the place for one artifact.
func (s *sink) Artifact(path string, size int64) (io.WriteCloser, error) { return s.create(path, size) }

// sendLog sends a piece of output to those who follow the job.
func (a *attempt) sendLog(c chunk) bool {
	return a.worker.Queue.Log(queue.LogChunk{
		Job: a.record.ID, Attempt: a.record.Attempt, Step: a.spec.Steps[c.step].Name,
		Stream: string(c.stream), Offset: c.offset, Data: c.data, At: time.Now().UTC(),
	})
}

// remove clears the sandbox away.
func (a *attempt) remove(ctx context.Context, box Sandbox) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), closeTime)
	defer cancel()
	ctx, span := telemetry.Start(ctx, telemetry.StageClose)
	err := box.Close(ctx)
	span.End(err)
	if err != nil {
		a.log.ErrorContext(ctx, "cannot clear a sandbox away", "error", err)
	}
}

// unprepared is what was seen of an attempt that got no sandbox.
func unprepared(ctx context.Context, err error) job.Observation {
	switch cause := context.Cause(ctx); {
	case errors.Is(cause, ErrCanceled):
		return job.Observation{Unfinished: true, Ended: job.WasCanceled}
	case errors.Is(cause, ErrExpired):
		return job.Observation{Unfinished: true, Ended: job.HasExpired}
	}
	return faulty(err)
}

// faulty is what was seen of an attempt that the platform failed.
func faulty(err error) job.Observation {
	seen := job.Observation{Unfinished: true, Fault: fmt.Sprintf("%.1000s", err), FaultReason: job.SandboxFault}
	if errors.Is(err, job.ErrImage) {
		seen.FaultReason = job.ImageFault
	}
	return seen
}
