package resident

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/runsc/cgroup"
)

// group is the cgroup of one sandbox. Of version 1 it is made here, in those
// hierarchies that count or limit something; the sandbox's first process joins
// by itself (package launch). Of version 2, runsc makes it, and the kernel
// starts the sandbox in it.
type group struct {
	unified bool
	dirs    map[string]string // by controller
	limits  specs.LinuxResources
}

// Unified tells whether the host has version 2 of cgroups only.
func Unified() bool { return cgroup.IsOnlyV2() }

// controllers1 are the controllers of version 1 that a sandbox is put into.
func controllers1() []string { return []string{"memory", "pids", "cpu", "cpuacct"} }

// makeGroup makes the cgroup that a specification asks for and sets its
// limits. One that is there already is somebody else's, with limits that
// nobody knows.
func makeGroup(spec *specs.Spec, unified bool) (_ *group, err error) {
	g := &group{unified: unified, dirs: map[string]string{}}
	var path string
	if spec.Linux != nil {
		path = spec.Linux.CgroupsPath
		if spec.Linux.Resources != nil {
			g.limits = *spec.Linux.Resources
		}
	}
	if path == "" {
		return nil, errors.New("the specification names no cgroup")
	}
	found, err := cgroup.NewFromPath(path, false)
	if err != nil {
		return nil, err
	}
	if unified {
		g.dirs["memory"] = found.MakePath("")
		if _, err := os.Stat(g.dirs["memory"]); err == nil {
			return nil, fmt.Errorf("cgroup %s is there already", g.dirs["memory"])
		}
		return g, nil
	}
	if err := refuseUnknown(g.limits); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, g.remove())
		}
	}()
	for _, controller := range controllers1() {
		dir, err := canonical(found.MakePath(controller))
		if err != nil {
			return nil, fmt.Errorf("cgroup controller %s: %w", controller, err)
		}
		if !slices.Contains(g.all(), dir) { // cpu and cpuacct may be one
			if err := os.Mkdir(dir, 0o755); err != nil {
				return nil, fmt.Errorf("make cgroup: %w", err)
			}
		}
		g.dirs[controller] = dir
	}
	return g, g.limit()
}

// canonical resolves symbolic links, of which controllers that share a
// hierarchy have some.
func canonical(dir string) (string, error) {
	parent, err := filepath.EvalSymlinks(filepath.Dir(dir))
	return filepath.Join(parent, filepath.Base(dir)), err
}

// refuseUnknown refuses limits that would be silently ignored.
func refuseUnknown(r specs.LinuxResources) error {
	for what, asked := range map[string]bool{
		"cpuset":         r.CPU != nil && (r.CPU.Cpus != "" || r.CPU.Mems != ""),
		"realtime":       r.CPU != nil && (r.CPU.RealtimeRuntime != nil || r.CPU.RealtimePeriod != nil),
		"block I/O":      r.BlockIO != nil,
		"huge pages":     len(r.HugepageLimits) > 0,
		"network":        r.Network != nil,
		"rdma":           len(r.Rdma) > 0,
		"unified":        len(r.Unified) > 0,
		"kernel memory":  r.Memory != nil && (r.Memory.Kernel != nil || r.Memory.KernelTCP != nil), //nolint:staticcheck // asked for is refused
		"memory details": r.Memory != nil && (r.Memory.Swappiness != nil || r.Memory.DisableOOMKiller != nil),
	} {
		if asked {
			return fmt.Errorf("limits of %s are not supported with cgroup version 1", what)
		}
	}
	return nil
}

// limit writes the limits.
func (g *group) limit() error {
	type write struct {
		controller, file string
		value            int64
		optional         bool
	}
	var all []write
	if m := g.limits.Memory; m != nil && m.Limit != nil {
		all = append(all, write{"memory", "memory.limit_in_bytes", *m.Limit, false})
		if m.Swap != nil { // a kernel may not account swap
			all = append(all, write{"memory", "memory.memsw.limit_in_bytes", *m.Swap, true})
		}
		if m.Reservation != nil {
			all = append(all, write{"memory", "memory.soft_limit_in_bytes", *m.Reservation, false})
		}
	}
	if p := g.limits.Pids; p != nil && p.Limit > 0 {
		all = append(all, write{"pids", "pids.max", p.Limit, false})
	}
	if c := g.limits.CPU; c != nil {
		if c.Shares != nil {
			all = append(all, write{"cpu", "cpu.shares", int64(*c.Shares), false})
		}
		if c.Period != nil {
			all = append(all, write{"cpu", "cpu.cfs_period_us", int64(*c.Period), false})
		}
		if c.Quota != nil {
			all = append(all, write{"cpu", "cpu.cfs_quota_us", *c.Quota, false})
		}
	}
	for _, w := range all {
		path := filepath.Join(g.dirs[w.controller], w.file)
		err := set(path, strconv.FormatInt(w.value, 10))
		if err != nil && !(w.optional && errors.Is(err, fs.ErrNotExist)) {
			return fmt.Errorf("set limit: %w", err)
		}
	}
	return nil
}

