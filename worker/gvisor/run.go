package gvisor

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"golang.org/x/sys/unix"

	"github.com/sandlot-dev/sandlot/pkg/frame"
	"github.com/sandlot-dev/sandlot/pkg/job"
	"github.com/sandlot-dev/sandlot/pkg/telemetry"
	"github.com/sandlot-dev/sandlot/worker"
	"github.com/sandlot-dev/sandlot/worker/guest"
)

// attempt is one run of the task's steps.
type attempt struct {
	s     *sandbox
	sink  worker.Sink
	watch *watch
	seen  job.Observation
	// broken is the first error of the sink.
	broken error
}

// Run executes the steps; see worker.Sandbox.
func (s *sandbox) Run(ctx context.Context, sink worker.Sink) (job.Observation, error) {
	a := &attempt{s: s, sink: sink, watch: newWatch(s)}
	a.seen.Applied = s.applied
	err := a.steps(ctx)
	if err == nil {
		err = a.collect(ctx)
	}
	a.seen.Unfinished = err != nil
	return a.conclude(ctx, err)
}

// steps runs one step after the other until one decides.
func (a *attempt) steps(ctx context.Context) error {
	for i, step := range a.s.task.Spec.Steps {
		result, err := a.step(ctx, i, step)
		a.seen.Steps = append(a.seen.Steps, result)
		if err != nil {
			return fmt.Errorf("step %s: %w", step.Name, err)
		}
		if !result.OK() && !step.ContinueOnError {
			return nil
		}
	}
	return nil
}

// step runs one step to its end, or to the end of the sandbox.
func (a *attempt) step(ctx context.Context, i int, step job.Step) (_ job.StepResult, failed error) {
	result := job.StepResult{Name: step.Name}
	ctx, stage := telemetry.Start(ctx, telemetry.StageStep, attribute.String(telemetry.KeyStep, step.Name))
	defer func() { stage.End(failed) }()
	if err := a.watch.begin(ctx, step); err != nil {
		return result, err
	}
	ordered := time.Now()
	// The session is not told of ctx: the watch ends the sandbox itself,
	// without asking those inside.
	exit, err := a.s.session.Run(context.WithoutCancel(ctx), a.guestStep(step), func(stream frame.Stream, data []byte) error {
		return a.output(i, stream, data)
	})
	spent, measured := a.watch.finish()
	// On a busy host the word that the program started may be heard late. Then
	// the agent's measure counts, within the time since the order.
	spent.wall = max(spent.wall, min(exit.Wall, time.Since(ordered)))
	result.Wall, result.CPU, result.PeakMemory = job.MillisOf(spent.wall), job.MillisOf(spent.cpu), spent.peak
	if exit.DiskFull() {
		a.hit("disk")
	}
	if err == nil {
		err = a.watch.ended()
	}
	if err == nil {
		result.ExitCode, result.Signal = ending(exit)
	}
	return result, errors.Join(err, measured)
}

func (a *attempt) guestStep(step job.Step) guest.Step {
	g := guest.Step{
		Argv:    step.Command,
		Env:     a.s.environment(step),
		Dir:     step.Workdir,
		UID:     jobUID,
		GID:     jobGID,
		Limits:  []frame.Limit{{Resource: unix.RLIMIT_NPROC, Value: uint64(a.s.task.Spec.Limits.PIDs)}, {Resource: unix.RLIMIT_CORE}},
		Started: a.watch.started,
	}
	if g.Dir == "" {
		g.Dir = "/work"
	}
	if input := step.Input(); len(input) > 0 {
		g.Stdin = bytes.NewReader(input)
	}
	return g
}

// output counts what a step wrote and hands it on. It is called from one
// goroutine.
func (a *attempt) output(i int, stream frame.Stream, data []byte) error {
	a.seen.Output += job.Bytes(len(data))
	name := worker.Stdout
	if stream == frame.Stderr {
		name = worker.Stderr
	}
	if a.broken == nil {
		a.broken = a.sink.Output(i, name, data)
	}
	if a.broken != nil {
		a.watch.end(verdictless, fmt.Errorf("take output: %w", a.broken))
	} else if a.seen.Output > a.s.task.Spec.Limits.Output {
		a.watch.end(job.OutputLimit, nil)
	}
	return nil
}

