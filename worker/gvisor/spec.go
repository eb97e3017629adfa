package gvisor

import (
	"strconv"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/sandlot-dev/sandlot/pkg/job"
)

// The worker's directory inside. It is the only mount point that Sandlot asks
// of an image: its root is read-only, so nobody can make one later.
//
//	/run/sandlot/sandlot-agent   the agent
//	/run/sandlot/disk            where the job's files live until the agent
//	                             has put them into their places
const (
	guestDir  = "/run/sandlot"
	agentName = "sandlot-agent"
	diskName  = "disk"
)

// The job's user inside.
const (
	jobUID = 1000
	jobGID = 1000
)

// MemoryAllowance is added to the job's memory limit for the sandbox itself:
// gVisor's kernel, its file server and the agent. An idle sandbox uses 17 MiB;
// the rest lets its tables grow with what the job does.
const MemoryAllowance = 32 * job.MiB

// HostAllowance is what a sandbox needs of the host's memory beside its job's
// limit: the allowance, and its shim, which is outside of its cgroup.
const HostAllowance = MemoryAllowance + 32*job.MiB

// pidsBase is how many tasks of the host the sandbox itself may have. A
// process inside costs about two of them, a thread inside none.
const pidsBase = 64

// pidsGuard is the limit on the tasks of a sandbox on the host. It is far
// above what a job within its own limit needs: a sandbox that hits it dies.
func pidsGuard(limit int) int64 { return pidsBase + 4*int64(limit) }

const pageSize = 4096

// memoryLimit is the limit of the sandbox's cgroup, in whole pages.
func memoryLimit(limit job.Bytes) job.Bytes {
	return (limit + MemoryAllowance + pageSize - 1) / pageSize * pageSize
}

// bootCores is what a sandbox may use while it boots: that takes a tenth of a
// second of processor time, on two threads at once, which a small share would
// stretch to seconds. The job's own limit is set before its first step. Two is
// also the least number of processors that gVisor shows to a guest.
func bootCores(limit float64) float64 { return max(limit, 2) }

// plan is what a specification is made from.
type plan struct {
	limits      job.Limits
	guestDir    string // on the host; see placeGuest
	rootFile    string // the image as an EROFS file; empty if it is mounted
	guestFile   string // guestDir as an EROFS file; given with rootFile
	cgroupsPath string
	unified     bool
}

// specFor describes a sandbox: the image read-only, the agent as its first
// process, one tmpfs for everything the job writes, no network, nothing of the
// host. Root inside has the capabilities that the agent needs, and the job's
// programs, its children, have none.
func specFor(p plan) *specs.Spec {
	return &specs.Spec{
		Version: "1.2.0",
		Process: &specs.Process{
			Args:         []string{guestDir + "/" + agentName, "-disk", guestDir + "/" + diskName, "-size", strconv.FormatInt(int64(p.limits.Disk), 10)},
			Env:          []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"},
			Cwd:          "/",
			Capabilities: capabilities(),
			Rlimits:      []specs.POSIXRlimit{{Type: "RLIMIT_NOFILE", Soft: 8192, Hard: 8192}},
		},
		Root:     &specs.Root{Path: "rootfs", Readonly: true},
		Hostname: "sandlot",
		Mounts:   mounts(p),
		Linux: &specs.Linux{
			CgroupsPath: p.cgroupsPath,
			Resources:   resources(p),
			Namespaces: []specs.LinuxNamespace{
				{Type: specs.PIDNamespace},
				{Type: specs.IPCNamespace},
				{Type: specs.UTSNamespace},
				{Type: specs.MountNamespace},
				{Type: specs.NetworkNamespace},
			},
		},
		Annotations: annotations(p),
	}
}

func annotations(p plan) map[string]string {
	// Without it gVisor's shim gives a task no standard input and output.
	all := map[string]string{"io.kubernetes.cri.container-type": "sandbox"}
	if p.rootFile != "" {
		all["dev.gvisor.spec.rootfs.source"] = p.rootFile
		all["dev.gvisor.spec.rootfs.type"] = "erofs"
	}
	return all
}

// capabilities are the agent's, inside the sandbox: it mounts, becomes another
// user, and kills what the job leaves behind.
func capabilities() *specs.LinuxCapabilities {
	all := []string{
		"CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FOWNER", "CAP_KILL", "CAP_SETGID", "CAP_SETPCAP", "CAP_SETUID",
		"CAP_SYS_ADMIN", "CAP_SYS_RESOURCE",
	}
	return &specs.LinuxCapabilities{Bounding: all, Effective: all, Permitted: all}
}

func mounts(p plan) []specs.Mount {
	own := specs.Mount{Destination: guestDir, Type: "bind", Source: p.guestDir, Options: []string{"bind", "ro", "nosuid", "nodev"}}
	if p.rootFile != "" { // any bind mount would bring the file server back
		own = specs.Mount{Destination: guestDir, Type: "erofs", Source: p.guestFile, Options: []string{"ro", "nosuid", "nodev"}}
	}
	disk := "size=" + strconv.FormatInt(int64(p.limits.Disk), 10)
	return []specs.Mount{
		{Destination: "/proc", Type: "proc", Source: "proc", Options: []string{"nosuid", "noexec", "nodev"}},
		{Destination: "/sys", Type: "sysfs", Source: "sysfs", Options: []string{"nosuid", "noexec", "nodev", "ro"}},
		own,
		{Destination: guestDir + "/" + diskName, Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "nodev", "mode=700", disk}},
	}
}

func resources(p plan) *specs.LinuxResources {
	memory, quota, period := int64(memoryLimit(p.limits.Memory)), quotaOf(bootCores(p.limits.CPU)), uint64(cpuPeriod.Microseconds())
	r := &specs.LinuxResources{
		// Memory and swap together are no more than memory alone: no swap.
		Memory: &specs.LinuxMemory{Limit: &memory, Swap: &memory},
		Pids:   &specs.LinuxPids{Limit: new(pidsGuard(p.limits.PIDs))},
		CPU:    &specs.LinuxCPU{Quota: &quota, Period: &period},
	}
	if p.unified {
		r.Unified = map[string]string{"memory.oom.group": "1"}
	}
	return r
}
