package gvisor

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/sandlot-dev/sandlot/pkg/job"
)

// Problem is something this host cannot do.
type Problem struct {
	// Limit names the limit of a job that could not be enforced, such as
	// "limits.pids"; empty when the problem is none of a limit. A worker with
	// a problem that names a limit must not take jobs.
	Limit string `json:"limit,omitempty"`
	// What is wrong, Fix is what to do about it.
	What string `json:"what"`
	Fix  string `json:"fix"`
}

// String is one line for a log.
func (p Problem) String() string {
	if p.Limit == "" {
		return p.What + "; " + p.Fix
	}
	return p.Limit + " cannot be enforced: " + p.What + "; " + p.Fix
}

// Fact is something that a reader of a check wants to know about a host.
type Fact struct {
	Name  string `json:"name"`
	Value string `json:"value"`
}

// CheckConfig says what to check.
type CheckConfig struct {
	// RuntimeDir is where the programs are; see FindBinaries.
	RuntimeDir string
	// Runtime is what the worker is to make sandboxes with.
	Runtime Choice
	// Absolute is for a worker that uses a host's containerd: its sandboxes
	// then have their cgroups below the root, not below the worker's own.
	Absolute bool
}

// Check tries what a worker will have to do on this host: it makes a cgroup,
// sets every limit, reads it back and removes it again. It needs no containerd
// and leaves nothing.
func Check(ctx context.Context, config CheckConfig) ([]Fact, []Problem) {
	c := &check{}
	c.user()
	c.programs(ctx, config)
	c.cgroups(!config.Absolute)
	c.fileSystems()
	c.openFiles()
	return c.facts, c.problems
}

// check gathers what is found.
type check struct {
	facts    []Fact
	problems []Problem
}

func (c *check) fact(name, format string, args ...any) {
	c.facts = append(c.facts, Fact{name, fmt.Sprintf(format, args...)})
}

func (c *check) problem(limit, fix, format string, args ...any) {
	c.problems = append(c.problems, Problem{limit, fmt.Sprintf(format, args...), fix})
}

func (c *check) user() {
	if uid := os.Geteuid(); uid != 0 {
		c.problem("", "run the worker as root", "the worker runs as user %d, who may not make sandboxes", uid)
	}
}

func (c *check) programs(ctx context.Context, config CheckConfig) {
	found, err := FindBinaries(config.RuntimeDir)
	if err != nil {
		c.problem("", "build them with `make build`, or name their directory in SANDLOT_RUNTIME_DIR", "%v", err)
	}
	for name, path := range map[string]string{"runsc": found.Runsc, "containerd": found.Containerd} {
		if path == "" {
			continue
		}
		version, err := versionOf(ctx, path)
		if err != nil {
			c.problem("", "build it again: it must be static and for this machine", "%s does not run: %v", path, err)
			continue
		}
		c.fact(name, "%s (%s)", version, path)
	}
	if found.Agent != "" {
		c.fact("agent", "%s", found.Agent)
	}
	if found.Runsc != "" {
		c.facts = append(c.facts, accelerators(found)...)
		c.facts = append(c.facts, config.Runtime.fact(found, config.Absolute))
	}
	slices.SortFunc(c.facts, func(a, b Fact) int { return strings.Compare(a.Name, b.Name) })
}

// limitOf says which limit needs a controller.
func limitOf(controller string) string {
	return map[string]string{"memory": "limits.memory", "pids": "limits.pids", "cpu": "limits.cpu", "cpuacct": "limits.cpu_time"}[controller]
}

