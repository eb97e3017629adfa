// Package resident is a containerd runtime that serves all tasks of one
// containerd from one process, and makes gVisor's sandboxes in that process.
//
//	containerd ── ttrpc ── Service ── runsc/container ── sandbox
//
// The stock way executes gVisor's shim three times and runsc eight times for a
// task. Here nothing is executed but the sandbox. A task's standard streams
// are given to the sandbox as they are: nobody copies, and what was written
// before a death can still be read.
//
// Sandboxes end with this process, by whatever signal it ends: the kernel sees
// to that. What a killed one has left on the host, the next one removes before
// it serves (Recover).
package resident

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"sync"

	task "github.com/containerd/containerd/api/runtime/task/v2"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"github.com/containerd/ttrpc"
	"google.golang.org/protobuf/types/known/emptypb"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// Service is containerd's task service, version 2. It is safe for concurrent
// use; calls for different tasks do not wait for each other.
type Service struct {
	settings Settings
	events   Publisher

	mu    sync.Mutex
	tasks map[name]*sandbox
}

var _ task.TaskService = (*Service)(nil)

// name is what a task is called: ids are unique within a namespace.
type name struct{ namespace, id string }

// New is a service with no tasks.
func New(settings Settings, events Publisher) *Service {
	return &Service{settings: settings, events: events, tasks: map[name]*sandbox{}}
}

// Register offers the service.
func (s *Service) Register(server *ttrpc.Server) { task.RegisterTaskService(server, s) }

// Interceptor gives every error the status code that containerd's client turns
// back into a sentinel.
func Interceptor(ctx context.Context, unmarshal ttrpc.Unmarshaler, _ *ttrpc.UnaryServerInfo, method ttrpc.Method) (any, error) {
	answer, err := method(ctx, unmarshal)
	return answer, errgrpc.ToGRPC(err)
}

// find returns the task that a request means.
func (s *Service) find(ctx context.Context, id string) (*sandbox, error) {
	namespace, err := namespaces.NamespaceRequired(ctx)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if b := s.tasks[name{namespace, id}]; b != nil {
		return b, nil
	}
	return nil, fmt.Errorf("task %s: %w", id, errdefs.ErrNotFound)
}

// process returns the process that a request means: the first one, or one that
// was executed later.
func (s *Service) process(ctx context.Context, id, execID string) (*sandbox, process, error) {
	b, err := s.find(ctx, id)
	if err != nil {
		return nil, nil, err
	}
	p, err := b.process(execID)
	return b, p, err
}

// Create makes a sandbox: its processes exist, and the guest has not begun.
func (s *Service) Create(ctx context.Context, r *task.CreateTaskRequest) (_ *task.CreateTaskResponse, err error) {
	namespace, err := namespaces.NamespaceRequired(ctx)
	if err != nil {
		return nil, err
	}
	conf, err := s.settings.configFor(namespace, r)
	if err != nil {
		return nil, err
	}
	b := newSandbox(namespace, conf, r, s.events)
	s.mu.Lock()
	if s.tasks[b.name] != nil {
		s.mu.Unlock()
		return nil, fmt.Errorf("task %s: %w", r.ID, errdefs.ErrAlreadyExists)
	}
	s.tasks[b.name] = b
	s.mu.Unlock()
	if err := b.create(ctx, r); err != nil {
		s.forget(b)
		return nil, fmt.Errorf("create task %s: %w", r.ID, err)
	}
	return &task.CreateTaskResponse{Pid: b.init.hostPID()}, nil
}

func (s *Service) forget(b *sandbox) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.tasks, b.name)
}

// Start lets a process begin.
func (s *Service) Start(ctx context.Context, r *task.StartRequest) (*task.StartResponse, error) {
	_, p, err := s.process(ctx, r.ID, r.ExecID)
	if err != nil {
		return nil, err
	}
	if err := p.start(ctx); err != nil {
		return nil, fmt.Errorf("start task %s: %w", r.ID, err)
	}
	return &task.StartResponse{Pid: p.hostPID()}, nil
}

// State tells what a process does.
func (s *Service) State(ctx context.Context, r *task.StateRequest) (*task.StateResponse, error) {
	b, p, err := s.process(ctx, r.ID, r.ExecID)
	if err != nil {
		return nil, err
	}
	end := p.end()
	stdio := p.stdio()
	return &task.StateResponse{
		ID: r.ID, ExecID: r.ExecID, Bundle: b.bundle, Pid: p.hostPID(), Status: p.status(),
		Stdin: stdio.in, Stdout: stdio.out, Stderr: stdio.err,
		ExitStatus: end.status, ExitedAt: stamp(end),
	}, nil
}

// stamp is nil for a process that has not ended.
func stamp(e end) *timestamppb.Timestamp {
	if e.at.IsZero() {
		return nil
	}
	return timestamppb.New(e.at)
}