// ending turns the guest's words into those of a result.
func ending(exit guest.Exit) (*int, string) {
	if exit.Signal == 0 {
		return &exit.Code, ""
	}
	if name := unix.SignalName(exit.Signal); name != "" {
		return nil, name
	}
	return nil, fmt.Sprintf("SIG%d", exit.Signal)
}

// collectPatience bounds the collection of artifacts, which no limit of the
// job covers.
const collectPatience = 2 * time.Minute

var errSlowCollect = errors.New("artifacts do not come in time")

// maxArtifacts bounds how many files one job may leave.
const maxArtifacts = 1000

// collect fetches the artifacts into the sink.
func (a *attempt) collect(ctx context.Context) (failed error) {
	globs := a.s.task.Spec.Artifacts
	if len(globs) == 0 {
		return nil
	}
	ctx, stage := telemetry.Start(ctx, telemetry.StageArtifacts)
	defer func() { stage.End(failed) }()
	ctx, cancel := context.WithTimeoutCause(ctx, collectPatience, errSlowCollect)
	defer cancel()
	caps := guest.Caps{Files: maxArtifacts, Bytes: int64(a.s.task.Spec.Limits.Disk)}
	got, err := a.s.session.Collect(ctx, globs, caps, func(path string, _ fs.FileMode, size int64) (io.WriteCloser, error) {
		place, err := a.sink.Artifact(path, size)
		if err != nil {
			a.broken = err
		}
		return place, err
	})
	for _, skip := range got.Skips {
		if skip.Reason == frame.SkipCount || skip.Reason == frame.SkipBytes {
			a.hit("artifacts")
		}
	}
	return err
}

// conclude ends the sandbox's life, reads the last numbers and says who is to
// blame for an early end.
func (a *attempt) conclude(ctx context.Context, failed error) (job.Observation, error) {
	killing, cancel := context.WithTimeout(context.WithoutCancel(ctx), closePatience)
	defer cancel()
	killed := a.s.group.kill(killing)
	totals, measured := a.watch.totals()
	seen := &a.seen
	seen.Wall, seen.CPU = job.MillisOf(totals.wall), job.MillisOf(totals.cpu)
	seen.Peak, seen.Refaults = totals.peak, totals.refaults
	seen.OOMKills, seen.PIDsHits = totals.events.oomKills, totals.events.pidsHits
	// A program whose child the kernel killed may have gone on and ended as
	// if nothing had been. The limit was reached all the same.
	seen.Unfinished = seen.Unfinished || seen.OOMKills > 0
	if seen.PIDsHits > 0 {
		a.hit("pids")
	}
	reason, stepLimit, _ := a.watch.verdict()
	if reason != verdictless {
		seen.Ended, seen.StepLimit = reason, stepLimit
	}
	switch {
	case ctx.Err() != nil && seen.Unfinished:
		if errors.Is(context.Cause(ctx), worker.ErrCanceled) {
			seen.Ended = job.WasCanceled
		}
		failed = context.Cause(ctx)
	case a.broken != nil:
		a.fault(failed)
		failed = a.broken
	case seen.Ended != "" || seen.OOMKills > 0 && seen.Unfinished:
		failed = nil
	case failed != nil:
		a.fault(failed)
		failed = nil
	}
	if err := errors.Join(killed, measured); err != nil && failed == nil && seen.Fault == "" {
		a.fault(err)
	}
	return *seen, failed
}

// fault blames the platform. Decide asks what the kernel counted before it.
func (a *attempt) fault(err error) {
	a.seen.Fault = fmt.Sprintf("%v%s", err, a.s.log.quote())
	a.seen.FaultReason = job.SandboxFault
}

func (a *attempt) hit(limit string) {
	for _, known := range a.seen.Hit {
		if known == limit {
			return
		}
	}
	a.seen.Hit = append(a.seen.Hit, limit)
}
