package main

import (
	"fmt"
	"runtime"

	"golang.org/x/sys/unix"
)

// thread runs calls one after the other on an OS thread of its own. Linux keeps credentials per thread: a thread
// can be weaker than the rest of its process.
type thread struct{ calls chan func() }

// newThread starts a thread and weakens it. It lives as long as the agent.
func newThread(weaken func() error) (*thread, error) {
	t := &thread{calls: make(chan func())}
	weakened := make(chan error)
	go func() {
		runtime.LockOSThread()
		weakened <- weaken()
		for call := range t.calls {
			call()
		}
	}()
	return t, <-weakened
}

// do runs f on the thread and waits for it.
func (t *thread) do(f func()) {
	done := make(chan struct{})
	t.calls <- func() {
		defer close(done)
		f()
	}
	<-done
}

// giveUpPrivileges makes sure that no child of the calling thread ever has a capability, whatever it executes.
func giveUpPrivileges() error {
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("set no_new_privs: %w", err)
	}
	for c := uintptr(0); c <= unix.CAP_LAST_CAP; c++ {
		if err := unix.Prctl(unix.PR_CAPBSET_DROP, c, 0, 0, 0); err != nil && err != unix.EINVAL {
			return fmt.Errorf("drop capability %d: %w", c, err)
		}
	}
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var sets [2]unix.CapUserData
	if err := unix.Capget(&header, &sets[0]); err != nil {
		return fmt.Errorf("read capabilities: %w", err)
	}
	sets[0].Inheritable, sets[1].Inheritable = 0, 0
	if err := unix.Capset(&header, &sets[0]); err != nil {
		return fmt.Errorf("empty the inheritable set: %w", err)
	}
	return nil
}

// borrowUser gives the calling thread the file permissions of the job's user and nobody's capabilities. Its real and
// saved ids stay root's, so that the job can neither signal nor trace it.
func borrowUser(uid, gid int) error {
	const keep = ^uintptr(0)
	if _, _, errno := unix.RawSyscall(unix.SYS_SETRESGID, keep, uintptr(gid), keep); errno != 0 {
		return fmt.Errorf("borrow group %d: %w", gid, errno)
	}
	if _, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, keep, uintptr(uid), keep); errno != 0 {
		return fmt.Errorf("borrow user %d: %w", uid, errno)
	}
	return nil
}
