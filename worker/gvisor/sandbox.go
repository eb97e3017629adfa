package gvisor

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/sandlot-dev/sandlot/pkg/frame"
	"github.com/sandlot-dev/sandlot/pkg/job"
	"github.com/sandlot-dev/sandlot/pkg/telemetry"
	"github.com/sandlot-dev/sandlot/worker"
	"github.com/sandlot-dev/sandlot/worker/guest"
)

// sandbox is one machine for one task, from boot to Close. It may have booted
// before its task was known.
type sandbox struct {
	id     string
	limits job.Limits
	task   worker.Task
	config Config
	inside inside
	env    []string // the image's
	fifos  string
	// shimSocket is removed with the rest: a shim that is killed leaves it.
	shimSocket string
	group      group
	gone       <-chan struct{} // containerd died, and everything with it

	machine  *machine
	counters counters
	session  *guest.Session
	log      *agentLog
	applied  job.Applied
	// idle is how much memory the sandbox used before the first step.
	idle job.Bytes

	release func() // gives the id back
	mu      sync.Mutex
	closed  bool
}

// adopt gives the sandbox its task and brings it up to the point where the
// first step may run.
func (s *sandbox) adopt(ctx context.Context, task worker.Task) (err error) {
	s.task, s.limits = task, task.Spec.Limits
	if err := s.putFiles(ctx); err != nil {
		return err
	}
	if err := s.counters.setCPU(s.limits.CPU); err != nil {
		return fmt.Errorf("set cpu limit: %w", err)
	}
	if s.applied, err = s.readBack(s.limits.CPU); err != nil {
		return fmt.Errorf("read limits back: %w", err)
	}
	now, err := s.counters.memory()
	s.idle = now.usage
	return err
}

// alive reports whether nothing has ended the sandbox yet, as far as is known.
func (s *sandbox) alive() bool {
	return s.session.Err() == nil && !finished(s.machine.exited) && !finished(s.gone)
}

// boot makes the sandbox, sees to its limits and waits for the agent.
func (s *sandbox) boot(ctx context.Context, root rootfs) (err error) {
	if s.machine.pipes, err = openPipes(s.fifos); err != nil {
		return err
	}
	if err := s.create(ctx, root); err != nil {
		return err
	}
	cgroups := s.config.Containerd.Cgroups()
	if s.counters, err = countersOf(cgroups.Unified(), func(controller string) string { return cgroups.Dir(controller, s.id) }); err != nil {
		return err
	}
	if err := s.isInside(cgroups); err != nil {
		return err
	}
	if err := s.start(ctx); err != nil {
		return err
	}
	if err := s.greet(ctx); err != nil {
		return err
	}
	if err := offerToOOM(s.machine.pid); err != nil {
		return err
	}
	if _, err := s.readBack(bootCores(s.limits.CPU)); err != nil {
		return fmt.Errorf("read limits back: %w", err)
	}
	return nil
}

// isInside checks that the sandbox is in the cgroups whose limits are read back.
func (s *sandbox) isInside(cgroups *Cgroups) error {
	for _, controller := range cgroups.needed() {
		dir := cgroups.Dir(controller, s.id)
		pids, err := members(dir)
		if err != nil {
			return err
		}
		if !slices.Contains(pids, s.machine.pid) {
			return fmt.Errorf("process %d is not in cgroup %s", s.machine.pid, dir)
		}
	}
	return nil
}

// create and start are not broken off when ctx ends: containerd would clear
// away at its own pace, while Close does so too. They take a tenth of a second,
// and what hangs is given up after a while.
func (s *sandbox) create(ctx context.Context, root rootfs) error {
	lingering, cancel := linger(ctx)
	defer cancel()
	cgroups := s.config.Containerd.Cgroups()
	spec := specFor(plan{
		limits:      s.limits,
		guestDir:    s.inside.dir,
		rootFile:    root.file,
		guestFile:   s.inside.file,
		cgroupsPath: cgroups.SpecPath(s.id),
		unified:     cgroups.Unified(),
	})
	err := s.machine.create(lingering, spec, s.config.Containerd.RuntimeOptions(), root.mounted())
	s.shimSocket = s.config.Containerd.shimSocket(s.id)
	return err
}

func (s *sandbox) start(ctx context.Context) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	lingering, cancel := linger(ctx)
	defer cancel()
	return s.machine.start(lingering)
}

// lingerPatience is how long a call to containerd may go on when nobody wants
// its result any more.
const lingerPatience = 10 * time.Second

