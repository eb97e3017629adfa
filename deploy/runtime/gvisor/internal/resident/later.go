package resident

import (
	"context"
	"encoding/json"
	"fmt"
	"sync"
	"time"

	"github.com/containerd/containerd/api/events"
	task "github.com/containerd/containerd/api/runtime/task/v2"
	tasktypes "github.com/containerd/containerd/api/types/task"
	"github.com/containerd/containerd/v2/core/runtime"
	"github.com/containerd/errdefs"
	"github.com/containerd/log"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/types/known/timestamppb"
	"gvisor.dev/gvisor/pkg/sentry/control"
	"gvisor.dev/gvisor/pkg/sentry/kernel/auth"
	gvisor "gvisor.dev/gvisor/runsc/sandbox"
	"gvisor.dev/gvisor/runsc/specutils"
)

// later is a process that was executed in a sandbox after its first one.
type later struct {
	b       *sandbox
	id      string
	spec    specs.Process
	streams stdio

	mu  sync.Mutex
	pid int32 // inside; 0 before the start

	closing sync.Once
	done    chan struct{} // closed after result is set
	result  end
}

// exec remembers a process to be started.
func (b *sandbox) exec(r *task.ExecProcessRequest) error {
	p := &later{b: b, id: r.ExecID, streams: stdio{r.Stdin, r.Stdout, r.Stderr}, done: make(chan struct{})}
	if err := json.Unmarshal(r.Spec.GetValue(), &p.spec); err != nil {
		return fmt.Errorf("process %s: %w: %w", r.ExecID, err, errdefs.ErrInvalidArgument)
	}
	switch {
	case r.Terminal || p.spec.Terminal:
		return fmt.Errorf("process %s: a terminal: %w", r.ExecID, errdefs.ErrNotImplemented)
	case len(p.spec.Args) == 0 || p.spec.Cwd == "" || p.spec.Cwd[0] != '/':
		return fmt.Errorf("process %s needs arguments and an absolute directory: %w", r.ExecID, errdefs.ErrInvalidArgument)
	}
	if _, err := b.alive(); err != nil {
		return err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.execs[r.ExecID] != nil {
		return fmt.Errorf("process %s of task %s: %w", r.ExecID, b.name.id, errdefs.ErrAlreadyExists)
	}
	b.execs[r.ExecID] = p
	if b.init.over() { // meanwhile, and endExecs did not see this one
		p.finish(128 + uint32(unix.SIGKILL))
	}
	b.publish(runtime.TaskExecAddedEventTopic, &events.TaskExecAdded{ContainerID: b.name.id, ExecID: r.ExecID})
	return nil
}

// endExecs ends what was in a sandbox that has died.
func (b *sandbox) endExecs() {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, p := range b.execs {
		p.finish(128 + uint32(unix.SIGKILL))
	}
}

func (p *later) start(ctx context.Context) error {
	sentry, err := p.b.alive()
	if err != nil {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.pid != 0 || p.over() {
		return fmt.Errorf("process %s was started before: %w", p.id, errdefs.ErrFailedPrecondition)
	}
	files, err := p.streams.open(ctx)
	if err != nil {
		return err
	}
	defer closeAll(files)
	args, err := p.args()
	if err != nil {
		return err
	}
	args.FilePayload = control.NewFilePayload(files, nil)
	if p.pid, err = sentry.Execute(p.b.conf, args); err != nil {
		return fmt.Errorf("execute: %w", err)
	}
	go p.wait(sentry, p.pid)
	p.b.publish(runtime.TaskExecStartedEventTopic, &events.TaskExecStarted{ContainerID: p.b.name.id, ExecID: p.id, Pid: uint32(p.pid)})
	return nil
}

// args are the process in gVisor's terms.
func (p *later) args() (*control.ExecArgs, error) {
	capabilities := p.spec.Capabilities
	if capabilities == nil {
		capabilities = p.b.spec.Process.Capabilities
	}
	granted, err := specutils.Capabilities(p.b.conf.EnableRaw, capabilities)
	if err != nil {
		return nil, fmt.Errorf("capabilities: %w", err)
	}
	args := &control.ExecArgs{
		ContainerID:      p.b.name.id,
		Argv:             p.spec.Args,
		Envv:             p.spec.Env,
		WorkingDirectory: p.spec.Cwd,
		KUID:             auth.KUID(p.spec.User.UID),
		KGID:             auth.KGID(p.spec.User.GID),
		Capabilities:     granted,
		NoNewPrivileges:  p.spec.NoNewPrivileges,
	}
	for _, gid := range p.spec.User.AdditionalGids {
		args.ExtraKGIDs = append(args.ExtraKGIDs, auth.KGID(gid))
	}
	return args, nil
}

// wait waits for the end. Of a sandbox that dies meanwhile, first tells.
func (p *later) wait(sentry *gvisor.Sandbox, pid int32) {
	status, err := sentry.WaitPID(p.b.name.id, pid)
	if err != nil {
		log.L.WithError(err).WithField("task", p.b.name.id).Debug("wait for process")
		<-p.b.init.done
		p.finish(128 + uint32(unix.SIGKILL))
		return
	}
	if status.Signaled() {
		p.finish(128 + uint32(status.Signal()))
		return
	}
	p.finish(uint32(status.ExitStatus()))
}

func (p *later) finish(status uint32) {
	p.closing.Do(func() {
		p.result = end{status, time.Now()}
		close(p.done)
		p.b.publish(runtime.TaskExitEventTopic, &events.TaskExit{
			ContainerID: p.b.name.id, ID: p.id, Pid: p.hostPID(), ExitStatus: status, ExitedAt: timestamppb.New(p.result.at),
		})
	})
}

func (p *later) ended() <-chan struct{} { return p.done }

func (p *later) over() bool {
	select {
	case <-p.done:
		return true
	default:
		return false
	}
}

func (p *later) end() end {
	if !p.over() {
		return end{}
	}
	return p.result
}

func (p *later) stdio() stdio { return p.streams }

// hostPID is the number inside: on the host the process has none of its own.
func (p *later) hostPID() uint32 {
	p.mu.Lock()
	defer p.mu.Unlock()
	return uint32(p.pid)
}

func (p *later) status() tasktypes.Status {
	switch {
	case p.over():
		return tasktypes.Status_STOPPED
	case p.hostPID() == 0:
		return tasktypes.Status_CREATED
	}
	return tasktypes.Status_RUNNING
}

func (p *later) kill(signal uint32, _ bool) error {
	sentry, err := p.b.alive()
	if err != nil {
		return err
	}
	if p.over() {
		return fmt.Errorf("process %s has ended: %w", p.id, errdefs.ErrNotFound)
	}
	pid := p.hostPID()
	if pid == 0 {
		return fmt.Errorf("process %s was not started: %w", p.id, errdefs.ErrFailedPrecondition)
	}
	return sentry.SignalProcess(p.b.name.id, int32(pid), unix.Signal(signal), false)
}

func (p *later) remove() error {
	if p.hostPID() != 0 && !p.over() {
		return fmt.Errorf("process %s has not ended: %w", p.id, errdefs.ErrFailedPrecondition)
	}
	p.b.mu.Lock()
	defer p.b.mu.Unlock()
	delete(p.b.execs, p.id)
	return nil
}
