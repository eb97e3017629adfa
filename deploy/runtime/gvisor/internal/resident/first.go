package resident

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"time"
	"unsafe"

	"github.com/containerd/containerd/api/events"
	tasktypes "github.com/containerd/containerd/api/types/task"
	"github.com/containerd/containerd/v2/core/runtime"
	"github.com/containerd/errdefs"
	"github.com/containerd/log"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// first is a sandbox's first process. Its end is that of the sandbox process on
// the host, which hands the guest's exit status on.
type first struct {
	b       *sandbox
	streams stdio

	// mu also guards what create and clear make and remove.
	mu      sync.Mutex
	started bool
	pid     atomic.Int32

	done   chan struct{} // closed after result is set
	result end
}

// watch waits for the end of the sandbox process, a child of ours.
func (f *first) watch(pid int) error {
	fd, err := unix.PidfdOpen(pid, unix.O_NONBLOCK)
	if err != nil {
		return fmt.Errorf("watch sandbox: %w", err)
	}
	f.pid.Store(int32(pid))
	// The poller of Go's runtime waits for all of them: a sandbox costs no
	// thread.
	file := os.NewFile(uintptr(fd), "pidfd")
	conn, err := file.SyscallConn()
	if err != nil {
		return errors.Join(fmt.Errorf("watch sandbox: %w", err), file.Close())
	}
	go func() {
		defer file.Close()
		status := uint32(128 + unix.SIGKILL)
		err := conn.Read(func(fd uintptr) (done bool) {
			status, done, err = peek(int(fd))
			return done || err != nil
		})
		if err != nil {
			log.L.WithError(err).WithField("task", f.b.name.id).Error("wait for sandbox")
		}
		f.finish(status)
	}()
	return nil
}

// peek reads the status of a child that has ended and leaves it to be reaped,
// so that its number stays its own until the sandbox is removed.
func peek(pidfd int) (status uint32, ended bool, err error) {
	var info unix.Siginfo
	for {
		err = unix.Waitid(unix.P_PIDFD, pidfd, &info, unix.WEXITED|unix.WNOHANG|unix.WNOWAIT, nil)
		if err != unix.EINTR {
			break
		}
	}
	if err != nil || info.Signo == 0 {
		return 0, false, err
	}
	// si_status follows si_pid and si_uid in the kernel's union.
	status = uint32(*(*int32)(unsafe.Add(unsafe.Pointer(&info), unsafe.Offsetof(childInfo{}.status))))
	if info.Code != cldExited {
		status += 128
	}
	return status, true, nil
}

// childInfo is the kernel's siginfo of a child.
type childInfo struct {
	signo, errno, code, _ int32
	pid                   int32
	uid                   uint32
	status                int32
}

const cldExited = 1

// finish tells everybody of the end.
func (f *first) finish(status uint32) {
	f.result = end{status, time.Now()}
	if f.b.group.oomKills() > 0 {
		f.b.publish(runtime.TaskOOMEventTopic, &events.TaskOOM{ContainerID: f.b.name.id})
	}
	close(f.done)
	f.b.publish(runtime.TaskExitEventTopic, &events.TaskExit{
		ContainerID: f.b.name.id, ID: f.b.name.id, Pid: f.hostPID(),
		ExitStatus: status, ExitedAt: timestamppb.New(f.result.at),
	})
	f.b.endExecs()
}

func (f *first) ended() <-chan struct{} { return f.done }

// over tells whether the process has ended.
func (f *first) over() bool {
	select {
	case <-f.done:
		return true
	default:
		return false
	}
}

func (f *first) end() end {
	if !f.over() {
		return end{}
	}
	return f.result
}

func (f *first) stdio() stdio { return f.streams }

func (f *first) hostPID() uint32 { return uint32(f.pid.Load()) }

func (f *first) status() tasktypes.Status {
	f.mu.Lock()
	started := f.started
	f.mu.Unlock()
	switch {
	case f.over():
		return tasktypes.Status_STOPPED
	case !started:
		return tasktypes.Status_CREATED
	case f.b.isPaused():
		return tasktypes.Status_PAUSED
	}
	return tasktypes.Status_RUNNING
}

func (f *first) start(context.Context) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.started || f.over() || f.b.container == nil {
		return fmt.Errorf("it is not one that waits to be started: %w", errdefs.ErrFailedPrecondition)
	}
	if err := f.b.container.Start(f.b.conf); err != nil {
		return err
	}
	f.started = true
	f.b.publish(runtime.TaskStartEventTopic, &events.TaskStart{ContainerID: f.b.name.id, Pid: f.hostPID()})
	return nil
}

// kill needs nobody's help inside to end a sandbox.
func (f *first) kill(signal uint32, all bool) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.over() || f.b.container == nil {
		return fmt.Errorf("task %s has ended: %w", f.b.name.id, errdefs.ErrNotFound)
	}
	sig := unix.Signal(signal)
	if sig == unix.SIGKILL || !f.started && sig == unix.SIGTERM {
		return unix.Kill(int(f.pid.Load()), unix.SIGKILL) // not reaped yet: the number is its own
	}
	if !f.started {
		return nil // nobody is there to be told
	}
	return f.b.sentry.SignalContainer(f.b.name.id, sig, all)
}

func (f *first) remove() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !f.over() {
		return fmt.Errorf("it has not ended: %w", errdefs.ErrFailedPrecondition)
	}
	if err := f.b.clear(); err != nil {
		return err
	}
	f.b.publish(runtime.TaskDeleteEventTopic, &events.TaskDelete{
		ContainerID: f.b.name.id, Pid: f.hostPID(), ExitStatus: f.result.status, ExitedAt: timestamppb.New(f.result.at),
	})
	return nil
}
