package gvisor_test

import (
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/sandlot-dev/sandlot/worker/sandboxtest"
)

// BenchmarkEcho runs one small job after the other and reports the medians of
// its three parts, and the processor time that containerd, shims, runsc and the
// sandbox took for one (on cgroup version 1).
func BenchmarkEcho(b *testing.B) {
	h := open(b)
	spec := sandboxtest.Sh(h.image(b, "busybox"), "echo hello")
	var prepare, run, closing []time.Duration
	first, err := h.runtime.Prepare(b.Context(), sandboxtest.Task(spec)) // places the image
	if err != nil {
		b.Fatal(err)
	}
	if err := first.Close(b.Context()); err != nil {
		b.Fatal(err)
	}
	before := h.cpu(b)
	for b.Loop() {
		start := time.Now()
		box, err := h.runtime.Prepare(b.Context(), sandboxtest.Task(spec))
		if err != nil {
			b.Fatal(err)
		}
		prepared := time.Now()
		if _, err := box.Run(b.Context(), new(sandboxtest.Sink)); err != nil {
			b.Fatal(err)
		}
		ran := time.Now()
		if err := box.Close(b.Context()); err != nil {
			b.Fatal(err)
		}
		prepare, run, closing = append(prepare, prepared.Sub(start)), append(run, ran.Sub(prepared)), append(closing, time.Since(ran))
	}
	b.ReportMetric(float64((h.cpu(b)-before).Milliseconds())/float64(len(run)), "cpu-ms")
	for name, all := range map[string][]time.Duration{"prepare-ms": prepare, "run-ms": run, "close-ms": closing} {
		slices.Sort(all)
		b.ReportMetric(float64(all[len(all)/2].Microseconds())/1000, name)
	}
}

// cpu is the processor time of the whole instance so far.
func (h *host) cpu(t testing.TB) time.Duration {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(h.containerd.Cgroups().Dir("cpuacct", ""), "cpuacct.usage"))
	if err != nil {
		return 0
	}
	ns, err := strconv.ParseInt(strings.TrimSpace(string(data)), 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return time.Duration(ns)
}