// linger is ctx with an end that comes later.
func linger(ctx context.Context) (context.Context, context.CancelFunc) {
	lingering, cancel := context.WithCancel(context.WithoutCancel(ctx))
	stop := context.AfterFunc(ctx, func() { time.AfterFunc(lingerPatience, cancel) })
	return lingering, func() { stop(); cancel() }
}

// agentBuffer is how much of each output stream the agent may hold. It is
// memory of the sandbox and has to fit into the allowance.
const agentBuffer = 1 << 20

// greet waits for the agent.
func (s *sandbox) greet(ctx context.Context) (err error) {
	p := s.machine.pipes
	s.log = readAgentLog(p.stderr)
	disk := int64(s.limits.Disk)
	s.session, err = guest.Open(ctx, p.stdout, p.stdin, guest.Settings{
		Buffer: agentBuffer, FileMax: disk, FilesMax: disk,
	})
	if err != nil {
		return fmt.Errorf("%w%s", err, s.log.quote())
	}
	return nil
}

func (s *sandbox) putFiles(ctx context.Context) error {
	if len(s.task.Spec.Files) == 0 {
		return nil
	}
	ctx, stage := telemetry.Start(ctx, telemetry.StageFiles)
	var files []guest.File
	for _, f := range s.task.Spec.Files {
		mode := fs.FileMode(0o644)
		if f.Executable {
			mode = 0o755
		}
		body := f.Bytes()
		files = append(files, guest.File{Path: f.Path, Mode: mode, Size: int64(len(body)), Body: bytes.NewReader(body)})
	}
	err := s.session.PutFiles(ctx, files)
	stage.End(err)
	return err
}

// readBack compares the limits in force with those of the task.
func (s *sandbox) readBack(cores float64) (job.Applied, error) {
	limits := s.limits
	got, err := s.counters.limits()
	if err != nil {
		return job.Applied{}, err
	}
	hello := s.session.Hello()
	var wrong []error
	check := func(limit string, ok bool, got any) {
		if !ok {
			wrong = append(wrong, fmt.Errorf("%s is %v", limit, got))
		}
	}
	check("limits.memory with the allowance", got.memory == memoryLimit(limits.Memory), got.memory)
	check("swap", got.swap == 0 || swapTotal() == 0, got.swap)
	check("the guard of limits.pids", got.pids == pidsGuard(limits.PIDs), got.pids)
	check("limits.cpu", quotaOf(got.cores) == quotaOf(cores), got.cores)
	check("one disk for all directories", hello.Layout == frame.OneDisk, hello.Notes)
	check("limits.disk", hello.Disk <= int64(limits.Disk)+pageSize, hello.Disk)
	check("the read-only root", hello.RootReadonly, hello.RootReadonly)
	limits.CPU = got.cores
	return job.Applied{Limits: limits, SandboxMemory: got.memory, SandboxPIDs: got.pids}, errors.Join(wrong...)
}

// environment of a step: the image's, the task's, the step's; later ones win.
func (s *sandbox) environment(step job.Step) []string {
	all := map[string]string{
		"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
		"HOME": "/home/sandlot",
	}
	for _, pair := range s.env {
		name, value, _ := strings.Cut(pair, "=")
		all[name] = value
	}
	for _, more := range []map[string]string{s.task.Env, step.Env} {
		for name, value := range more {
			all[name] = value
		}
	}
	var env []string
	for name, value := range all {
		env = append(env, name+"="+value)
	}
	slices.Sort(env)
	return env
}

// closePatience bounds a Close.
const closePatience = 30 * time.Second

// Close kills what is left and removes all that the sandbox had on the host.
// When something could not be removed, it says so, and may be called again.
func (s *sandbox) Close(ctx context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, closePatience)
	defer cancel()
	if err := s.clear(ctx); err != nil {
		return fmt.Errorf("close sandbox %s: %w", s.id, err)
	}
	s.closed = true
	s.release()
	return nil
}

func (s *sandbox) clear(ctx context.Context) error {
	failed := []error{s.group.kill(ctx)}
	if s.session != nil {
		s.session.Close()
	}
	// The shim copies what the sandbox wrote as long as somebody may read it,
	// and waits for that with the deletion.
	if s.machine.pipes != nil {
		failed = append(failed, s.machine.pipes.close())
	}
	if s.log != nil {
		s.log.wait()
	}
	if finished(s.gone) {
		// All processes were swept. The next containerd still has a record
		// of the container.
		s.machine.stopWaitingNow()
		failed = append(failed, s.config.Containerd.Ready(ctx))
	}
	s.machine.awaitExit(ctx)
	failed = append(failed, s.machine.remove(ctx))
	failed = append(failed, s.group.kill(ctx), s.group.remove(ctx), removeFile(s.shimSocket))
	return errors.Join(failed...)
}
