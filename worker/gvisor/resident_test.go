package gvisor_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/sandlot-dev/sandlot/worker/gvisor"
	"github.com/sandlot-dev/sandlot/worker/sandboxtest"
)

// TestNothingGrows runs some hundred jobs, several at once, in one life of the
// resident runtime, and compares what it and containerd hold before and after.
func TestNothingGrows(t *testing.T) {
	h := openWith(t, &host{choice: gvisor.Resident})
	spec := sandboxtest.Sh(h.image(t, "busybox"), "echo hello")
	jobs := 200
	if testing.Short() {
		jobs = 40
	}
	run := func(name string, jobs int) {
		slots := make(chan struct{}, 4)
		t.Run(name, func(t *testing.T) {
			for i := range jobs {
				t.Run(fmt.Sprint(i), func(t *testing.T) {
					t.Parallel()
					slots <- struct{}{}
					defer func() { <-slots }()
					a := sandboxtest.Must(t, h.runtime, spec)
					a.Want(t, "succeeded none exited")
					if a.Stdout(0) != "hello\n" {
						t.Errorf("output %q", a.Stdout(0))
					}
				})
			}
		})
		h.mustBeClean(t)
	}
	run("first", 10)
	before := h.holdings(t)
	run("then", jobs)
	after := h.holdings(t)
	for what, had := range before {
		// Some are opened on demand and kept, such as a connection.
		if has := after[what]; has > had+5 {
			t.Errorf("%s: %d before, %d after %d jobs", what, had, has, jobs)
		}
	}
	t.Logf("before %v, after %v", before, after)
}

// holdings counts what the instance's daemons have of the host.
func (h *host) holdings(t *testing.T) map[string]int {
	t.Helper()
	count := map[string]int{"processes": len(h.processes(t, "runtime"))}
	for _, name := range []string{"sandlot-runtime", "containerd.toml"} {
		pids := h.processes(t, "runtime", name)
		if len(pids) != 1 {
			t.Fatalf("processes %v are %s", pids, name)
		}
		proc := fmt.Sprintf("/proc/%d/", pids[0])
		files, err := os.ReadDir(proc + "fd")
		if err != nil {
			t.Fatal(err)
		}
		mounts, err := os.ReadFile(proc + "mountinfo")
		if err != nil {
			t.Fatal(err)
		}
		count[name+" files"], count[name+" mounts"] = len(files), strings.Count(string(mounts), "\n")
	}
	for _, controller := range []string{"memory", "pids"} {
		groups, err := filepath.Glob(filepath.Join(h.containerd.Cgroups().Dir(controller, ""), "*", "cgroup.procs"))
		if err != nil {
			t.Fatal(err)
		}
		count["groups of "+controller] = len(groups)
	}
	return count
}

func TestChoiceFallsBackAndSaysWhy(t *testing.T) {
	installed := gvisor.Binaries{Resident: "/r", Front: "/f", Runsc: "/nowhere/runsc"}
	for name, c := range map[string]struct {
		binaries gvisor.Binaries
		address  string
		why      string
	}{
		"a host's containerd": {installed, "/c.sock", "host's containerd"},
		"not installed":       {gvisor.Binaries{Runsc: "/nowhere/runsc"}, "", "not installed"},
		"no prewarmer":        {installed, "", "prewarmer"},
	} {
		t.Run(name, func(t *testing.T) {
			got, why := gvisor.Resident.On(c.binaries, c.address)
			if got != gvisor.Stock || why == nil || !strings.Contains(why.Error(), c.why) {
				t.Errorf("%s, %v", got, why)
			}
		})
	}
	if err := gvisor.Choice("x").Valid(); err == nil {
		t.Error("x is a choice")
	}
}
