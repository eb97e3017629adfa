package gvisor

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// Version 2 gives controllers only to the children of a group without
// processes of its own. A worker that is alone in its group (a systemd unit
// with Delegate=yes, a container) therefore steps aside into a leaf first. One
// that shares its group (started from a shell) leaves the others where they
// are, and its instance hangs below the root of the hierarchy, which is exempt.

// workerGroup is the leaf that the worker steps aside into.
const workerGroup = "worker"

// wanted are the controllers that limits are made of.
func wanted() []string { return []string{"cpu", "memory", "pids"} }

// delegated returns the directory that the instance hangs below.
func delegated(h hierarchy, name string) string {
	own := h.own
	// Already stepped aside, in this life or by whoever started us.
	if strings.HasSuffix(own, "/"+filepath.Join(name, workerGroup)) {
		return strings.TrimSuffix(own, "/"+filepath.Join(name, workerGroup))
	}
	if gives(own) || alone(own) {
		return own
	}
	return h.mount
}

// delegate makes the instance's parent and has the controllers passed down to
// the sandboxes in it.
func delegate(h hierarchy, name string) error {
	if err := h.mkdir(name); err != nil {
		return err
	}
	parent := filepath.Join(h.own, name)
	if !gives(h.own) && enable(h.own) != nil {
		if err := h.mkdir(filepath.Join(name, workerGroup)); err != nil {
			return err
		}
		if err := moveAll(h.own, filepath.Join(parent, workerGroup)); err != nil {
			return err
		}
		if err := enable(h.own); err != nil {
			return err
		}
	}
	return enable(parent)
}

// undelegate takes the worker back to where it was started, so that the tree
// can be removed.
func undelegate(h hierarchy, name string) error {
	parent := filepath.Join(h.own, name)
	leaf := filepath.Join(parent, workerGroup)
	if pids, err := members(leaf); err != nil || len(pids) == 0 {
		return err
	}
	// A group takes processes again once it gives no controllers to children.
	for _, dir := range []string{parent, h.own} {
		if err := disable(dir); err != nil {
			return err
		}
	}
	return moveAll(leaf, h.own)
}

// gives tells whether a group passes the wanted controllers to its children.
func gives(dir string) bool {
	data, err := os.ReadFile(filepath.Join(dir, "cgroup.subtree_control"))
	if err != nil {
		return false
	}
	have := strings.Fields(string(data))
	return !slices.ContainsFunc(wanted(), func(c string) bool { return !slices.Contains(have, c) })
}

// alone tells whether this process is the only one of a group.
func alone(dir string) bool {
	pids, err := members(dir)
	return err == nil && !slices.ContainsFunc(pids, func(pid int) bool { return pid != os.Getpid() })
}

func enable(dir string) error {
	line := "+" + strings.Join(wanted(), " +")
	if err := os.WriteFile(filepath.Join(dir, "cgroup.subtree_control"), []byte(line), 0); err != nil {
		return fmt.Errorf("pass controllers down from %s: %w", dir, err)
	}
	return nil
}

// disable takes back every controller: runsc passes down all that there are.
func disable(dir string) error {
	control := filepath.Join(dir, "cgroup.subtree_control")
	given, err := os.ReadFile(control)
	if err != nil || len(strings.Fields(string(given))) == 0 {
		return err
	}
	line := "-" + strings.Join(strings.Fields(string(given)), " -")
	if err := os.WriteFile(control, []byte(line), 0); err != nil {
		return fmt.Errorf("take controllers back at %s: %w", dir, err)
	}
	return nil
}

func moveAll(from, to string) error {
	pids, err := members(from)
	if err != nil {
		return err
	}
	for _, pid := range pids {
		if err := os.WriteFile(filepath.Join(to, "cgroup.procs"), fmt.Append(nil, pid), 0); err != nil {
			return fmt.Errorf("move process %d to %s: %w", pid, to, err)
		}
	}
	return nil
}
