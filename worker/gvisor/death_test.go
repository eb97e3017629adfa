package gvisor_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/sandlot-dev/sandlot/worker"
	"github.com/sandlot-dev/sandlot/worker/gvisor"
	"github.com/sandlot-dev/sandlot/worker/sandboxtest"
)

// processes lists those in a group of the instance whose command line has the
// given words.
func (h *host) processes(t *testing.T, group string, words ...string) []int {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(h.containerd.Cgroups().Dir("memory", group), "cgroup.procs"))
	if err != nil {
		t.Fatal(err)
	}
	var found []int
	for line := range strings.Lines(string(data)) {
		var pid int
		if _, err := fmt.Sscan(line, &pid); err != nil {
			continue
		}
		command, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
		matches := err == nil
		for _, w := range words {
			matches = matches && strings.Contains(string(command), w)
		}
		if matches {
			found = append(found, pid)
		}
	}
	return found
}

// whileRunning runs a long job and calls do as soon as its program is heard.
func (h *host) whileRunning(t *testing.T, script string, do func(task worker.Task)) sandboxtest.Attempt {
	t.Helper()
	spec := sandboxtest.Sh(h.image(t, "busybox"), "echo ready; "+script)
	spec.Limits.Wall = 55_000
	task := sandboxtest.Task(spec)
	box := sandboxtest.Prepare(t, h.runtime, task)
	var once sync.Once
	sink := &sandboxtest.Sink{OnOutput: func(int, worker.Stream, []byte) error {
		once.Do(func() { do(task) })
		return nil
	}}
	start := time.Now()
	seen, err := box.Run(t.Context(), sink)
	if took := time.Since(start); took > 20*time.Second {
		t.Errorf("it took %v to notice", took)
	}
	sandboxtest.Close(t, box)
	return sandboxtest.Attempt{Spec: spec, Seen: seen, Sink: sink, Err: err}
}

// TestDeathIsThePlatforms kills what a sandbox is made of. No limit explains
// it, so the job is not to blame.
func TestDeathIsThePlatforms(t *testing.T) {
	onBoth(t, testDeathIsThePlatforms)
}

func testDeathIsThePlatforms(t *testing.T, h *host) {
	type victim struct {
		group string // "" is the sandbox's own
		words []string
	}
	victims := map[string]victim{
		"the sandbox": {"", []string{"runsc", "boot"}},
		"its gofer":   {"", []string{"runsc", "gofer"}},
		"its shim":    {"runtime", []string{"containerd-shim-runsc-v1", "-id"}},
	}
	if h.choice == gvisor.Resident {
		victims["its shim"] = victim{"runtime", []string{"sandlot-runtime"}}
	}
	for name, victim := range victims {
		t.Run(name, func(t *testing.T) {
			a := h.whileRunning(t, "sleep 50", func(task worker.Task) {
				group, words := victim.group, victim.words
				if group == "" {
					group = task.ID
				} else if h.choice == gvisor.Stock {
					words = append(words, task.ID)
				}
				pids := h.processes(t, group, words...)
				if len(pids) == 0 {
					t.Errorf("nothing to kill")
				}
				for _, pid := range pids {
					if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
						t.Error(err)
					}
				}
			})
			a.Want(t, "dead platform sandbox_fault")
			if a.Stdout(0) != "ready\n" || len(a.Seen.Steps) != 1 || a.Seen.Fault == "" {
				t.Errorf("output %q, seen %+v", a.Stdout(0), a.Seen)
			}
			h.mustBeClean(t)
		})
	}
	sandboxtest.Must(t, h.runtime, sandboxtest.Sh(h.image(t, "busybox"), "exit 0")).Want(t, "succeeded none exited")
}

// TestGuardOfProcesses lowers the host's limit on tasks under a running
// sandbox, since a job within its own limit cannot reach it.
func TestGuardOfProcesses(t *testing.T) { onBoth(t, testGuardOfProcesses) }

func testGuardOfProcesses(t *testing.T, h *host) {
	a := h.whileRunning(t, "sleep 1; for i in 1 2 3 4 5 6 7 8 9; do sleep 40 & done; wait", func(task worker.Task) {
		dir := h.containerd.Cgroups().Dir("pids", task.ID)
		now, err := os.ReadFile(filepath.Join(dir, "pids.current"))
		if err == nil {
			err = os.WriteFile(filepath.Join(dir, "pids.max"), now, 0)
		}
		if err != nil {
			t.Error(err)
		}
	})
	a.Want(t, "failed limit pids_limit")
	h.mustBeClean(t)
}

// TestContainerdDies kills containerd under a running job: the attempt is the
// platform's fault, the sandbox is gone, and the next job runs.
func TestContainerdDies(t *testing.T) { onBoth(t, testContainerdDies) }

func testContainerdDies(t *testing.T, h *host) {
	a := h.whileRunning(t, "sleep 50", func(worker.Task) {
		for _, pid := range h.processes(t, "runtime", "containerd.toml") {
			if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
				t.Error(err)
			}
		}
	})
	a.Want(t, "dead platform sandbox_fault")
	sandboxtest.Must(t, h.runtime, sandboxtest.Sh(h.image(t, "busybox"), "exit 0")).Want(t, "succeeded none exited")
	h.mustBeClean(t)
}

