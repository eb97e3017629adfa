package gvisor

import (
	"context"
	"fmt"
	"time"

	"github.com/containerd/containerd/api/services/tasks/v1"
	"github.com/containerd/containerd/api/types"
	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/containers"
	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"github.com/containerd/typeurl/v2"
	"github.com/opencontainers/runtime-spec/specs-go"
)

// machine is a sandbox as containerd has it: a container and its task. It
// speaks with containerd's services one call per need; the client's own
// wrappers would ask several times over what the worker knows already.
type machine struct {
	id      string
	client  *containerd.Client
	runtime string // its name
	pipes   *pipes
	// pid is the sandbox process on the host.
	pid int
	// instance is whose the container is.
	instance string
	// exited is closed when containerd has said that the sandbox is gone, or
	// cannot say any more.
	exited chan struct{}
	// stopWaiting ends the wait behind exited.
	stopWaiting context.CancelFunc
}

// create makes the container and its task: the sandbox's processes exist when
// it returns, and the guest has not begun.
func (m *machine) create(ctx context.Context, spec *specs.Spec, options any, root []mount.Mount) error {
	encoded, err := typeurl.MarshalAny(spec)
	if err != nil {
		return fmt.Errorf("encode spec: %w", err)
	}
	chosen, err := typeurl.MarshalAny(options)
	if err != nil {
		return fmt.Errorf("encode runtime options: %w", err)
	}
	_, err = m.client.ContainerService().Create(ctx, containers.Container{
		ID:      m.id,
		Labels:  map[string]string{instanceLabel: m.instance},
		Spec:    encoded,
		Runtime: containers.RuntimeInfo{Name: m.runtime, Options: chosen},
	})
	if err != nil {
		return fmt.Errorf("create container: %w", err)
	}
	request := &tasks.CreateTaskRequest{
		ContainerID: m.id,
		Stdin:       m.pipes.path("stdin"),
		Stdout:      m.pipes.path("stdout"),
		Stderr:      m.pipes.path("stderr"),
	}
	for _, at := range root {
		request.Rootfs = append(request.Rootfs, &types.Mount{Type: at.Type, Source: at.Source, Target: at.Target, Options: at.Options})
	}
	answer, err := m.client.TaskService().Create(ctx, request)
	if err != nil {
		return fmt.Errorf("create task: %w", errgrpc.ToNative(err))
	}
	m.pid = int(answer.Pid)
	m.pipes.joined()
	return nil
}

// start lets the guest begin and watches for its end.
func (m *machine) start(ctx context.Context) error {
	if _, err := m.client.TaskService().Start(ctx, &tasks.StartRequest{ContainerID: m.id}); err != nil {
		return fmt.Errorf("start task: %w", errgrpc.ToNative(err))
	}
	m.watchExit(ctx)
	return nil
}

// watchExit begins to wait for the task's end. One that is not there has
// ended.
func (m *machine) watchExit(ctx context.Context) {
	waiting, cancel := context.WithCancel(context.WithoutCancel(ctx))
	m.stopWaiting = cancel
	m.exited = make(chan struct{})
	go func() {
		defer close(m.exited)
		_, _ = m.client.TaskService().Wait(waiting, &tasks.WaitRequest{ContainerID: m.id})
	}()
}

// exitPatience bounds the wait for containerd to notice a death.
const exitPatience = 10 * time.Second

// awaitExit waits until containerd knows that the sandbox is gone. A task that
// it still thinks alive cannot be deleted, so a wait in vain shows there.
func (m *machine) awaitExit(ctx context.Context) {
	if m.exited == nil {
		return
	}
	patience := time.NewTimer(exitPatience)
	defer patience.Stop()
	select {
	case <-m.exited:
	case <-patience.C:
	case <-ctx.Done():
	}
}

// remove removes task and container. What is gone already is no error; what
// was never made neither.
func (m *machine) remove(ctx context.Context) error {
	if err := m.removeTask(ctx); err != nil {
		return fmt.Errorf("delete task: %w", err)
	}
	if err := m.client.ContainerService().Delete(ctx, m.id); err != nil && !errdefs.IsNotFound(err) {
		return fmt.Errorf("delete container: %w", err)
	}
	if m.stopWaiting != nil {
		m.stopWaiting()
		<-m.exited
	}
	return nil
}

// removeTask asks until the task is gone. When a shim has died, containerd
// needs a moment to clear away after it, and fails to reach it until then.
func (m *machine) removeTask(ctx context.Context) error {
	for {
		_, err := m.client.TaskService().Delete(ctx, &tasks.DeleteTaskRequest{ContainerID: m.id})
		if err = errgrpc.ToNative(err); err == nil || errdefs.IsNotFound(err) {
			return nil
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// stopWaitingNow gives up on hearing of the sandbox's end.
func (m *machine) stopWaitingNow() {
	if m.stopWaiting != nil {
		m.stopWaiting()
	}
}
