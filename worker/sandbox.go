package worker

import (
	"context"
	"errors"
	"io"

	"github.com/sandlot-dev/sandlot/pkg/job"
)

// Task is one attempt of a job as a sandbox sees it.
type Task struct {
	// ID names the sandbox: unique per attempt, at most 64 characters of
	// [a-z0-9-]. Never used twice.
	ID   string
	Spec job.Spec
	// Env is added to the environment of every step, such as TRACEPARENT.
	Env map[string]string
}

// Runtime makes sandboxes.
type Runtime interface {
	// Prepare fetches what the task needs, boots a fresh sandbox, reads its
	// limits back from the host and lays the files into it. An error wraps
	// job.ErrImage when the image is to blame, else the platform is. When ctx
	// ends, so does what was begun; the error is the cause of ctx.
	Prepare(ctx context.Context, task Task) (Sandbox, error)
}

// Sandbox is one isolated machine, made for one task and never used again.
type Sandbox interface {
	// Run executes the steps, enforces the limits and reports what was seen.
	// It returns an Observation in every case: when ctx ends first, or on an
	// error of the platform, it holds what was known by then. When ctx ends
	// the error is its cause. Nothing of the job's programs runs any more
	// when Run returns.
	Run(ctx context.Context, sink Sink) (job.Observation, error)
	// Close removes all that the sandbox had on the host. It is safe to call
	// twice, and needed after every Prepare that succeeded.
	Close(ctx context.Context) error
}

// Sink receives what comes out of a sandbox while it runs. Calls come from
// one goroutine at a time; a slow sink slows the program down, never loses
// its output. An error ends the attempt as a fault of the platform.
type Sink interface {
	// Output is called with bytes that step number i wrote; data must not be
	// kept after the call returned.
	Output(i int, stream Stream, data []byte) error
	// Artifact opens the place for one artifact of at most size bytes. Its
	// Close seals it.
	Artifact(path string, size int64) (io.WriteCloser, error)
}

// Stream tells the two outputs of a program apart.
type Stream string

// The streams of a program.
const (
	Stdout Stream = "stdout"
	Stderr Stream = "stderr"
)

// Reasons why the context of a running attempt ends before the attempt does.
var (
	// ErrCanceled: the user asked for it.
	ErrCanceled = errors.New("job is canceled")
	// ErrExpired: the job's total budget is over.
	ErrExpired = errors.New("job is out of time")
	// ErrDrained: the worker is stopping; the attempt counts for nothing.
	ErrDrained = errors.New("worker is stopping")
)
