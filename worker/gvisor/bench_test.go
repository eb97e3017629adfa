package gvisor_test

import (
	"slices"
	"testing"
	"time"

	"github.com/sandlot-dev/sandlot/worker/sandboxtest"
)

// BenchmarkEcho runs one small job after the other and reports the medians of
// its three parts.
func BenchmarkEcho(b *testing.B) {
	h := open(b)
	spec := sandboxtest.Sh(h.image(b, "busybox"), "echo hello")
	var prepare, run, closing []time.Duration
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
	for name, all := range map[string][]time.Duration{"prepare-ms": prepare, "run-ms": run, "close-ms": closing} {
		slices.Sort(all)
		b.ReportMetric(float64(all[len(all)/2].Microseconds())/1000, name)
	}
}
