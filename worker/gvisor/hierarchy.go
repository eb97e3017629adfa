package gvisor

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// hierarchy is one mounted cgroup file system and this process's place in it.
type hierarchy struct {
	unified     bool
	controllers []string // v1 only
	mount       string   // where it is mounted
	own         string   // the directory that instances hang below
}

// hierarchies lists the v1 hierarchies of this host, or the one of v2 where
// there is nothing else. A hybrid host counts as v1: that is where its
// controllers are.
func hierarchies() ([]hierarchy, error) {
	membership, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return nil, err
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	found := parseHierarchies(string(membership), string(mounts))
	// Something else may be mounted over a hierarchy. A directory made there
	// would look like a cgroup and limit nothing.
	found = slices.DeleteFunc(found, func(h hierarchy) bool { return !isCgroup(h.own) })
	if len(found) == 0 {
		return nil, errors.New("no cgroup hierarchy is mounted")
	}
	return found, nil
}

func isCgroup(dir string) bool {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return false
	}
	return st.Type == unix.CGROUP_SUPER_MAGIC || st.Type == unix.CGROUP2_SUPER_MAGIC
}

// parseHierarchies joins /proc/self/cgroup (which group) with
// /proc/self/mountinfo (where that is).
func parseHierarchies(membership, mountinfo string) []hierarchy {
	var v1, v2 []hierarchy
	for line := range strings.Lines(membership) {
		parts := strings.SplitN(strings.TrimSpace(line), ":", 3)
		if len(parts) != 3 {
			continue
		}
		names, path := strings.Split(parts[1], ","), parts[2]
		mount, root := cgroupMount(mountinfo, names)
		if mount == "" {
			continue
		}
		h := hierarchy{unified: parts[1] == "", controllers: names, mount: mount, own: place(mount, root, path)}
		if h.unified {
			h.controllers = nil
			v2 = append(v2, h)
		} else {
			v1 = append(v1, h)
		}
	}
	if len(v1) > 0 {
		return v1
	}
	return v2
}

// cgroupMount returns where the hierarchy with these controllers is mounted,
// and which of its directories is at that place.
func cgroupMount(mountinfo string, controllers []string) (mount, root string) {
	for line := range strings.Lines(mountinfo) {
		// 39 32 0:34 / /sys/fs/cgroup/pids rw shared:1 - cgroup cgroup rw,pids
		before, after, ok := strings.Cut(line, " - ")
		fields, tail := strings.Fields(before), strings.Fields(after)
		if !ok || len(fields) < 5 || len(tail) < 3 {
			continue
		}
		options := strings.Split(tail[2], ",")
		switch {
		case tail[0] == "cgroup2" && controllers[0] == "":
			return fields[4], fields[3]
		case tail[0] == "cgroup" && controllers[0] != "" && slices.Contains(options, controllers[0]):
			return fields[4], fields[3]
		}
	}
	return "", ""
}

// place finds a group's directory below a mount that may show a part of the
// hierarchy only, as inside a container.
func place(mount, root, path string) string {
	rel, err := filepath.Rel(root, path)
	if err != nil || rel == ".." || strings.HasPrefix(rel, "../") {
		return mount
	}
	return filepath.Join(mount, rel)
}

// mkdir makes one group. A cpuset group of v1 takes no process until it was
// given processors and memory nodes.
func (h hierarchy) mkdir(name string) error {
	dir := filepath.Join(h.own, name)
	if err := os.Mkdir(dir, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("create cgroup: %w", err)
	}
	if h.unified || !slices.Contains(h.controllers, "cpuset") {
		return nil
	}
	for _, file := range []string{"cpuset.cpus", "cpuset.mems"} {
		value, err := os.ReadFile(filepath.Join(filepath.Dir(dir), file))
		if err != nil {
			return fmt.Errorf("create cgroup: %w", err)
		}
		if err := os.WriteFile(filepath.Join(dir, file), value, 0); err != nil {
			return fmt.Errorf("create cgroup: %w", err)
		}
	}
	return nil
}
