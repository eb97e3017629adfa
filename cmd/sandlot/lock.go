package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// lock keeps a data directory to one server. The kernel drops it with the
// process, however that ends.
type lock struct{ file *os.File }

// lockDir takes the lock of dir, or says who has it.
func lockDir(dir string) (*lock, error) {
	path := filepath.Join(dir, "lock")
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock data directory: %w", err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		holder, _ := os.ReadFile(path) // only makes the message better
		_ = f.Close()
		return nil, fmt.Errorf("data directory %s is in use by another sandlot%s; stop that one, or give this one a --data-dir of its own",
			dir, heldBy(string(holder)))
	}
	err = f.Truncate(0)
	if err == nil {
		_, err = fmt.Fprintf(f, "%d\n", os.Getpid())
	}
	if err != nil {
		_ = f.Close()
		return nil, fmt.Errorf("lock data directory: %w", err)
	}
	return &lock{f}, nil
}

func heldBy(pid string) string {
	if pid = strings.TrimSpace(pid); pid == "" {
		return ""
	}
	return " (process " + pid + ")"
}

// Close gives the directory back.
func (l *lock) Close() error { return l.file.Close() }
