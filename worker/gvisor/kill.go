package gvisor

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

// group is the set of processes of one sandbox: those in its cgroups, of
// which version 1 has one per controller.
type group struct {
	unified bool
	dirs    []string
}

// group is that of one sandbox.
func (c *Cgroups) group(sandbox string) group {
	g := group{unified: c.unified}
	for _, h := range c.hierarchies {
		g.dirs = append(g.dirs, filepath.Join(h.own, c.name, sandbox))
	}
	return g
}

// exists tells whether any of the group's directories is there.
func (g group) exists() (string, bool) {
	for _, dir := range g.dirs {
		if _, err := os.Lstat(dir); err == nil {
			return dir, true
		}
	}
	return "", false
}

// pids lists the processes, each once.
func (g group) pids() ([]int, error) {
	seen := map[int]bool{}
	var all []int
	for _, dir := range g.dirs {
		pids, err := members(dir)
		if err != nil {
			return nil, fmt.Errorf("list processes of a sandbox: %w", err)
		}
		for _, pid := range pids {
			if !seen[pid] {
				seen[pid] = true
				all = append(all, pid)
			}
		}
	}
	return all, nil
}

// holds tells whether a process is in the group, everywhere.
func (g group) holds(pid int) error {
	for _, dir := range g.dirs {
		pids, err := members(dir)
		if err != nil {
			return err
		}
		if !slices.Contains(pids, pid) {
			return fmt.Errorf("the sandbox is not in cgroup %s", dir)
		}
	}
	return nil
}

// signal sends SIGKILL to every process once, without waiting.
func (g group) signal() (left int, err error) {
	if g.unified && os.WriteFile(filepath.Join(g.dirs[0], "cgroup.kill"), []byte("1"), 0) == nil {
		pids, err := g.pids()
		return len(pids), err
	}
	pids, err := g.pids()
	for _, pid := range pids {
		// A process that ended meanwhile cannot have given its number away:
		// its parent, the sandbox or the shim, would have to reap it first,
		// and the kernel to go round all numbers.
		_ = unix.Kill(pid, unix.SIGKILL)
	}
	return len(pids), err
}

// kill kills every process and waits until none is left.
func (g group) kill(ctx context.Context) error {
	pause := time.Millisecond
	for {
		left, err := g.signal()
		if err != nil {
			return err
		}
		if left == 0 {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%d processes of a sandbox do not die: %w", left, context.Cause(ctx))
		case <-time.After(pause):
			pause = min(2*pause, 50*time.Millisecond)
		}
	}
}

// remove removes the directories, which must be empty of processes. The kernel
// refuses for a moment after the last one died.
func (g group) remove(ctx context.Context) error {
	pause := time.Millisecond
	for {
		var failed error
		for _, dir := range g.dirs {
			if err := unix.Rmdir(dir); err != nil && !errors.Is(err, fs.ErrNotExist) {
				failed = errors.Join(failed, fmt.Errorf("remove cgroup %s: %w", dir, err))
			}
		}
		if failed == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return failed
		case <-time.After(pause):
			pause = min(2*pause, 50*time.Millisecond)
		}
	}
}

// oomScore makes the kernel choose a sandbox before the worker, containerd and
// the queue when the host runs out of memory. Raising needs no privilege; what
// the runtime is told by the spec it ignores for sandboxes.
const oomScore = "700"

func (g group) offerToOOM() error {
	pids, err := g.pids()
	if err != nil {
		return err
	}
	for _, pid := range pids {
		err := os.WriteFile(fmt.Sprintf("/proc/%d/oom_score_adj", pid), []byte(oomScore), 0)
		if err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, unix.ESRCH) {
			return fmt.Errorf("raise oom score: %w", err)
		}
	}
	return nil
}
