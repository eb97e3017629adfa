package gvisor

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
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

// offerToOOM makes the kernel choose the sandbox process, whenever it has to
// choose one: at the sandbox's own memory limit, where the alternative would be
// one of the job's processes, whose death the job could survive; and on a host
// without memory, where it would be the worker. Raising a score needs no
// privilege. What the runtime is told by the spec it ignores for sandboxes.
//
// The processes of the job do not inherit it: they descend from one that the
// sandbox has started while it booted.
func offerToOOM(pid int) error {
	if err := os.WriteFile(fmt.Sprintf("/proc/%d/oom_score_adj", pid), []byte("1000"), 0); err != nil {
		return fmt.Errorf("raise oom score: %w", err)
	}
	return nil
}
