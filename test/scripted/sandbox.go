package scripted

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/sandlot-dev/sandlot/pkg/job"
	"github.com/sandlot-dev/sandlot/worker"
)

// sandbox runs the steps of one task by interpreting their scripts.
type sandbox struct {
	runtime *Runtime
	task    worker.Task
	disk    *disk
	closed  bool

	sink  worker.Sink
	seen  job.Observation
	start time.Time
	// fault is the sink's first error.
	fault error
}

// limitHit is why a limit ended the job; it travels as the cause of the
// context that the steps run in.
type limitHit struct {
	reason job.Reason
	step   job.Millis // the step's own limit, 0 if the job's decided
}

func (l *limitHit) Error() string { return string(l.reason) }

// died is how the sandbox itself ended: by the word that did it.
type died string

func (d died) Error() string { return "the sandbox ended: " + string(d) }

// Run interprets the steps.
func (b *sandbox) Run(ctx context.Context, sink worker.Sink) (job.Observation, error) {
	limits := b.task.Spec.Limits
	b.sink, b.start = sink, time.Now()
	b.seen.Applied = job.Applied{Limits: limits, SandboxMemory: limits.Memory + 64*job.MiB, SandboxPIDs: 64 + 4*int64(limits.PIDs)}
	if b.runtime.OnRun != nil {
		b.runtime.OnRun(b.task)
	}
	inside, cancel := context.WithTimeoutCause(ctx, limits.Wall.Duration(), &limitHit{reason: job.TimedOut})
	defer cancel()
	err := b.steps(inside)
	if err == nil {
		err = b.collect()
	}
	b.seen.Wall = job.MillisOf(time.Since(b.start))
	return b.seen, b.explain(ctx, err)
}

// explain turns the error that ended the steps into what the observation says
// of it, and into the error of Run.
func (b *sandbox) explain(ctx context.Context, err error) error {
	if err == nil {
		return nil
	}
	b.seen.Unfinished = true
	var hit *limitHit
	var end died
	switch {
	case b.fault != nil:
		b.seen.Fault, b.seen.FaultReason = b.fault.Error(), job.SandboxFault
		return b.fault
	case ctx.Err() != nil:
		if cause := context.Cause(ctx); errors.Is(cause, worker.ErrCanceled) {
			b.seen.Ended = job.WasCanceled
		}
		return context.Cause(ctx)
	case errors.As(err, &hit):
		b.seen.Ended, b.seen.StepLimit = hit.reason, int64(hit.step)
	case errors.As(err, &end):
		switch end {
		case "hog":
			b.seen.OOMKills, b.seen.Peak = 1, b.seen.Applied.SandboxMemory
		case "swarm":
			b.seen.PIDsHits = 1
		}
	}
	return nil
}

func (b *sandbox) steps(ctx context.Context) error {
	for i, step := range b.task.Spec.Steps {
		result, err := b.step(ctx, i, step)
		b.seen.Steps = append(b.seen.Steps, result)
		b.seen.CPU += result.CPU
		if err != nil {
			return err
		}
		if !result.OK() && !step.ContinueOnError {
			return nil
		}
	}
	return nil
}

// step runs one step; the error says what ended the whole sandbox meanwhile.
func (b *sandbox) step(ctx context.Context, i int, step job.Step) (job.StepResult, error) {
	if step.Wall > 0 {
		limited, cancel := context.WithTimeoutCause(ctx, step.Wall.Duration(), &limitHit{job.TimedOut, step.Wall})
		defer cancel()
		ctx = limited
	}
	start := time.Now()
	p := &program{box: b, index: i, step: step, dir: "/work"}
	if step.Workdir != "" {
		p.dir = step.Workdir
	}
	code, signal, err := p.run(ctx)
	result := job.StepResult{
		Name: step.Name, Signal: signal, PeakMemory: job.MiB,
		Wall: job.MillisOf(time.Since(start)), CPU: job.MillisOf(p.cpu),
	}
	switch {
	case err != nil:
		result.Signal = "SIGKILL"
	case signal == "":
		result.ExitCode = &code
	}
	return result, err
}

// emit hands on what a program wrote and counts it.
func (b *sandbox) emit(ctx context.Context, i int, stream worker.Stream, data []byte) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	b.seen.Output += job.Bytes(len(data))
	if err := b.sink.Output(i, stream, data); err != nil {
		b.fault = fmt.Errorf("hand on output: %w", err)
		return b.fault
	}
	if b.seen.Output > b.task.Spec.Limits.Output {
		return &limitHit{reason: job.OutputLimit}
	}
	return nil
}

// collect hands on the artifacts.
func (b *sandbox) collect() error {
	for _, name := range b.disk.matching(b.task.Spec.Artifacts) {
		data := b.disk.files["/work/"+name].data
		place, err := b.sink.Artifact(name, int64(len(data)))
		if err == nil {
			_, err = place.Write(data)
			err = errors.Join(err, place.Close())
		}
		if err != nil {
			b.fault = fmt.Errorf("hand on artifact %q: %w", name, err)
			return b.fault
		}
	}
	return nil
}

// Close ends the sandbox.
func (b *sandbox) Close(context.Context) error {
	if !b.closed {
		b.closed = true
		b.runtime.open.Add(-1)
	}
	return nil
}
