// Package gvisor runs jobs in gVisor sandboxes through containerd.
//
//	Prepare: image ─▶ read-only view ─▶ container, task ─▶ agent says hello ─▶ files
//	Run:     step after step through the agent; the watch looks at cgroup and clock
//	Close:   kill ─▶ delete task, container, cgroups, pipes
//
// What ends a job, and what its result says, is decided outside of the sandbox:
// by the worker's clock, by the count of bytes that arrive, and by the kernel's
// counters for the sandbox's cgroup. The agent inside is believed only where a
// lie harms nobody but its own job.
//
// Limits are set by the runtime and read back by the worker before the first
// step. One that is not in force is a fault of the platform: no program runs
// without its limits.
package gvisor

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"
	"go.opentelemetry.io/otel/attribute"

	"github.com/sandlot-dev/sandlot/pkg/job"
	"github.com/sandlot-dev/sandlot/pkg/telemetry"
	"github.com/sandlot-dev/sandlot/worker"
)

// Config says what a Runtime works with. All fields but the last are required.
type Config struct {
	Containerd   *Containerd
	Binaries     Binaries
	FetchArchive FetchArchive
	Logger       *slog.Logger
	// Directories has the roots of sandboxes be directories although this
	// host could have EROFS files.
	Directories bool
}

// Runtime makes sandboxes. It is safe for concurrent use.
type Runtime struct {
	config   Config
	inside   inside
	images   *imageStore
	versions job.Runtime

	mu   sync.Mutex
	live map[string]bool // ids of sandboxes that are not closed
}

var _ worker.Runtime = (*Runtime)(nil)

// New asks containerd what it can do and brings the runtime's own programs
// into the page cache.
func New(ctx context.Context, config Config) (*Runtime, error) {
	snapshotter, err := chooseSnapshotter(ctx, config.Containerd.Client())
	if err != nil {
		return nil, err
	}
	runsc, err := versionOf(ctx, config.Binaries.Runsc)
	if err != nil {
		return nil, err
	}
	served, err := config.Containerd.Client().Version(ctx)
	if err != nil {
		return nil, fmt.Errorf("version of containerd: %w", err)
	}
	inside, err := placeInside(ctx, config)
	if err != nil {
		return nil, err
	}
	if _, err := warm(ctx, append(inside.places(), config.Binaries.Runsc)); err != nil {
		return nil, fmt.Errorf("read runtime programs: %w", err)
	}
	return &Runtime{
		config: config,
		inside: inside,
		images: &imageStore{
			client:      config.Containerd.Client(),
			snapshotter: snapshotter,
			fetch:       config.FetchArchive,
			erofs:       inside.erofs,
			logger:      config.Logger,
			pulls:       map[digest.Digest]*pull{},
		},
		live:     map[string]bool{},
		versions: job.Runtime{Runsc: runsc, Containerd: served.Version},
	}, nil
}

// Versions names the programs that run the jobs.
func (r *Runtime) Versions() job.Runtime { return r.versions }

// bootPatience bounds the boot of a sandbox on a host that is very busy.
const bootPatience = time.Minute

var errSlowBoot = errors.New("sandbox does not boot in time")

// Prepare boots a sandbox for the task; see worker.Runtime.
func (r *Runtime) Prepare(ctx context.Context, task worker.Task) (worker.Sandbox, error) {
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	if !validID(task.ID) {
		return nil, fmt.Errorf("prepare sandbox: %q is no id", task.ID)
	}
	if err := r.config.Containerd.Ready(ctx); err != nil {
		return nil, fmt.Errorf("prepare sandbox: %w", err)
	}
	placing, stage := telemetry.Start(ctx, telemetry.StageImage, attribute.String(telemetry.KeyDigest, task.Spec.Image.Digest))
	root, err := r.images.get(placing, task.Spec.Image)
	stage.End(err)
	if err != nil {
		return nil, err
	}
	s := r.sandbox(task, root)
	if err := r.claim(s); err != nil {
		return nil, fmt.Errorf("prepare sandbox: %w", err)
	}
	booting, cancel := context.WithTimeoutCause(ctx, bootPatience, errSlowBoot)
	defer cancel()
	if err := s.prepare(booting, root); err != nil {
		closing, cancel := context.WithTimeout(context.WithoutCancel(ctx), closePatience)
		defer cancel()
		if failed := s.Close(closing); failed != nil {
			r.config.Logger.WarnContext(ctx, "sandbox leaves something behind", "sandbox", task.ID, "error", failed)
		}
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		return nil, fmt.Errorf("prepare sandbox %s: %w", task.ID, err)
	}
	return s, nil
}

// Place has an image ready, imported and unpacked, so that its first job need
// not wait for that.
func (r *Runtime) Place(ctx context.Context, image job.Image) error {
	if err := r.config.Containerd.Ready(ctx); err != nil {
		return fmt.Errorf("place image %s: %w", image.Name, err)
	}
	_, err := r.images.get(ctx, image)
	return err
}

// claim makes sure that the id is that of no other sandbox, present or past.
// The runtime would take a cgroup that it finds for one whose limits were set
// by somebody else, and set none.
func (r *Runtime) claim(s *sandbox) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.live[s.task.ID] {
		return fmt.Errorf("id %s is in use", s.task.ID)
	}
	if dir, there := s.group.exists(); there {
		return fmt.Errorf("cgroup %s is there already", dir)
	}
	r.live[s.task.ID] = true
	s.release = func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		delete(r.live, s.task.ID)
	}
	return nil
}

// validID accepts what containerd, runsc, cgroups and file names all take.
func validID(id string) bool {
	if id == "" || len(id) > maxSandboxID {
		return false
	}
	for _, c := range []byte(id) {
		if c != '-' && (c < '0' || c > '9') && (c < 'a' || c > 'z') {
			return false
		}
	}
	return id[0] != '-' && id[len(id)-1] != '-' && id != runtimeGroup && id != workerGroup
}

// sandbox is one that has nothing on the host yet.
func (r *Runtime) sandbox(task worker.Task, root rootfs) *sandbox {
	c := r.config.Containerd
	return &sandbox{
		task:    task,
		config:  r.config,
		inside:  r.inside,
		env:     root.env,
		gone:    c.Gone(),
		group:   c.Cgroups().group(task.ID),
		machine: &machine{id: task.ID, client: c.Client(), runtime: c.RuntimeName(), instance: c.Cgroups().name},
		fifos:   filepath.Join(c.FIFODir(), task.ID),
	}
}

// RunscFlags are the settings of gVisor that a Containerd is to be started
// with: no network, and no way to the host but through the image and the
// agent's binary, both read-only.
func RunscFlags() map[string]string {
	return map[string]string{
		"network":            "none",
		"overlay2":           "none",
		"host-uds":           "none",
		"host-fifo":          "none",
		"cpu-num-from-quota": "true",
	}
}
