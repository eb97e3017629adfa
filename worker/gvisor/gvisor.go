// Package gvisor runs jobs in gVisor sandboxes through containerd.
//
//	Prepare: image ─▶ read-only view ─▶ container, task ─▶ agent says hello ─▶ files
//	         (all but the files ahead of time, where a spare is ready)
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

// Config says what a Runtime works with. All fields but the last two are
// required.
type Config struct {
	Containerd   *Containerd
	Binaries     Binaries
	FetchArchive FetchArchive
	Logger       *slog.Logger
	// Directories has the roots of sandboxes be directories although this
	// host could have EROFS files.
	Directories bool
	// Spares is how many sandboxes are kept ready at most; none by default.
	// They are booted by Run.
	Spares int
}

// Runtime makes sandboxes. It is safe for concurrent use.
type Runtime struct {
	config   Config
	inside   inside
	images   *imageStore
	versions job.Runtime
	spares   *spares

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
	r := &Runtime{
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
	}
	r.spares = newSpares(config.Spares, config.Logger, r.bootSpare)
	return r, nil
}

// Run keeps sandboxes ready for jobs of shapes that were asked for lately,
// until ctx ends; then it removes those that are left.
func (r *Runtime) Run(ctx context.Context) error {
	if r.config.Spares > 0 {
		r.spares.run(ctx)
	}
	<-ctx.Done()
	return nil
}

// Spares says how many sandboxes were ready when a job came.
func (r *Runtime) Spares() job.Spares { return r.spares.look() }

// Versions names the programs that run the jobs.
func (r *Runtime) Versions() job.Runtime { return r.versions }

// bootPatience bounds the boot of a sandbox on a host that is very busy.
const bootPatience = time.Minute

var errSlowBoot = errors.New("sandbox does not boot in time")

// Prepare makes a sandbox ready for the task; see worker.Runtime.
func (r *Runtime) Prepare(ctx context.Context, task worker.Task) (worker.Sandbox, error) {
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	if !validID(task.ID) {
		return nil, fmt.Errorf("prepare sandbox: %q is no id", task.ID)
	}
	if s := r.spares.take(shapeOf(task.Spec)); s != nil {
		if r.adopt(ctx, s, task) == nil {
			return s, nil
		}
		// It may have died where nobody saw it: a fresh one decides.
	}
	s, err := r.boot(ctx, task.ID, task.Spec.Image, task.Spec.Limits)
	if err == nil {
		err = r.adopt(ctx, s, task)
	}
	if err != nil {
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		return nil, fmt.Errorf("prepare sandbox %s: %w", task.ID, err)
	}
	return s, nil
}

// adopt gives a sandbox its task, or removes it.
func (r *Runtime) adopt(ctx context.Context, s *sandbox, task worker.Task) error {
	ctx, cancel := context.WithTimeoutCause(ctx, bootPatience, errSlowBoot)
	defer cancel()
	err := s.adopt(ctx, task)
	if err != nil {
		r.discard(ctx, s)
	}
	return err
}

// boot makes a sandbox that waits for its task.
func (r *Runtime) boot(ctx context.Context, id string, image job.Image, limits job.Limits) (*sandbox, error) {
	if err := r.config.Containerd.Ready(ctx); err != nil {
		return nil, err
	}
	placing, stage := telemetry.Start(ctx, telemetry.StageImage, attribute.String(telemetry.KeyDigest, image.Digest))
	root, err := r.images.get(placing, image)
	stage.End(err)
	if err != nil {
		return nil, err
	}
	s := r.sandbox(id, root, limits)
	if err := r.claim(s); err != nil {
		return nil, err
	}
	booting, cancel := context.WithTimeoutCause(ctx, bootPatience, errSlowBoot)
	defer cancel()
	booting, stage = telemetry.Start(booting, telemetry.StageBoot)
	err = s.boot(booting, root)
	stage.End(err)
	if err != nil {
		r.discard(ctx, s)
		return nil, err
	}
	return s, nil
}

// bootSpare boots a sandbox ahead of its job.
func (r *Runtime) bootSpare(ctx context.Context, id string, of shape) (*sandbox, error) {
	return r.boot(ctx, id, of.image, of.limits())
}

// discard removes a sandbox that did not come up.
func (r *Runtime) discard(ctx context.Context, s *sandbox) {
	closing, cancel := context.WithTimeout(context.WithoutCancel(ctx), closePatience)
	defer cancel()
	if err := s.Close(closing); err != nil {
		r.config.Logger.WarnContext(ctx, "sandbox leaves something behind", "sandbox", s.id, "error", err)
	}
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
	if r.live[s.id] {
		return fmt.Errorf("id %s is in use", s.id)
	}
	if dir, there := s.group.exists(); there {
		return fmt.Errorf("cgroup %s is there already", dir)
	}
	r.live[s.id] = true
	s.release = func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		delete(r.live, s.id)
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
func (r *Runtime) sandbox(id string, root rootfs, limits job.Limits) *sandbox {
	c := r.config.Containerd
	return &sandbox{
		id:      id,
		limits:  limits,
		config:  r.config,
		inside:  r.inside,
		env:     root.env,
		gone:    c.Gone(),
		group:   c.Cgroups().group(id),
		machine: &machine{id: id, client: c.Client(), runtime: c.RuntimeName(), instance: c.Cgroups().name},
		fifos:   filepath.Join(c.FIFODir(), id),
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