// set writes to a file of the kernel's, which has to be there.
func set(path, value string) error {
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString(value)
	return errors.Join(err, f.Close())
}

// all are the directories, each once.
func (g *group) all() []string {
	var dirs []string
	for _, controller := range controllers1() {
		if dir := g.dirs[controller]; dir != "" && !slices.Contains(dirs, dir) {
			dirs = append(dirs, dir)
		}
	}
	return dirs
}

// sentryArgs tell the sentry what runsc would tell it if it had made the
// cgroup: how many processors and how much memory the guest is to see.
func (g *group) sentryArgs() []string {
	if g.unified {
		return nil
	}
	processors, quota, period := runtime.NumCPU(), int64(-1), uint64(100_000)
	if c := g.limits.CPU; c != nil {
		if c.Period != nil && *c.Period > 0 {
			period = *c.Period
		}
		if c.Quota != nil && *c.Quota > 0 {
			quota = *c.Quota
			// Two is the least that gVisor shows.
			processors = min(processors, max(2, int((quota+int64(period)-1)/int64(period))))
		}
	}
	args := []string{"--cpu-num=" + strconv.Itoa(processors)}
	if quota > 0 {
		args = append(args, "--cpu-quota="+strconv.FormatInt(quota, 10), "--cpu-period="+strconv.FormatUint(period, 10))
	}
	if m := g.limits.Memory; m != nil && m.Limit != nil && *m.Limit > 0 {
		var host unix.Sysinfo_t
		if err := unix.Sysinfo(&host); err == nil && uint64(*m.Limit) < host.Totalram*uint64(host.Unit) {
			args = append(args, "--total-memory="+strconv.FormatInt(*m.Limit, 10))
		}
	}
	return args
}

// add moves a process in, the slow way.
func (g *group) add(pid int) error {
	for _, dir := range g.all() {
		if err := set(filepath.Join(dir, "cgroup.procs"), strconv.Itoa(pid)); err != nil {
			return fmt.Errorf("join cgroup: %w", err)
		}
	}
	return nil
}

// has checks that a process is in every directory.
func (g *group) has(pid int) error {
	for _, dir := range g.all() {
		pids, err := members(dir)
		if err != nil {
			return err
		}
		if !slices.Contains(pids, pid) {
			return fmt.Errorf("process %d is not in cgroup %s", pid, dir)
		}
	}
	return nil
}

// oomKills counts processes that the kernel killed for the memory limit.
func (g *group) oomKills() int64 {
	name := "memory.oom_control"
	if g.unified {
		name = "memory.events"
	}
	text, err := os.ReadFile(filepath.Join(g.dirs["memory"], name))
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(text)) {
		if count, ok := strings.CutPrefix(line, "oom_kill "); ok {
			n, _ := strconv.ParseInt(strings.TrimSpace(count), 10, 64)
			return n
		}
	}
	return 0
}

// removePatience bounds the wait for killed processes to be gone.
const removePatience = 10 * time.Second

// remove kills what is left in the group and removes it. That of version 2 is
// runsc's own to remove, unless it was left by a killed one.
func (g *group) remove() error { return removeGroups(g.all()) }

func removeGroups(dirs []string) error {
	deadline := time.Now().Add(removePatience)
	for pause := time.Millisecond; ; pause = min(2*pause, 50*time.Millisecond) {
		var failed error
		for _, dir := range dirs {
			err := unix.Rmdir(dir)
			if err == nil || errors.Is(err, fs.ErrNotExist) {
				continue
			}
			failed = errors.Join(failed, fmt.Errorf("remove cgroup %s: %w", dir, err))
			pids, _ := members(dir)
			for _, pid := range pids {
				_ = unix.Kill(pid, unix.SIGKILL)
			}
		}
		if failed == nil || time.Now().After(deadline) {
			return failed
		}
		time.Sleep(pause) // the kernel tells nobody when a group becomes empty
	}
}

// members reads the processes of one directory.
func members(dir string) ([]int, error) {
	text, err := os.ReadFile(filepath.Join(dir, "cgroup.procs"))
	if err != nil {
		return nil, err
	}
	var pids []int
	for _, word := range strings.Fields(string(text)) {
		pid, err := strconv.Atoi(word)
		if err != nil {
			return nil, err
		}
		if pid > 0 { // 0 is a process of a namespace outside of ours
			pids = append(pids, pid)
		}
	}
	return pids, nil
}