func (c *check) cgroups(below bool) {
	tree, err := openCgroups(fmt.Sprintf("sandlot-check-%d", os.Getpid()), below)
	if err != nil {
		for _, controller := range []string{"memory", "pids", "cpu", "cpuacct"} {
			c.problem(limitOf(controller), "mount the cgroup file system at /sys/fs/cgroup", "%v", err)
		}
		return
	}
	version := "1"
	if tree.Unified() {
		version = "2"
	}
	c.fact("cgroups", "version %s", version)
	missing := false
	for _, controller := range tree.needed() {
		if tree.Dir(controller, "") == "" {
			missing = true
			c.problem(limitOf(controller), "mount it, or start the worker where it can be seen", "the %s controller of cgroups is not there", controller)
		}
	}
	if missing {
		return
	}
	defer func() {
		if err := tree.remove(); err != nil {
			c.problem("", "remove it by hand", "the check's cgroup is left behind: %v", err)
		}
	}()
	if err := tree.create(); err != nil {
		for _, controller := range tree.needed() {
			c.problem(limitOf(controller), "let the worker create cgroups (root, a writable /sys/fs/cgroup; under systemd Delegate=yes)", "%v", err)
		}
		return
	}
	c.tryLimits(tree)
}

// needed are the controllers that limits are made of. Version 2 has the
// processor time of a group without a controller of its own.
func (c *Cgroups) needed() []string {
	if c.unified {
		return wanted()
	}
	return append(wanted(), "cpuacct")
}

// tryLimits sets each limit on a group of its own and reads it back.
func (c *check) tryLimits(tree *Cgroups) {
	const name = "try"
	for _, h := range tree.hierarchies {
		if err := h.mkdir(tree.name + "/" + name); err != nil {
			c.problem("limits.memory", "let the worker create cgroups", "%v", err)
			return
		}
	}
	want := enforced{memory: 64 * job.MiB, pids: 99, cores: 0.5}
	dir := func(controller string) string { return tree.Dir(controller, name) }
	refused := false
	for _, set := range setters(tree.Unified(), dir, want) {
		if err := writeValue(set.dir, set.file, set.value); err != nil && !set.optional {
			refused = true
			c.problem(limitOf(set.controller), "let the worker write to its cgroups", "%v", err)
		}
	}
	if refused {
		return
	}
	have, err := countersOf(tree.Unified(), dir)
	if err != nil {
		c.problem("limits.memory", "mount the missing controller", "%v", err)
		return
	}
	c.compare(have, want)
}

func (c *check) compare(have counters, want enforced) {
	got, err := have.limits()
	if err != nil {
		c.problem("limits.memory", "use a kernel that lets the limits be read", "%v", err)
		return
	}
	const fix = "find out who else writes to the cgroups of this host"
	if got.memory != want.memory {
		c.problem("limits.memory", fix, "a memory limit of %d bytes reads back as %d", want.memory, got.memory)
	}
	if got.swap != 0 && swapTotal() > 0 {
		c.problem("limits.memory", "turn swap off, or boot with swapaccount=1", "the host has swap and a sandbox's use of it cannot be limited")
	}
	if got.pids != want.pids {
		c.problem("limits.pids", fix, "a limit of %d tasks reads back as %d", want.pids, got.pids)
	}
	if got.cores != want.cores {
		c.problem("limits.cpu", fix, "a limit of %g cores reads back as %g", want.cores, got.cores)
	}
	if _, err := have.cpu(); err != nil {
		c.problem("limits.cpu_time", "use a kernel that counts processor time per cgroup", "%v", err)
	}
	_, err1 := have.memory()
	_, err2 := have.events()
	if err := errors.Join(err1, err2); err != nil {
		c.problem("limits.memory", "use Linux 4.13 or later", "%v", err)
	}
}

func (c *check) fileSystems() {
	data, err := os.ReadFile("/proc/filesystems")
	if err != nil || !strings.Contains(string(data), "\toverlay\n") {
		c.problem("", "load the kernel module overlay", "overlayfs is not there: images are unpacked as full copies, which is slower")
	}
}

func (c *check) openFiles() {
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		return
	}
	c.fact("open files", "%d", limit.Max)
	if limit.Max < 4096 {
		c.problem("", "raise the hard limit of open files (LimitNOFILE=, ulimit -n)", "only %d files may be open at once", limit.Max)
	}
}
