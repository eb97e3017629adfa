package resident

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/containerd/containerd/api/events"
	task "github.com/containerd/containerd/api/runtime/task/v2"
	"github.com/containerd/containerd/api/types"
	tasktypes "github.com/containerd/containerd/api/types/task"
	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/core/runtime"
	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"gvisor.dev/gvisor/runsc/config"
	"gvisor.dev/gvisor/runsc/container"
	gvisor "gvisor.dev/gvisor/runsc/sandbox"
	"gvisor.dev/gvisor/runsc/specutils"

	"github.com/sandlot-dev/sandlot/deploy/runtime/gvisor/internal/launch"
)

// sandbox is one task: a gVisor sandbox with one container.
type sandbox struct {
	name   name
	bundle string
	conf   *config.Config
	events Publisher
	init   *first

	// Guarded by init.mu; container is nil before create and after clear.
	container *container.Container
	group     *group
	mounted   bool
	// sentry is whom to ask about what runs. It stays when the container is
	// destroyed, and then answers with an error.
	sentry *gvisor.Sandbox
	spec   *specs.Spec

	mu     sync.Mutex
	paused bool
	execs  map[string]*later
}

func newSandbox(namespace string, conf *config.Config, r *task.CreateTaskRequest, events Publisher) *sandbox {
	b := &sandbox{name: name{namespace, r.ID}, bundle: r.Bundle, conf: conf, events: events, execs: map[string]*later{}}
	b.init = &first{b: b, streams: stdio{r.Stdin, r.Stdout, r.Stderr}, done: make(chan struct{})}
	return b
}

// launchFile is where the sandbox is remembered, and its prewarmer told.
func (b *sandbox) launchFile() string { return launch.Path(b.conf.RootDir, b.name.id) }

// rootfs is where the root is mounted, if it is not a file.
func (b *sandbox) rootfs() string { return filepath.Join(b.bundle, "rootfs") }

// create makes everything, or nothing.
func (b *sandbox) create(ctx context.Context, r *task.CreateTaskRequest) (err error) {
	b.init.mu.Lock()
	defer b.init.mu.Unlock()
	defer func() {
		if err != nil {
			err = errors.Join(err, b.clear())
		}
	}()
	if err := b.mount(r.Rootfs); err != nil {
		return err
	}
	spec, err := specutils.ReadSpec(b.bundle, b.conf)
	if err != nil {
		return err
	}
	if !specutils.IsRootContainer(spec) {
		return fmt.Errorf("a second container in a sandbox: %w", errdefs.ErrNotImplemented)
	}
	if err := os.MkdirAll(b.conf.RootDir, 0o711); err != nil {
		return err
	}
	if b.group, err = makeGroup(spec, Unified()); err != nil {
		return err
	}
	plan := launch.Plan{Groups: b.group.all(), Join: !b.group.unified, Args: b.group.sentryArgs()}
	if err := launch.Write(b.launchFile(), plan); err != nil {
		return err
	}
	files, err := b.init.streams.open(ctx)
	if err != nil {
		return err
	}
	defer closeAll(files)
	b.container, err = container.New(b.conf, container.Args{
		ID: b.name.id, Spec: spec, BundleDir: b.bundle, PassFiles: files,
		Attached: true, // it ends with this process
	})
	if err != nil {
		if word := launch.Failure(b.launchFile()); word != "" {
			err = fmt.Errorf("%w: %s", err, word)
		}
		return err
	}
	b.sentry, b.spec = b.container.Sandbox, spec
	pid := b.sentry.Getpid()
	if gofer := b.container.GoferPid.Load(); gofer != 0 && !b.group.unified {
		if err := b.group.add(gofer); err != nil {
			return err
		}
	}
	if err := b.group.has(pid); err != nil {
		return err
	}
	if err := b.init.watch(pid); err != nil {
		return err
	}
	b.publish(runtime.TaskCreateEventTopic, &events.TaskCreate{
		ContainerID: b.name.id, Bundle: b.bundle, Rootfs: r.Rootfs, Pid: uint32(pid),
		IO: &events.TaskIO{Stdin: r.Stdin, Stdout: r.Stdout, Stderr: r.Stderr},
	})
	return nil
}

