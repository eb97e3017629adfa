package gvisor_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sandlot-dev/sandlot/pkg/job"
	"github.com/sandlot-dev/sandlot/worker/gvisor"
	"github.com/sandlot-dev/sandlot/worker/sandboxtest"
)

// ready waits until so many sandboxes wait for jobs.
func (h *host) ready(t *testing.T, n int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for h.runtime.Spares().Ready < n {
		select {
		case <-ctx.Done():
			t.Fatalf("%d sandboxes are not ready: %+v", n, h.runtime.Spares())
		case <-tick.C:
		}
	}
}

// TestASpareIsForOneJob runs jobs in sandboxes that were ready before them, and
// looks for what the one before could have left.
func TestASpareIsForOneJob(t *testing.T) {
	h := openWith(t, &host{spares: 2})
	spec := sandboxtest.Sh(h.image(t, "busybox"), `ls -A /work /tmp /home/sandlot; echo mine > /work/mine; echo mine > /tmp/mine; sleep 100 & exit 0`)
	first := sandboxtest.Must(t, h.runtime, spec)
	for range 4 {
		h.ready(t, 1)
		a := sandboxtest.Must(t, h.runtime, spec)
		a.Want(t, "succeeded none exited")
		if a.Stdout(0) != first.Stdout(0) || strings.Contains(a.Stdout(0), "mine") {
			t.Errorf("it sees %q, the first one saw %q", a.Stdout(0), first.Stdout(0))
		}
	}
	if c := h.runtime.Spares(); c.Hits != 4 || c.Misses != 1 {
		t.Errorf("%+v; 4 hits and 1 miss are wanted", c)
	}
	h.stopSpares()
	h.mustBeClean(t)
}

// TestASpareIsOfTheShapeThatIsAskedFor has jobs with limits of their own run
// under them, not under those of what is ready.
func TestASpareIsOfTheShapeThatIsAskedFor(t *testing.T) {
	h := openWith(t, &host{spares: 4})
	image := h.image(t, "busybox")
	for _, change := range []func(*job.Limits){
		func(*job.Limits) {},
		func(l *job.Limits) { l.Memory = 96 * job.MiB; l.Disk = 16 * job.MiB },
		func(l *job.Limits) { l.PIDs = 7 },
		func(l *job.Limits) { l.CPU = 0.5 },
		func(l *job.Limits) { l.Wall, l.Output = 7000, 1000 },
	} {
		spec := sandboxtest.Sh(image, "exit 0")
		change(&spec.Limits)
		a := sandboxtest.Must(t, h.runtime, spec)
		a.Want(t, "succeeded none exited")
		if got, want := a.Seen.Applied.Limits, spec.Limits; got != want {
			t.Errorf("applied are %+v, wanted %+v", got, want)
		}
		h.ready(t, 1)
	}
	if c := h.runtime.Spares(); c.Hits != 1 || c.Misses != 4 {
		t.Errorf("%+v: only limits that the worker's own clocks and counts enforce may differ", c)
	}
}

// TestSparesDieWithContainerd runs a job after all that was ready has died.
func TestSparesDieWithContainerd(t *testing.T) {
	for _, c := range []gvisor.Choice{gvisor.Stock, gvisor.Resident} {
		t.Run(string(c), func(t *testing.T) {
			h := openWith(t, &host{choice: c, spares: 2})
			spec := sandboxtest.Sh(h.image(t, "busybox"), "echo hello")
			sandboxtest.Must(t, h.runtime, spec)
			h.ready(t, 1)
			gone := h.containerd.Gone()
			for _, pid := range h.processes(t, "runtime", "containerd.toml") {
				if err := unix.Kill(pid, unix.SIGKILL); err != nil {
					t.Fatal(err)
				}
			}
			<-gone
			a := sandboxtest.Must(t, h.runtime, spec)
			a.Want(t, "succeeded none exited")
			h.ready(t, 1)
			h.stopSpares()
			h.mustBeClean(t)
		})
	}
}
