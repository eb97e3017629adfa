package gvisor

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/sandlot-dev/sandlot/pkg/job"
	"github.com/sandlot-dev/sandlot/worker"
	"github.com/sandlot-dev/sandlot/worker/guest"
)

// sandbox is one machine for one task, from boot to Close.
type sandbox struct {
	task   worker.Task
	config Config
	env    []string // the image's
	fifos  string
	group  group
	gone   <-chan struct{} // containerd died, and everything with it

	machine  *machine
	counters counters
	session  *guest.Session
	log      *agentLog
	applied  job.Applied
	// idle is how much memory the sandbox used before the first step.
	idle job.Bytes

	mu     sync.Mutex
	closed bool
}

// boot brings the sandbox up to the point where the first step may run.
func (s *sandbox) boot(ctx context.Context, root rootfs) (err error) {
	// The runtime takes a directory that it finds for one whose limits were
	// set by somebody else, and sets none.
	if dir, there := s.group.exists(); there {
		return fmt.Errorf("cgroup %s is there already", dir)
	}
	if s.machine.pipes, err = openPipes(s.fifos); err != nil {
		return err
	}
	cgroups := s.config.Containerd.Cgroups()
	spec := specFor(plan{
		id:          s.task.ID,
		limits:      s.task.Spec.Limits,
		guestDir:    s.config.Containerd.guestDir(),
		cgroupsPath: cgroups.SpecPath(s.task.ID),
		unified:     cgroups.Unified(),
	})
	if err := s.machine.create(ctx, spec, s.config.Containerd.RuntimeOptions(), root.mounts); err != nil {
		return err
	}
	if s.counters, err = countersOf(cgroups.Unified(), func(controller string) string { return cgroups.Dir(controller, s.task.ID) }); err != nil {
		return err
	}
	if err := s.group.holds(s.machine.pid); err != nil {
		return err
	}
	if err := s.group.offerToOOM(); err != nil {
		return err
	}
	if err := s.machine.start(ctx); err != nil {
		return err
	}
	return s.greet(ctx)
}

// greet waits for the agent, lays the files in and checks the limits.
func (s *sandbox) greet(ctx context.Context) (err error) {
	p := s.machine.pipes
	s.log = readAgentLog(p.stderr)
	limits := s.task.Spec.Limits
	s.session, err = guest.Open(ctx, p.stdout, p.stdin, guest.Settings{
		FileMax: int64(limits.Disk), FilesMax: int64(limits.Disk), FileCount: len(s.task.Spec.Files) + 1,
	})
	if err != nil {
		return fmt.Errorf("%w%s", err, s.log.quote())
	}
	if err := s.putFiles(ctx); err != nil {
		return err
	}
	if err := s.counters.setCPU(limits.CPU); err != nil {
		return fmt.Errorf("set cpu limit: %w", err)
	}
	if s.applied, err = s.readBack(); err != nil {
		return fmt.Errorf("read limits back: %w", err)
	}
	now, err := s.counters.memory()
	s.idle = now.usage
	return err
}

func (s *sandbox) putFiles(ctx context.Context) error {
	if len(s.task.Spec.Files) == 0 {
		return nil
	}
	var files []guest.File
	for _, f := range s.task.Spec.Files {
		mode := fs.FileMode(0o644)
		if f.Executable {
			mode = 0o755
		}
		body := f.Bytes()
		files = append(files, guest.File{Path: f.Path, Mode: mode, Size: int64(len(body)), Body: strings.NewReader(string(body))})
	}
	return s.session.PutFiles(ctx, files)
}

// readBack compares the limits in force with those of the task.
func (s *sandbox) readBack() (job.Applied, error) {
	limits := s.task.Spec.Limits
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
	check("limits.cpu", quotaOf(got.cores) == quotaOf(limits.CPU), got.cores)
	check("limits.disk", hello.Disk <= int64(limits.Disk)+pageSize, hello.Disk)
	check("the read-only root", hello.RootReadonly, hello.RootReadonly)
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
const closePatience = 20 * time.Second

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
		return fmt.Errorf("close sandbox %s: %w", s.task.ID, err)
	}
	s.closed = true
	return nil
}

func (s *sandbox) clear(ctx context.Context) error {
	failed := []error{s.group.kill(ctx)}
	if s.session != nil {
		failed = append(failed, s.session.Close())
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
	failed = append(failed, s.machine.awaitExit(ctx), s.machine.remove(ctx))
	failed = append(failed, s.group.kill(ctx), s.group.remove(ctx))
	return errors.Join(failed...)
}
