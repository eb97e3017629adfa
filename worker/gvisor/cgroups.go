package gvisor

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
)

// runtimeGroup holds containerd and the shims; its siblings are the sandboxes.
const runtimeGroup = "runtime"

// InstanceName names what an instance has outside its data directory: its
// cgroup, and its directory of sockets where the data directory's own path is
// too long for them.
func InstanceName(dataDir string) string {
	return fmt.Sprintf("sandlot-%x", sha256.Sum256([]byte(filepath.Clean(dataDir))))[:len("sandlot-")+8]
}

// Cgroups is the tree of one instance: a parent named after it below the
// worker's own cgroup in every hierarchy, in it "runtime" and one child per
// sandbox. Every process that the instance starts is in that tree, so what an
// earlier life left is found by walking it.
type Cgroups struct {
	name        string
	hierarchies []hierarchy
	unified     bool
	// below: sandboxes are named relative to the shim's own group. A host's
	// containerd has its shims elsewhere, so there names are absolute.
	below bool
}

// openCgroups finds the tree of an instance and creates nothing. below says
// that the tree hangs below this process's own cgroup, else below the root.
func openCgroups(name string, below bool) (*Cgroups, error) {
	found, err := hierarchies()
	if err != nil {
		return nil, fmt.Errorf("find cgroups: %w", err)
	}
	c := &Cgroups{name: name, hierarchies: found, below: below}
	c.unified = len(found) == 1 && found[0].unified
	for i, h := range found {
		if !below {
			c.hierarchies[i].own = h.mount
		}
	}
	if c.unified && below {
		c.hierarchies[0].own = delegated(found[0], name)
	}
	return c, nil
}

// Unified tells cgroup v2 from v1.
func (c *Cgroups) Unified() bool { return c.unified }

// Dir is the directory of one sandbox in the hierarchy of a controller, such as
// "memory" or "pids"; "" when the host has none for it. In v2 all controllers
// share one directory.
func (c *Cgroups) Dir(controller, sandbox string) string {
	for _, h := range c.hierarchies {
		if h.unified || slices.Contains(h.controllers, controller) {
			return filepath.Join(h.own, c.name, sandbox)
		}
	}
	return ""
}

// SpecPath is what the OCI spec of a sandbox says in linux.cgroupsPath.
func (c *Cgroups) SpecPath(sandbox string) string {
	if c.below && !c.unified {
		// The hierarchies of v1 may have the worker in different places:
		// relative to the shim, which is in "runtime", is right in each.
		return filepath.Join("..", sandbox)
	}
	h := c.hierarchies[0]
	path, err := filepath.Rel(h.mount, filepath.Join(h.own, c.name, sandbox))
	if err != nil {
		return filepath.Join("/", c.name, sandbox)
	}
	return "/" + path
}

// create makes the instance's parent and the runtime's group everywhere.
func (c *Cgroups) create() error {
	for _, h := range c.hierarchies {
		if h.unified {
			if err := delegate(h, c.name); err != nil {
				return err
			}
		}
		for _, dir := range []string{c.name, filepath.Join(c.name, runtimeGroup)} {
			if err := h.mkdir(dir); err != nil {
				return err
			}
		}
	}
	return nil
}

// remember writes down where the tree is. A next life may be started elsewhere,
// from another session or unit, and would look for it below its own group.
func (c *Cgroups) remember(file string) error {
	var dirs []string
	for _, h := range c.hierarchies {
		dirs = append(dirs, filepath.Join(h.own, c.name))
	}
	if err := os.WriteFile(file, []byte(strings.Join(dirs, "\n")), 0o600); err != nil {
		return fmt.Errorf("remember cgroups: %w", err)
	}
	return nil
}

// elsewhere is the tree of an earlier life, as far as it is not where c is.
func (c *Cgroups) elsewhere(file string) (*Cgroups, error) {
	known, err := os.ReadFile(file)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("recall cgroups: %w", err)
	}
	old := &Cgroups{name: c.name}
	for dir := range strings.SplitSeq(string(known), "\n") {
		parent := filepath.Dir(dir)
		here := slices.ContainsFunc(c.hierarchies, func(h hierarchy) bool { return h.own == parent })
		if !here && filepath.Base(dir) == c.name && isCgroup(dir) {
			old.hierarchies = append(old.hierarchies, hierarchy{own: parent, unified: c.unified})
		}
	}
	return old, nil
}

// attach moves a process into the runtime's group. One that has ended already
// is none of its business.
func (c *Cgroups) attach(pid int) error {
	for _, h := range c.hierarchies {
		procs := filepath.Join(h.own, c.name, runtimeGroup, "cgroup.procs")
		err := os.WriteFile(procs, fmt.Append(nil, pid), 0)
		if err != nil && !errors.Is(err, syscall.ESRCH) {
			return fmt.Errorf("move process %d into cgroup: %w", pid, err)
		}
	}
	return nil
}

// pids lists every process that the instance started, each once. The leaf of
// the worker itself is left out.
func (c *Cgroups) pids() ([]int, error) {
	seen := map[int]bool{os.Getpid(): true}
	var pids []int
	for _, h := range c.hierarchies {
		root := filepath.Join(h.own, c.name)
		err := filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
			if errors.Is(err, fs.ErrNotExist) {
				return nil
			}
			if err != nil || !entry.IsDir() {
				return err
			}
			if path == filepath.Join(root, workerGroup) {
				return fs.SkipDir
			}
			members, err := members(path)
			for _, pid := range members {
				if !seen[pid] {
					seen[pid] = true
					pids = append(pids, pid)
				}
			}
			return err
		})
		if err != nil {
			return nil, fmt.Errorf("list processes of %s: %w", root, err)
		}
	}
	return pids, nil
}

// remove removes the whole tree, which must be empty of processes.
func (c *Cgroups) remove() error {
	var failed error
	for _, h := range c.hierarchies {
		var err error
		if h.unified {
			err = undelegate(h, c.name)
		}
		if err == nil {
			err = removeTree(filepath.Join(h.own, c.name))
		}
		failed = errors.Join(failed, err)
	}
	return failed
}

func removeTree(dir string) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, entry := range entries {
		if entry.IsDir() {
			if err := removeTree(filepath.Join(dir, entry.Name())); err != nil {
				return err
			}
		}
	}
	if err := os.Remove(dir); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// members reads the processes of one group. A group that is gone has none.
func members(dir string) ([]int, error) {
	data, err := os.ReadFile(filepath.Join(dir, "cgroup.procs"))
	if err != nil {
		if _, gone := os.Stat(dir); errors.Is(gone, fs.ErrNotExist) {
			return nil, nil
		}
		return nil, err
	}
	var pids []int
	for line := range strings.Lines(string(data)) {
		var pid int
		if _, err := fmt.Sscan(line, &pid); err == nil && pid > 0 {
			pids = append(pids, pid)
		}
	}
	return pids, nil
}