// TestIDIsUsedOnce asks for a sandbox whose cgroup is there already: the
// runtime would take its limits for those wanted, and there are none.
func TestIDIsUsedOnce(t *testing.T) {
	h := open(t)
	task := sandboxtest.Task(sandboxtest.Sh(h.image(t, "busybox"), "echo still here"))
	dir := h.containerd.Cgroups().Dir("pids", task.ID)
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if _, err := h.runtime.Prepare(t.Context(), task); err == nil || !strings.Contains(err.Error(), "there already") {
		t.Errorf("error is %v", err)
	}
	if err := os.Remove(dir); err != nil {
		t.Fatal(err)
	}
	// The id of a living sandbox is refused, and the sandbox lives on.
	box := sandboxtest.Prepare(t, h.runtime, task)
	if _, err := h.runtime.Prepare(t.Context(), task); err == nil || !strings.Contains(err.Error(), "in use") {
		t.Errorf("error is %v", err)
	}
	sink := new(sandboxtest.Sink)
	if _, err := box.Run(t.Context(), sink); err != nil || sink.Text(0, worker.Stdout) != "still here\n" {
		t.Errorf("output %q, error %v", sink.Text(0, worker.Stdout), err)
	}
	sandboxtest.Close(t, box)
	h.mustBeClean(t)
}

// TestPrepareEndsWithItsContext cancels at many moments of a boot.
func TestPrepareEndsWithItsContext(t *testing.T) { onBoth(t, testPrepareEndsWithItsContext) }

func testPrepareEndsWithItsContext(t *testing.T, h *host) {
	spec := sandboxtest.Sh(h.image(t, "busybox"), "exit 0")
	sandboxtest.Must(t, h.runtime, spec)
	for after := time.Duration(0); after < 300*time.Millisecond; after += 20 * time.Millisecond {
		ctx, cancel := context.WithCancelCause(t.Context())
		timer := time.AfterFunc(after, func() { cancel(worker.ErrCanceled) })
		box, err := h.runtime.Prepare(ctx, sandboxtest.Task(spec))
		timer.Stop()
		if err == nil {
			sandboxtest.Close(t, box)
		} else if err != worker.ErrCanceled {
			t.Errorf("after %v: error is %v", after, err)
		}
		h.mustBeClean(t)
	}
}

// TestImageIsFetchedOnce prepares several sandboxes of an image at once.
func TestImageIsFetchedOnce(t *testing.T) {
	h := open(t)
	image := h.image(t, "busybox")
	t.Run("at once", func(t *testing.T) {
		for i := range 4 {
			t.Run(fmt.Sprint(i), func(t *testing.T) {
				t.Parallel()
				sandboxtest.Must(t, h.runtime, sandboxtest.Sh(image, "exit 0")).Want(t, "succeeded none exited")
			})
		}
	})
	if n := h.fetched.Load(); n != 1 {
		t.Errorf("the archive was fetched %d times", n)
	}
}

// TestReap leaves sandboxes behind as a killed worker does, and starts again.
func TestReap(t *testing.T) { onBoth(t, testReap) }

func testReap(t *testing.T, h *host) {
	spec := sandboxtest.Sh(h.image(t, "busybox"), "exit 0")
	for range 2 {
		if _, err := h.runtime.Prepare(t.Context(), sandboxtest.Task(spec)); err != nil {
			t.Fatal(err)
		}
	}
	if err := h.runtime.Reap(t.Context()); err != nil {
		t.Fatal(err)
	}
	h.mustBeClean(t)
	fetched := h.fetched.Load()
	sandboxtest.Must(t, h.runtime, spec).Want(t, "succeeded none exited")
	if h.fetched.Load() != fetched {
		t.Error("the image was reaped")
	}
	if err := h.runtime.Reap(t.Context()); err != nil {
		t.Errorf("second time: %v", err)
	}
}

// TestNextLifeReaps closes containerd with sandboxes running and starts it
// again on the same directory.
func TestNextLifeReaps(t *testing.T) { onBoth(t, testNextLifeReaps) }

func testNextLifeReaps(t *testing.T, h *host) {
	spec := sandboxtest.Sh(h.image(t, "busybox"), "exit 0")
	if _, err := h.runtime.Prepare(t.Context(), sandboxtest.Task(spec)); err != nil {
		t.Fatal(err)
	}
	if err := h.containerd.Close(); err != nil {
		t.Fatal(err)
	}
	h.start(t)
	if err := h.runtime.Reap(t.Context()); err != nil {
		t.Fatal(err)
	}
	h.mustBeClean(t)
	fetched := h.fetched.Load()
	sandboxtest.Must(t, h.runtime, spec).Want(t, "succeeded none exited")
	if h.fetched.Load() != fetched {
		t.Error("the image did not survive")
	}
}
