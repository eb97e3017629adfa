// Package scripted is a worker.Runtime for tests: a sandbox that interprets
// the few words of worker/sandboxtest instead of running programs. It passes
// the same suite as the real one, needs nothing of the host, and its limits
// hold by the clock alone. Only tests import it.
//
// It knows some words more than the suite, for what a test cannot make happen
// to a real sandbox at will:
//
//	hog      the kernel kills the sandbox for want of memory
//	crash    the sandbox is gone, and nothing says why
//	swarm    the host's guard on tasks is hit; the sandbox dies of it
//
// An image whose digest is all zeros is one that cannot be had.
package scripted

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/sandlot-dev/sandlot/pkg/job"
	"github.com/sandlot-dev/sandlot/worker"
)

// Runtime makes scripted sandboxes. Its zero value is ready.
type Runtime struct {
	// OnPrepare is called with each task before its sandbox exists; its error
	// is that of Prepare. Optional; fixed once the runtime is in use.
	OnPrepare func(context.Context, worker.Task) error
	// OnRun is called as a sandbox begins to run. Optional; fixed as well.
	OnRun func(worker.Task)

	open atomic.Int64
	mu   sync.Mutex
	seen map[string]bool
}

// Open is how many sandboxes exist.
func (r *Runtime) Open() int { return int(r.open.Load()) }

// Prepare makes a sandbox.
func (r *Runtime) Prepare(ctx context.Context, task worker.Task) (worker.Sandbox, error) {
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	if err := r.claimID(task.ID); err != nil {
		return nil, err
	}
	if strings.Trim(task.Spec.Image.Digest, "0") == "sha256:" {
		return nil, fmt.Errorf("image %s is nowhere: %w", task.Spec.Image.Digest, job.ErrImage)
	}
	if r.OnPrepare != nil {
		if err := r.OnPrepare(ctx, task); err != nil {
			return nil, err
		}
	}
	r.open.Add(1)
	files := newDisk(task.Spec.Limits.Disk)
	for _, f := range task.Spec.Files {
		mode := "644"
		if f.Executable {
			mode = "755"
		}
		files.put("/work/"+f.Path, f.Bytes(), mode)
	}
	return &sandbox{runtime: r, task: task, disk: files}, nil
}

// claimID refuses a second sandbox under one id, which the real one could not
// tell apart on the host.
func (r *Runtime) claimID(id string) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.seen[id] {
		return fmt.Errorf("sandbox id %q was used before", id)
	}
	if r.seen == nil {
		r.seen = map[string]bool{}
	}
	r.seen[id] = true
	return nil
}
