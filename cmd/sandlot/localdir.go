package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
)

// localDir finds a data directory for a stack that lives as long as one
// command. The names are few and used again, so that what a killed command
// left behind, cgroups included, is swept by the next one.
func localDir() (string, error) {
	for n := 1; n <= 64; n++ {
		dir := filepath.Join(os.TempDir(), fmt.Sprintf("sandlot-local-%d-%d", os.Geteuid(), n))
		free, err := emptyLocalDir(dir)
		if err != nil {
			return "", fmt.Errorf("make a data directory: %w", err)
		}
		if free {
			return dir, nil
		}
	}
	return "", errors.New("make a data directory: 64 local stacks are running already")
}

// emptyLocalDir makes dir, or empties it if its last user is gone. The
// worker's part stays: the worker sweeps it, which takes more than removing
// files.
func emptyLocalDir(dir string) (free bool, err error) {
	if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, os.ErrExist) {
		return false, err
	}
	info, err := os.Lstat(dir)
	if err != nil {
		return false, err
	}
	if stat, ok := info.Sys().(*syscall.Stat_t); !info.IsDir() || !ok || int(stat.Uid) != os.Geteuid() {
		return false, nil // somebody else's
	}
	held, err := lockDir(dir)
	if err != nil {
		return false, nil // in use
	}
	defer func() { _ = held.Close() }() // the kernel drops it anyway
	entries, err := os.ReadDir(dir)
	if err != nil {
		return false, err
	}
	for _, entry := range entries {
		if entry.Name() == "lock" || entry.Name() == "worker" {
			continue
		}
		if err := os.RemoveAll(filepath.Join(dir, entry.Name())); err != nil {
			return false, err
		}
	}
	return true, nil
}