// Wait answers when a process has ended.
func (s *Service) Wait(ctx context.Context, r *task.WaitRequest) (*task.WaitResponse, error) {
	_, p, err := s.process(ctx, r.ID, r.ExecID)
	if err != nil {
		return nil, err
	}
	select {
	case <-p.ended():
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	return &task.WaitResponse{ExitStatus: p.end().status, ExitedAt: stamp(p.end())}, nil
}

// Kill sends a signal.
func (s *Service) Kill(ctx context.Context, r *task.KillRequest) (*emptypb.Empty, error) {
	_, p, err := s.process(ctx, r.ID, r.ExecID)
	if err != nil {
		return nil, err
	}
	return &emptypb.Empty{}, p.kill(r.Signal, r.All)
}

// Delete removes a process that has ended; with a task's first one goes all
// that the sandbox had on the host.
func (s *Service) Delete(ctx context.Context, r *task.DeleteRequest) (*task.DeleteResponse, error) {
	b, p, err := s.process(ctx, r.ID, r.ExecID)
	if err != nil {
		return nil, err
	}
	pid := p.hostPID()
	if err := p.remove(); err != nil {
		return nil, fmt.Errorf("delete task %s: %w", r.ID, err)
	}
	if r.ExecID == "" {
		s.forget(b)
	}
	return &task.DeleteResponse{Pid: pid, ExitStatus: p.end().status, ExitedAt: stamp(p.end())}, nil
}

// Exec prepares another process in a sandbox; Start starts it.
func (s *Service) Exec(ctx context.Context, r *task.ExecProcessRequest) (*emptypb.Empty, error) {
	b, err := s.find(ctx, r.ID)
	if err != nil {
		return nil, err
	}
	return &emptypb.Empty{}, b.exec(r)
}

// Pids lists the processes in a sandbox by their numbers inside.
func (s *Service) Pids(ctx context.Context, r *task.PidsRequest) (*task.PidsResponse, error) {
	b, err := s.find(ctx, r.ID)
	if err != nil {
		return nil, err
	}
	return b.pids()
}

// Stats are the kernel's counters for a sandbox's cgroup.
func (s *Service) Stats(ctx context.Context, r *task.StatsRequest) (*task.StatsResponse, error) {
	b, err := s.find(ctx, r.ID)
	if err != nil {
		return nil, err
	}
	return b.stats()
}

// Connect tells whether a task is known, and its process.
func (s *Service) Connect(ctx context.Context, r *task.ConnectRequest) (*task.ConnectResponse, error) {
	b, err := s.find(ctx, r.ID)
	if err != nil {
		return nil, err
	}
	return &task.ConnectResponse{ShimPid: uint32(os.Getpid()), TaskPid: b.init.hostPID(), Version: "2"}, nil
}

// Pause freezes a sandbox.
func (s *Service) Pause(ctx context.Context, r *task.PauseRequest) (*emptypb.Empty, error) {
	b, err := s.find(ctx, r.ID)
	if err != nil {
		return nil, err
	}
	return &emptypb.Empty{}, b.pause()
}

// Resume lets a frozen sandbox go on.
func (s *Service) Resume(ctx context.Context, r *task.ResumeRequest) (*emptypb.Empty, error) {
	b, err := s.find(ctx, r.ID)
	if err != nil {
		return nil, err
	}
	return &emptypb.Empty{}, b.resume()
}

// CloseIO has nothing to do: only the sandbox and the client hold the streams.
func (s *Service) CloseIO(ctx context.Context, r *task.CloseIORequest) (*emptypb.Empty, error) {
	_, _, err := s.process(ctx, r.ID, r.ExecID)
	return &emptypb.Empty{}, err
}

// Shutdown is said to the shim of one task, when that is gone. This one has
// others, and stays.
func (s *Service) Shutdown(context.Context, *task.ShutdownRequest) (*emptypb.Empty, error) {
	return &emptypb.Empty{}, nil
}

// Checkpoint, Update and ResizePty are not offered.
func (s *Service) Checkpoint(context.Context, *task.CheckpointTaskRequest) (*emptypb.Empty, error) {
	return nil, fmt.Errorf("checkpoint: %w", errdefs.ErrNotImplemented)
}

// Update is not offered: whoever may change a limit may write to the cgroup.
func (s *Service) Update(context.Context, *task.UpdateTaskRequest) (*emptypb.Empty, error) {
	return nil, fmt.Errorf("update: %w", errdefs.ErrNotImplemented)
}

// ResizePty is not offered: no process has a terminal.
func (s *Service) ResizePty(context.Context, *task.ResizePtyRequest) (*emptypb.Empty, error) {
	return nil, fmt.Errorf("resize terminal: %w", errdefs.ErrNotImplemented)
}

// Close ends all sandboxes and removes what they had.
func (s *Service) Close() error {
	s.mu.Lock()
	all := make([]*sandbox, 0, len(s.tasks))
	for _, b := range s.tasks {
		all = append(all, b)
	}
	s.mu.Unlock()
	var failed error
	for _, b := range all {
		if err := b.destroy(); err != nil && failed == nil {
			failed = fmt.Errorf("close task %s: %w", b.name.id, err)
		}
		s.forget(b)
	}
	return failed
}

func rootFor(root, namespace string) string { return filepath.Join(root, namespace) }
