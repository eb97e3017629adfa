package gvisor_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/sandlot-dev/sandlot/pkg/job"
	"github.com/sandlot-dev/sandlot/worker/sandboxtest"
)

// TestHostilePrograms runs what people send who want to break a sandbox. Every
// one must end with a verdict that blames it or its limits, never the
// platform.
func TestHostilePrograms(t *testing.T) {
	h := open(t)
	image := h.image(t, "busybox")
	for name, c := range map[string]struct {
		script  string
		limits  job.Limits
		verdict string
		// within is how long the attempt may take.
		within time.Duration
		check  func(t *testing.T, a sandboxtest.Attempt)
	}{
		"memory hog": {
			script:  `awk 'BEGIN { s = "x"; while (1) s = s s }'; echo survived`,
			limits:  job.Limits{Memory: 64 * job.MiB, Wall: 20_000},
			verdict: "failed limit out_of_memory",
			within:  10 * time.Second,
			check: func(t *testing.T, a sandboxtest.Attempt) {
				if a.Seen.OOMKills == 0 || a.Seen.Peak < 64*job.MiB || a.Seen.Peak > a.Seen.Applied.SandboxMemory {
					t.Errorf("evidence: %d kills, peak %d of %d", a.Seen.OOMKills, a.Seen.Peak, a.Seen.Applied.SandboxMemory)
				}
			},
		},
		"many small hogs": {
			script:  `for i in 1 2 3 4 5 6 7 8; do tail -c 30000000 /dev/zero >/dev/null & done; wait; echo survived`,
			limits:  job.Limits{Memory: 64 * job.MiB, Wall: 20_000},
			verdict: "failed limit out_of_memory",
			within:  10 * time.Second,
		},
		"a tmpfs of its own without a size": {
			script:  `exec unshare -Urm sh -c 'mount -t tmpfs none /tmp && cat /dev/zero > /tmp/x; echo survived'`,
			limits:  job.Limits{Memory: 64 * job.MiB, Wall: 30_000},
			verdict: "failed limit out_of_memory",
			within:  20 * time.Second,
		},
		"fork bomb": {
			script:  `bomb() { bomb | bomb & }; bomb; sleep 2; echo over`,
			limits:  job.Limits{PIDs: 30, Wall: 6_000},
			verdict: "",
			within:  15 * time.Second,
		},
		"output flood": {
			script:  `yes`,
			limits:  job.Limits{Output: 8 * job.MiB, Wall: 30_000},
			verdict: "failed limit output_limit",
			within:  10 * time.Second,
		},
		"output flood on both streams": {
			script:  `yes >&2 & yes`,
			limits:  job.Limits{Output: 8 * job.MiB, Wall: 30_000},
			verdict: "failed limit output_limit",
			within:  10 * time.Second,
		},
		"output flood with little memory": {
			script:  `yes >&2 & yes`,
			limits:  job.Limits{Output: 32 * job.MiB, Memory: 4 * job.MiB, Wall: 30_000},
			verdict: "failed limit output_limit",
			within:  20 * time.Second,
		},
		"processes that stay behind": {
			script:  `for i in 1 2 3 4 5; do setsid sleep 1000 & done; trap '' TERM; echo leaving`,
			verdict: "succeeded none exited",
			within:  5 * time.Second,
		},
		"signals are ignored": {
			script:  `trap '' TERM INT HUP QUIT; while :; do sleep 1; done`,
			limits:  job.Limits{Wall: 1_000},
			verdict: "failed limit timed_out",
			within:  5 * time.Second,
		},
		"it kills everyone it may": {
			script:  `kill -9 -1; kill -9 1; echo over`,
			verdict: "succeeded none exited",
			within:  5 * time.Second,
		},
		"deep recursion": {
			script:  `f() { f; }; f`,
			limits:  job.Limits{Memory: 128 * job.MiB, Wall: 20_000},
			verdict: "",
			within:  30 * time.Second,
		},
	} {
		t.Run(name, func(t *testing.T) {
			spec := sandboxtest.Sh(image, c.script)
			spec.Limits = c.limits.Filled()
			start := time.Now()
			a := sandboxtest.Must(t, h.runtime, spec)
			t.Logf("%s after %v: %+v\nstderr %.300q", a.Verdict(), time.Since(start).Round(time.Millisecond), a.Seen, a.Stderr(0))
			if strings.Contains(a.Verdict(), "platform") {
				t.Errorf("the platform is blamed")
			}
			if c.verdict != "" {
				a.Want(t, c.verdict)
			}
			if took := time.Since(start); took > c.within {
				t.Errorf("it took %v", took)
			}
			if strings.Contains(a.Stdout(0), "survived") {
				t.Errorf("it went on")
			}
			if c.check != nil {
				c.check(t, a)
			}
			h.mustBeClean(t)
		})
	}
}

