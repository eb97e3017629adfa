// Command gvisor-sentry-prewarmer runs ahead of gVisor's sentry and becomes
// it. runsc looks for it under this name in the directory gvisor-bin beside
// itself, and calls it as
//
//	gvisor-sentry-prewarmer BINARY ARGV0 [ARG...]
//
// It does two things that are cheap here and dear or impossible in the sentry:
// it makes the table of file descriptors so large that the sentry's never has
// to grow, which in a process of many threads waits for the kernel to be quiet
// (milliseconds); and it gives the sentry's garbage collector more room, since
// runsc clears the environment. gVisor's releases have a program in C in this
// place that does the former.
package main

import (
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
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
	if err := becomeSentry(os.Args); err != nil {
		fmt.Fprintln(os.Stderr, "gvisor-sentry-prewarmer:", err)
		os.Exit(1)
	}
}

// becomeSentry returns only if it fails.
func becomeSentry(args []string) error {
	if len(args) < 3 {
		return fmt.Errorf("usage: gvisor-sentry-prewarmer BINARY ARGV0 [ARG...]")
	}
	if err := growTable(); err != nil {
		return err
	}
	binary := realBinary(args[1], args[0])
	return fmt.Errorf("exec %s: %w", binary, unix.Exec(binary, args[2:], append(os.Environ(), collector)))
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
