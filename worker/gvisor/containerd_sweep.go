package gvisor

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// sweep removes what an earlier life left, or this one leaves: processes first,
// then the groups they were in, then mounts, state and sockets. Images and
// snapshots stay.
func sweep(ctx context.Context, l layout, groups *Cgroups) error {
	old, err := groups.elsewhere(l.groups())
	if err != nil {
		return err
	}
	for _, g := range []*Cgroups{old, groups} {
		if err := killAll(ctx, g); err != nil {
			return err
		}
		if err := retry(ctx, g.remove); err != nil {
			return fmt.Errorf("remove cgroups: %w", err)
		}
	}
	for _, dir := range append(l.runDirs(), l.state()) {
		if err := unmountBelow(dir); err != nil {
			return err
		}
	}
	if err := l.removeRunDirs(); err != nil {
		return err
	}
	return emptyDir(l.state())
}

// killAll ends every process in the instance's groups and waits until the
// groups are empty. It goes on until then, because what is being killed may
// still be starting others.
func killAll(ctx context.Context, groups *Cgroups) error {
	return retry(ctx, func() error {
		pids, err := groups.pids()
		if err != nil {
			return err
		}
		for _, pid := range pids {
			kill(pid, groups.name)
		}
		if len(pids) > 0 {
			return fmt.Errorf("processes %v are still there", pids)
		}
		return nil
	})
}

// kill sends SIGKILL to a process that is still the one that was seen in the
// instance's groups, not a later one with its number.
func kill(pid int, group string) {
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return
	}
	defer unix.Close(fd)
	where, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "cgroup"))
	if err != nil || !strings.Contains(string(where), "/"+group) {
		return
	}
	_ = unix.PidfdSendSignal(fd, syscall.SIGKILL, nil, 0)
}

// retry calls do until it succeeds or ctx ends, and returns its last error.
// The kernel tells nobody when a v1 group becomes empty.
func retry(ctx context.Context, do func() error) error {
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		err := do()
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return err
		case <-tick.C:
		}
	}
}

// unmountBelow takes away mounts in this process's own namespace. The managed
// containerd makes none there; a host's may.
func unmountBelow(dir string) error {
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return fmt.Errorf("list mounts: %w", err)
	}
	var points []string
	for line := range strings.Lines(string(mounts)) {
		if fields := strings.Fields(line); len(fields) > 4 && strings.HasPrefix(fields[4], dir+"/") {
			points = append(points, fields[4])
		}
	}
	// Later mounts lie on or in earlier ones.
	for _, point := range slices.Backward(points) {
		if err := unix.Unmount(point, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW); err != nil {
			return fmt.Errorf("unmount %s: %w", point, err)
		}
	}
	return nil
}

func emptyDir(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("empty %s: %w", dir, err)
	}
	for _, entry := range entries {
		if err := os.RemoveAll(filepath.Join(dir, entry.Name())); err != nil {
			return fmt.Errorf("empty %s: %w", dir, err)
		}
	}
	return nil
}