// TestProcessesAreLimitedInside checks that a program that starts too many
// processes is told so and goes on.
func TestProcessesAreLimitedInside(t *testing.T) {
	h := open(t)
	for _, limit := range []int{5, 20} {
		spec := sandboxtest.Sh(h.image(t, "busybox"), `(while :; do sleep 30 & done); set -- /proc/[0-9]*; echo $#; echo went on`)
		spec.Limits = job.Limits{PIDs: limit}.Filled()
		a := sandboxtest.Must(t, h.runtime, spec)
		a.Want(t, "succeeded none exited")
		if !strings.Contains(a.Stderr(0), "can't fork") || !strings.Contains(a.Stdout(0), "went on") {
			t.Errorf("limit %d: stdout %q, stderr %q", limit, a.Stdout(0), a.Stderr(0))
		}
		var seen int
		if _, err := fmt.Sscan(a.Stdout(0), &seen); err != nil || seen > limit+1 {
			t.Errorf("limit %d: %d processes with the agent, error %v", limit, seen, err)
		}
	}
}

// TestDiskIsOneLimit fills all places together.
func TestDiskIsOneLimit(t *testing.T) {
	h := open(t)
	const limit = 40 * job.MiB
	spec := sandboxtest.Sh(h.image(t, "busybox"),
		`cd /; for d in /work /tmp /dev/shm $HOME; do dd if=/dev/zero of=$d/x bs=100k count=150; done; cat /work/x /tmp/x /dev/shm/x $HOME/x | wc -c`)
	spec.Limits = job.Limits{Disk: limit, Memory: 128 * job.MiB}.Filled()
	a := sandboxtest.Must(t, h.runtime, spec)
	a.Want(t, "succeeded none exited")
	if !strings.Contains(a.Stderr(0), "No space left on device") {
		t.Errorf("stderr %q", a.Stderr(0))
	}
	var total int64
	if _, err := fmt.Sscan(a.Stdout(0), &total); err != nil || total > int64(limit) || total < int64(limit)-job100K {
		t.Errorf("%d bytes were written, limit %d, error %v", total, limit, err)
	}
	if len(a.Seen.Hit) != 1 || a.Seen.Hit[0] != "disk" {
		t.Errorf("hit is %v", a.Seen.Hit)
	}
}

const job100K = 100_000

// TestDiskIsInsideMemory fills a disk as large as the memory.
func TestDiskIsInsideMemory(t *testing.T) {
	h := open(t)
	spec := sandboxtest.Sh(h.image(t, "busybox"), `cat /dev/zero > /tmp/x; wc -c < /tmp/x`)
	spec.Limits = job.Limits{Disk: 64 * job.MiB, Memory: 64 * job.MiB}.Filled()
	a := sandboxtest.Must(t, h.runtime, spec)
	a.Want(t, "succeeded none exited")
	if a.Stdout(0) != "67108864\n" {
		t.Errorf("%q bytes were written", a.Stdout(0))
	}
}

