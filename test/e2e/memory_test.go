package e2e

import (
	"testing"
	"time"

	"github.com/sandlot-dev/sandlot/pkg/api"
	"github.com/sandlot-dev/sandlot/pkg/job"
	"github.com/sandlot-dev/sandlot/test/testenv"
)

// testMemory wants out_of_memory, well before the wall limit, from programs
// that exceed their memory in different ways.
func testMemory(t *testing.T, up *testenv.Instance) {
	for name, hog := range map[string]struct {
		script string
		limits api.Limits
	}{
		"anonymous memory": {
			script: "tail /dev/zero", limits: api.Limits{Memory: 48 * job.MiB},
		},
		"memory and files together": {
			script: "head -c 60000000 /dev/zero > /tmp/big; tail /dev/zero",
			limits: api.Limits{Memory: 96 * job.MiB, Disk: 96 * job.MiB},
		},
		"many processes together": {
			script: "for i in 1 2 3 4; do tail /dev/zero & done; wait", limits: api.Limits{Memory: 48 * job.MiB},
		},
	} {
		t.Run(name, func(t *testing.T) {
			submit := sh(hog.script)
			submit.Limits = hog.limits
			submit.Limits.Wall, submit.Limits.CPUTime = 60_000, 60_000
			done := run(t, up.Client, submit)
			wantVerdict(t, done, "failed limit out_of_memory")
			if len(done.Steps) == 0 || done.Steps[0].Wall > 30_000 {
				t.Errorf("it took half of the wall limit: %+v", done.Steps)
			}
			if e := done.Verdict.Evidence; e.Measured < float64(hog.limits.Memory) || e.Applied <= e.Limit {
				t.Errorf("evidence is %+v", e)
			}
		})
	}
}

// testPeaks wants the same peak from a job whenever it runs: the page cache of
// its image is not charged to whoever comes first.
func testPeaks(t *testing.T, up *testenv.Instance) {
	const runs = 12
	ids := submitAll(t, up.Client, runs, func(int) api.Submit { return sh("head -c 8000000 /dev/zero > /tmp/f; cat /tmp/f > /dev/null") })
	var least, most job.Bytes
	for i, done := range waitAll(t, up.Client, ids, 2*time.Minute) {
		wantVerdict(t, done, "succeeded none exited")
		if len(done.Steps) != 1 {
			continue
		}
		peak := done.Steps[0].PeakMemory
		if i == 0 || peak < least {
			least = peak
		}
		most = max(most, peak)
	}
	if least <= 0 || float64(most) > 1.2*float64(least) {
		t.Errorf("peaks of one job reach from %d to %d bytes", least, most)
	}
}
