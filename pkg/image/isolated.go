package image

import (
	"context"
	"fmt"
	"os/exec"
	"runtime"
	"syscall"
	"time"
)

// isolated is a command with mount and process namespaces of its own: what it
// mounts and starts is gone when it has ended, however it ended, and when this
// process has.
func isolated(ctx context.Context, argv []string) *exec.Cmd {
	args := append([]string{"--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "--"}, argv...)
	cmd := exec.CommandContext(ctx, "unshare", args...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	cmd.WaitDelay = 5 * time.Second
	return cmd
}

// run runs cmd on one thread: the kernel sends Pdeathsig when the thread that
// started the process ends, not the process.
func run(ctx context.Context, cmd *exec.Cmd) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	err := cmd.Run()
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", program(cmd), err)
	}
	return nil
}

// program names what cmd runs behind unshare.
func program(cmd *exec.Cmd) string {
	for i, arg := range cmd.Args {
		if arg == "--" && i+1 < len(cmd.Args) {
			return cmd.Args[i+1]
		}
	}
	return cmd.Path
}