// TestSandboxIsClosed asks a program inside about everything it should not
// have or see.
func TestSandboxIsClosed(t *testing.T) {
	t.Setenv("SECRET_OF_THE_HOST", "seen")
	h := open(t)
	image := h.image(t, "busybox")
	for name, c := range map[string]struct{ script, want string }{
		"no capabilities": {
			`grep -E '^(Cap(Inh|Prm|Eff|Bnd|Amb)|NoNewPrivs):' /proc/self/status | tr -d '\t\n'`,
			"CapInh:0000000000000000CapPrm:0000000000000000CapEff:0000000000000000CapBnd:0000000000000000CapAmb:0000000000000000NoNewPrivs:1",
		},
		"only the loopback":             {`ls /sys/class/net; cut -d: -f1 /proc/net/dev | tail -n +3 | tr -d ' '`, "lo\n"},
		"no way out by address":         {`nc -w 2 1.1.1.1 53 </dev/null; echo $?`, "1\n"},
		"no way out by name":            {`nslookup example.com >/dev/null 2>&1; echo $?`, "1\n"},
		"no raw packets":                {`ping -c 1 -W 1 1.1.1.1 >/dev/null 2>&1; echo $?`, "1\n"},
		"the host's name is hidden":     {`hostname`, "sandlot\n"},
		"the agent cannot be signalled": {`kill -9 1 2>/dev/null; kill -STOP 1 2>/dev/null; echo still here`, "still here\n"},
		"the agent cannot be read":      {`cat /proc/1/environ /proc/1/mem 2>/dev/null | wc -c; ls /proc/1/fd >/dev/null 2>&1; echo $?; ls /proc/1/root/ >/dev/null 2>&1; echo $?`, "0\n1\n1\n"},
		"root is read-only":             {`touch /x /bin/x /etc/x /run/x /run/sandlot/x /sys/x /var/x 2>/dev/null; ls /x /bin/x /etc/x /run/x /run/sandlot/x /sys/x /var/x 2>/dev/null | grep -c .`, "0\n"},
		"devices cannot be made":        {`mknod /tmp/sda b 8 0 2>/dev/null; ls /tmp; ls /dev | grep -c -E '^(sd|vd|nvme|kvm|mem)'`, "0\n"},
		"su does not work":              {`echo | su -c id 2>/dev/null; echo $?`, "1\n"},
		"nothing of the host's":         {`tr '\0' '\n' < /proc/self/environ | grep -c SECRET; grep -c -v ':/$' /proc/1/cgroup`, "0\n0\n"},
		"it is the only one":            {`ls /proc | grep -E '^[0-9]+$' | head -1; ls /run/sandlot`, "1\ndisk\nsandlot-agent\n"},
		"set-id bits mean nothing":      {`cp /bin/busybox /tmp/id; chmod 6755 /tmp/id; /tmp/id -u`, "1000\n"},
	} {
		t.Run(name, func(t *testing.T) {
			a := sandboxtest.Must(t, h.runtime, sandboxtest.Sh(image, c.script))
			if a.Stdout(0) != c.want {
				t.Errorf("stdout %q, want %q; stderr %q", a.Stdout(0), c.want, a.Stderr(0))
			}
		})
	}
}

// TestEveryExitCode runs all of them in one sandbox, one step each.
func TestEveryExitCode(t *testing.T) {
	h := open(t)
	spec := sandboxtest.Sh(h.image(t, "busybox"))
	spec.Limits.Wall = 60_000
	for code := range 256 {
		spec.Steps = append(spec.Steps, job.Step{
			Name: fmt.Sprintf("exit-%d", code), Command: []string{"sh", "-c", fmt.Sprintf("exit %d", code)}, ContinueOnError: true,
		})
	}
	a := sandboxtest.Must(t, h.runtime, spec)
	for code := range 256 {
		if got := a.Seen.Steps[code].ExitCode; got == nil || *got != code {
			t.Errorf("exit %d is told as %v", code, got)
		}
	}
}

// TestImageIsNotTheJobsMemory runs one job often: the first run must not pay
// for the page cache that the later ones find.
func TestImageIsNotTheJobsMemory(t *testing.T) {
	h := open(t)
	spec := sandboxtest.Sh(h.image(t, "busybox"), `head -c 8000000 /dev/zero | md5sum; cat /bin/busybox > /dev/null`)
	first := sandboxtest.Must(t, h.runtime, spec).Seen
	for i := range 10 {
		later := sandboxtest.Must(t, h.runtime, spec).Seen
		if ratio := float64(later.Peak) / float64(first.Peak); ratio < 0.8 || ratio > 1.2 {
			t.Errorf("peak of the first run %d, of run %d %d", first.Peak, i+2, later.Peak)
		}
	}
}