// mount mounts the root, in this process's own mount namespace.
func (b *sandbox) mount(root []*types.Mount) error {
	var all []mount.Mount
	for _, m := range root {
		all = append(all, mount.Mount{Type: m.Type, Source: m.Source, Target: m.Target, Options: m.Options})
	}
	if len(all) == 0 {
		return nil
	}
	if err := os.MkdirAll(b.rootfs(), 0o711); err != nil {
		return err
	}
	b.mounted = true
	if err := mount.All(all, b.rootfs()); err != nil {
		return fmt.Errorf("mount root: %w", err)
	}
	return nil
}

// clear removes all that the sandbox has on the host, killing what runs. It
// may be called again.
func (b *sandbox) clear() error {
	var failed []error
	if b.container != nil {
		if err := b.container.Destroy(); err != nil {
			failed = append(failed, err)
		} else {
			b.container = nil
		}
	}
	if b.group != nil {
		failed = append(failed, b.group.remove())
	}
	if b.mounted {
		if err := mount.UnmountAll(b.rootfs(), 0); err != nil {
			failed = append(failed, fmt.Errorf("unmount root: %w", err))
		}
	}
	err := errors.Join(failed...)
	if err == nil {
		err = launch.Remove(b.launchFile())
	}
	return err
}

// destroy ends the sandbox, whatever it does.
func (b *sandbox) destroy() error {
	b.init.mu.Lock()
	defer b.init.mu.Unlock()
	return b.clear()
}

// process finds a process; "" is the first one.
func (b *sandbox) process(execID string) (process, error) {
	if execID == "" {
		return b.init, nil
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if p := b.execs[execID]; p != nil {
		return p, nil
	}
	return nil, fmt.Errorf("process %s of task %s: %w", execID, b.name.id, errdefs.ErrNotFound)
}

// alive returns the sentry if it can be asked anything.
func (b *sandbox) alive() (*gvisor.Sandbox, error) {
	b.init.mu.Lock()
	defer b.init.mu.Unlock()
	if b.container == nil || !b.init.started || b.init.over() {
		return nil, fmt.Errorf("task %s does not run: %w", b.name.id, errdefs.ErrFailedPrecondition)
	}
	return b.sentry, nil
}

func (b *sandbox) pids() (*task.PidsResponse, error) {
	sentry, err := b.alive()
	if err != nil {
		return nil, err
	}
	inside, err := sentry.Processes(b.name.id)
	if err != nil {
		return nil, err
	}
	answer := &task.PidsResponse{}
	for _, p := range inside {
		answer.Processes = append(answer.Processes, &tasktypes.ProcessInfo{Pid: uint32(p.PID)})
	}
	return answer, nil
}

func (b *sandbox) pause() error {
	return b.setPaused(true, runtime.TaskPausedEventTopic, &events.TaskPaused{ContainerID: b.name.id})
}

func (b *sandbox) resume() error {
	return b.setPaused(false, runtime.TaskResumedEventTopic, &events.TaskResumed{ContainerID: b.name.id})
}

func (b *sandbox) setPaused(to bool, topic string, event any) error {
	sentry, err := b.alive()
	if err != nil {
		return err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.paused == to {
		return fmt.Errorf("task %s: paused is %v: %w", b.name.id, to, errdefs.ErrFailedPrecondition)
	}
	if to {
		err = sentry.Pause(b.name.id)
	} else {
		err = sentry.Resume(b.name.id)
	}
	if err != nil {
		return err
	}
	b.paused = to
	b.publish(topic, event)
	return nil
}

func (b *sandbox) isPaused() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.paused
}

func (b *sandbox) publish(topic string, event any) {
	b.events.Publish(b.name.namespace, topic, event)
}

// end is how a process ended; at is zero while it runs.
type end struct {
	status uint32
	at     time.Time
}

// process is what the service does with the first process of a sandbox, and
// with those executed later.
type process interface {
	start(context.Context) error
	kill(signal uint32, all bool) error
	remove() error
	status() tasktypes.Status
	stdio() stdio
	hostPID() uint32
	ended() <-chan struct{}
	end() end
}
