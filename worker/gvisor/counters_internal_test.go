package gvisor

import (
	"math"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/sandlot-dev/sandlot/pkg/job"
)

// write makes a directory that looks like a cgroup.
func write(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, content := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func read(t *testing.T, dir, name string) string {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(dir, name))
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

func countersIn(t *testing.T, unified bool, dir string) counters {
	t.Helper()
	c, err := countersOf(unified, func(string) string { return dir })
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestCountersOfVersion2(t *testing.T) {
	files := map[string]string{
		"cpu.stat":        "usage_usec 1234567\nuser_usec 1000000\nsystem_usec 234567\nnr_periods 0\n",
		"memory.current":  "20480\n",
		"memory.peak":     "40960\n",
		"memory.events":   "low 0\nhigh 0\nmax 7\noom 2\noom_kill 1\noom_group_kill 1\n",
		"memory.stat":     "anon 4096\nfile 8192\nworkingset_refault_anon 5\nworkingset_refault_file 99\n",
		"pids.events":     "max 3\n",
		"memory.max":      "67108864\n",
		"memory.swap.max": "0\n",
		"pids.max":        "320\n",
		"cpu.max":         "150000 100000\n",
	}
	dir := write(t, files)
	c := countersIn(t, true, dir)
	if cpu, err := c.cpu(); err != nil || cpu != 1234567*time.Microsecond {
		t.Errorf("cpu %v, %v", cpu, err)
	}
	if m, err := c.memory(); err != nil || m != (memory{20480, 40960, 99}) {
		t.Errorf("memory %+v, %v", m, err)
	}
	if e, err := c.events(); err != nil || e != (events{1, 3}) {
		t.Errorf("events %+v, %v", e, err)
	}
	if l, err := c.limits(); err != nil || l != (enforced{64 * job.MiB, 0, 320, 1.5}) {
		t.Errorf("limits %+v, %v", l, err)
	}
	if err := c.setCPU(0.25); err != nil || read(t, dir, "cpu.max") != "25000 100000" {
		t.Errorf("cpu.max is %q, %v", read(t, dir, "cpu.max"), err)
	}
}

func TestCountersOfVersion2WithoutLimits(t *testing.T) {
	dir := write(t, map[string]string{"memory.max": "max\n", "memory.swap.max": "max\n", "pids.max": "max\n", "cpu.max": "max 100000\n"})
	l, err := countersIn(t, true, dir).limits()
	if err != nil {
		t.Fatal(err)
	}
	if l.memory != unlimited || l.swap != unlimited || l.pids != unlimited || l.cores < 1e9 {
		t.Errorf("limits %+v", l)
	}
}

func TestCountersOfOldKernels(t *testing.T) {
	// No memory.peak before Linux 5.19, no split of refaults before 5.9, no
	// swap accounting.
	dir := write(t, map[string]string{
		"memory.current": "20480\n", "memory.events": "oom_kill 0\n", "memory.stat": "workingset_refault 12\n",
		"memory.max": "67108864\n", "pids.max": "10\n", "cpu.max": "100000 100000\n",
	})
	c := countersIn(t, true, dir)
	if m, err := c.memory(); err != nil || m != (memory{20480, 20480, 12}) {
		t.Errorf("memory %+v, %v", m, err)
	}
	if l, err := c.limits(); err != nil || l != (enforced{64 * job.MiB, 0, 10, 1}) {
		t.Errorf("limits %+v, %v", l, err)
	}
}

func TestCountersOfVersion1(t *testing.T) {
	dir := write(t, map[string]string{
		"cpuacct.usage":                "1500000000\n",
		"memory.usage_in_bytes":        "20480\n",
		"memory.max_usage_in_bytes":    "40960\n",
		"memory.oom_control":           "oom_kill_disable 0\nunder_oom 0\noom_kill 2\n",
		"memory.stat":                  "cache 1\nworkingset_refault_file 99\ntotal_workingset_refault_file 9999\n",
		"pids.events":                  "max 4\n",
		"memory.limit_in_bytes":        "67108864\n",
		"memory.memsw.limit_in_bytes":  "67108864\n",
		"pids.max":                     "320\n",
		"cpu.cfs_quota_us":             "50000\n",
		"cpu.cfs_period_us":            "100000\n",
		"memory.kmem.max_usage_in_byt": "",
	})
	c := countersIn(t, false, dir)
	if cpu, err := c.cpu(); err != nil || cpu != 1500*time.Millisecond {
		t.Errorf("cpu %v, %v", cpu, err)
	}
	if m, err := c.memory(); err != nil || m != (memory{20480, 40960, 99}) {
		t.Errorf("memory %+v, %v", m, err)
	}
	if e, err := c.events(); err != nil || e != (events{2, 4}) {
		t.Errorf("events %+v, %v", e, err)
	}
	if l, err := c.limits(); err != nil || l != (enforced{64 * job.MiB, 0, 320, 0.5}) {
		t.Errorf("limits %+v, %v", l, err)
	}
	if err := c.resetPeak(); err != nil || read(t, dir, "memory.max_usage_in_bytes") != "0" {
		t.Errorf("reset: %v", err)
	}
	if err := c.setCPU(2); err != nil || read(t, dir, "cpu.cfs_quota_us") != "200000" {
		t.Errorf("set cpu: %v", err)
	}
	if err := os.WriteFile(filepath.Join(dir, "cpu.cfs_quota_us"), []byte("-1\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if l, err := c.limits(); err != nil || l.cores < 1e9 {
		t.Errorf("without a quota: %+v, %v", l, err)
	}
}

func TestCountersNeedTheirControllers(t *testing.T) {
	if _, err := countersOf(false, func(c string) string { return map[string]string{"cpu": "/x", "cpuacct": "/x", "memory": "/x"}[c] }); err == nil {
		t.Error("no pids controller is no error")
	}
	if _, err := countersOf(true, func(string) string { return "" }); err == nil {
		t.Error("no cgroup is no error")
	}
}

func TestGarbageInCountersIsAnError(t *testing.T) {
	dir := write(t, map[string]string{"cpu.stat": "usage_usec many\n", "cpu.max": "1\n", "memory.max": "-5\n", "pids.max": "1", "memory.current": ""})
	c := countersIn(t, true, dir)
	if _, err := c.cpu(); err == nil {
		t.Error("cpu")
	}
	if _, err := c.limits(); err == nil {
		t.Error("limits")
	}
	if _, err := c.memory(); err == nil {
		t.Error("memory")
	}
}

func TestQuotaIsNeverNothing(t *testing.T) {
	for cores, want := range map[float64]int64{0.0001: 1000, 0.5: 50_000, 1: 100_000, 2.25: 225_000} {
		if got := quotaOf(cores); got != want {
			t.Errorf("%g cores: %d, want %d", cores, got, want)
		}
	}
	if got := quotaOf(math.SmallestNonzeroFloat64); got != 1000 {
		t.Errorf("almost nothing: %d", got)
	}
}

func TestThrashNeedsTwoWindowsAtTheLimit(t *testing.T) {
	const limit = 100 * job.MiB
	start := time.Unix(1, 0)
	type reading struct {
		at, cpu  time.Duration
		refaults int64
		usage    job.Bytes
	}
	ms := time.Millisecond
	for name, c := range map[string]struct {
		readings []reading
		want     bool
	}{
		"two windows":             {[]reading{{0, 0, 0, limit}, {250 * ms, 250 * ms, 30_000, limit}, {500 * ms, 500 * ms, 60_000, limit}}, true},
		"one window":              {[]reading{{0, 0, 0, limit}, {250 * ms, 250 * ms, 30_000, limit}, {500 * ms, 500 * ms, 31_000, limit}}, false},
		"below the limit":         {[]reading{{0, 0, 0, 50 * job.MiB}, {250 * ms, 250 * ms, 30_000, 50 * job.MiB}, {500 * ms, 500 * ms, 60_000, 50 * job.MiB}}, false},
		"few refaults":            {[]reading{{0, 0, 0, limit}, {250 * ms, 250 * ms, 10_000, limit}, {500 * ms, 500 * ms, 20_000, limit}}, false},
		"on a busy host":          {[]reading{{0, 0, 0, limit}, {250 * ms, 75 * ms, 10_000, limit}, {500 * ms, 150 * ms, 20_000, limit}}, true},
		"waiting for the disk":    {[]reading{{0, 0, 0, limit}, {250 * ms, 5 * ms, 6_000, limit}, {500 * ms, 10 * ms, 12_000, limit}}, true},
		"idle, with old refaults": {[]reading{{0, 0, 900_000, limit}, {250 * ms, 1 * ms, 900_100, limit}, {500 * ms, 2 * ms, 900_200, limit}}, false},
		"looks that come too often are no windows": {[]reading{{0, 0, 0, limit}, {25 * ms, 25 * ms, 9_000, limit}, {50 * ms, 50 * ms, 18_000, limit}}, false},
	} {
		t.Run(name, func(t *testing.T) {
			th := thrash{limit: limit}
			got := false
			for _, r := range c.readings {
				got = th.due(start.Add(r.at)) && th.see(start.Add(r.at), r.cpu, memory{usage: r.usage, refaults: r.refaults}) || got
			}
			if got != c.want {
				t.Errorf("thrashes: %v", got)
			}
		})
	}
}
