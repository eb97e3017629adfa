package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"syscall"

	"golang.org/x/sys/unix"
)

// apartVariable says that this process has its mounts for itself.
const apartVariable = "SANDLOT_POWER_APART"

// apart runs this program again with a mount namespace of its own: what it
// mounts must not be copied into the namespaces of others, which would keep
// the disks busy, and is gone when it is. It does nothing for who is not root.
func apart() (ran bool, code int) {
	if os.Getenv(apartVariable) != "" || os.Geteuid() != 0 {
		return false, 0
	}
	self, err := os.Executable()
	if err != nil {
		return false, 0
	}
	cmd := exec.Command(self, os.Args[1:]...)
	cmd.Env = append(os.Environ(), apartVariable+"=yes")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	// Unshareflags also makes all mounts private.
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: unix.CLONE_NEWNS, Pdeathsig: syscall.SIGTERM}
	err = cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		fmt.Fprintln(os.Stderr, "power:", err)
		return true, 2
	}
	return true, cmd.ProcessState.ExitCode()
}
