// Command gvisor-sentry-prewarmer runs ahead of gVisor's sentry and becomes
// it. runsc looks for it under this name in the directory gvisor-bin beside
// itself, and calls it as
//
//	gvisor-sentry-prewarmer BINARY ARGV0 [ARG...]
//
// It does things that are cheap here and dear or impossible in the sentry: it
// makes the table of file descriptors so large that the sentry's never has to
// grow, which in a process of many threads waits for the kernel to be quiet
// (milliseconds); it gives the sentry's garbage collector more room, since
// runsc clears the environment; and it joins the cgroups that the resident
// runtime has made, see internal/launch. gVisor's releases have a program in C
// in this place that does the first.
package main

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"

	"golang.org/x/sys/unix"

	"github.com/sandlot-dev/sandlot/deploy/runtime/gvisor/internal/launch"
)

const (
	// tableSize is more than any sentry of ours opens.
	tableSize = 1000
	// collector lets the heap grow to five times of what lives before it is
	// collected. A sentry that runs one short job then hardly ever collects,
	// which saves about 10 ms of processor time; its heap is a few megabytes.
	collector = "GOGC=400"
)

func main() {
	// One thread is moved into the cgroups, and has to be the one that calls
	// exec: it is the process from then on.
	runtime.LockOSThread()
	if err := becomeSentry(os.Args); err != nil {
		if path := launch.Of(os.Args); path != "" {
			launch.Fail(path, err)
		}
		fmt.Fprintln(os.Stderr, "gvisor-sentry-prewarmer:", err)
		os.Exit(1)
	}
}

// becomeSentry returns only if it fails.
func becomeSentry(args []string) error {
	if len(args) < 3 {
		return fmt.Errorf("usage: gvisor-sentry-prewarmer BINARY ARGV0 [ARG...]")
	}
	plan, err := launch.Read(launch.Of(args))
	if err != nil {
		return err
	}
	if plan.Join {
		if err := join(plan.Groups); err != nil {
			return err
		}
	}
	if err := growTable(); err != nil {
		return err
	}
	binary := realBinary(args[1], args[0])
	return fmt.Errorf("exec %s: %w", binary, unix.Exec(binary, plan.Amend(args[2:]), append(os.Environ(), collector)))
}

// join moves the calling thread into cgroups of version 1. Moving a process
// makes the kernel wait until all of its processors were quiet, once per
// hierarchy; for a thread that moves itself it need not.
func join(groups []string) error {
	for _, dir := range groups {
		if err := os.WriteFile(filepath.Join(dir, "tasks"), []byte("0"), 0); err != nil {
			return fmt.Errorf("join cgroup: %w", err)
		}
	}
	return nil
}

// growTable opens a high descriptor. It stays open until exec closes it: a
// process of several threads, as every Go program is, gets a copy of its table
// then, and the copy is as large as the highest that is open.
func growTable() error {
	null, err := unix.Open("/dev/null", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open /dev/null: %w", err)
	}
	if _, err := unix.FcntlInt(uintptr(null), unix.F_DUPFD_CLOEXEC, tableSize); err != nil {
		return fmt.Errorf("open descriptor %d: %w", tableSize, err)
	}
	return unix.Close(null)
}

// realBinary is what runsc means by its own executable, which in this process
// is another one: the runsc beside the directory of this program.
func realBinary(binary, self string) string {
	if binary == "/proc/self/exe" {
		return filepath.Join(filepath.Dir(filepath.Dir(self)), "runsc")
	}
	return binary
}
