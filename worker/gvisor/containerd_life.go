package gvisor

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// stopGrace is how long containerd may take to end by itself.
const stopGrace = 1500 * time.Millisecond

// life is one process of the managed containerd, or of the resident runtime.
type life struct {
	process *os.Process
	exited  chan struct{}
	err     error // why it ended; read after exited is closed
	// with is closed when the process that shares this life is gone as well;
	// nil if there is none.
	with chan struct{}
}

// startLife starts a daemon and returns when it serves. Every mount that it
// and its children make is in a mount namespace of their own and vanishes with
// them; the kernel kills it when this process dies.
func startLife(ctx context.Context, line []string, l layout, groups *Cgroups, log io.Writer) (_ *life, err error) {
	name := filepath.Base(line[0])
	defer func() {
		if err != nil {
			err = fmt.Errorf("start %s: %w", name, err)
		}
	}()
	ready, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: l.notify(), Net: "unixgram"})
	if err != nil {
		return nil, err
	}
	defer os.Remove(l.notify())
	defer func() { _ = ready.Close() }()

	cmd := exec.Command(line[0], line[1:]...)
	cmd.Dir = l.dir
	cmd.Env = []string{
		"PATH=" + filepath.Dir(line[0]) + ":/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
		"NOTIFY_SOCKET=" + l.notify(),
	}
	cmd.Stdout, cmd.Stderr = log, log
	cmd.WaitDelay = time.Second
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Setpgid:      true, // Ctrl-C at the terminal is for us alone
		Unshareflags: syscall.CLONE_NEWNS,
		Pdeathsig:    syscall.SIGKILL,
	}
	if groups.Unified() {
		group, err := os.Open(groups.Dir("", runtimeGroup))
		if err != nil {
			return nil, err
		}
		defer group.Close()
		cmd.SysProcAttr.UseCgroupFD, cmd.SysProcAttr.CgroupFD = true, int(group.Fd())
	}
	life, err := launch(cmd)
	if err != nil {
		return nil, err
	}
	if !groups.Unified() {
		err = groups.attach(life.process.Pid)
	}
	if err == nil {
		err = life.waitReady(ctx, ready)
	}
	if err != nil {
		life.stop()
		return nil, err
	}
	return life, nil
}

// launch runs cmd from a thread that lives as long as the process: the kernel
// counts the end of the thread that started a process as the parent's death. The
// thread has a umask of its own, whatever ours is: with a stricter one the root
// directories of images would be closed to the users of sandboxes.
func launch(cmd *exec.Cmd) (*life, error) {
	life := &life{exited: make(chan struct{})}
	started := make(chan error)
	go func() {
		runtime.LockOSThread()
		err := unix.Unshare(unix.CLONE_FS)
		if err == nil {
			unix.Umask(0o022)
			err = cmd.Start()
		}
		life.process = cmd.Process
		started <- err
		if err == nil {
			life.err = cmd.Wait()
			close(life.exited)
		}
	}()
	return life, <-started
}

// waitReady waits for the daemon's READY=1, as systemd would.
func (l *life) waitReady(ctx context.Context, socket *net.UnixConn) error {
	ready := make(chan error, 1)
	go func() {
		buffer := make([]byte, 4096)
		for {
			n, err := socket.Read(buffer)
			if err != nil || strings.Contains(string(buffer[:n]), "READY=1") {
				ready <- err
				return
			}
		}
	}()
	select {
	case err := <-ready:
		return err
	case <-l.exited:
		return fmt.Errorf("it ended at once (%w), its log says why", l.err)
	case <-ctx.Done():
		return fmt.Errorf("wait until it serves: %w", context.Cause(ctx))
	}
}

// stop asks, then insists, and returns when the process is gone.
func (l *life) stop() {
	_ = l.process.Signal(syscall.SIGTERM)
	grace := time.NewTimer(stopGrace)
	defer grace.Stop()
	select {
	case <-l.exited:
	case <-grace.C:
		_ = l.process.Kill()
		<-l.exited
	}
	if l.with != nil {
		<-l.with
	}
}

// share has two processes live and die together: neither can do anything
// without the other, and what ran is lost with either.
func (l *life) share(other *life, logger *slog.Logger) {
	l.with = make(chan struct{})
	go func() {
		defer close(l.with)
		select {
		case <-l.exited:
			other.stop()
		case <-other.exited:
			logger.Error("the resident runtime died", "error", other.err)
			_ = l.process.Kill()
			<-l.exited
		}
	}()
}

// owner names this process so that no later one is taken for it: the shims end
// with it.
func owner() (string, error) {
	pid := unix.Getpid()
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return "", fmt.Errorf("own start time: %w", err)
	}
	// The name in parentheses may hold anything; the start time is the 20th
	// field after it.
	fields := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:]))
	if len(fields) < 20 {
		return "", fmt.Errorf("own start time: %q", stat)
	}
	return fmt.Sprintf("%d:%s", pid, fields[19]), nil
}
