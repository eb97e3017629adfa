package gvisor

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/sandlot-dev/sandlot/pkg/job"
)

// goldenEnv set to anything makes the test write the files instead.
const goldenEnv = "SANDLOT_WRITE_GOLDEN"

// TestSpecIsAsReviewed compares the whole specification with a file, so that
// nothing of a sandbox's walls changes unseen.
func TestSpecIsAsReviewed(t *testing.T) {
	for name, p := range map[string]plan{
		"spec-v1.json": {limits: job.DefaultLimits().Filled(), guestDir: "/data/worker/guest", cgroupsPath: "../t-1"},
		"spec-v2.json": {limits: job.Limits{CPU: 2.5, Memory: 100_000_000}.Filled(), guestDir: "/data/worker/guest", cgroupsPath: "/sandlot-0123abcd/t-1", unified: true},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := json.MarshalIndent(specFor(p), "", "  ")
			if err != nil {
				t.Fatal(err)
			}
			path := filepath.Join("testdata", name)
			if os.Getenv(goldenEnv) != "" {
				if err := os.WriteFile(path, append(got, '\n'), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if string(got)+"\n" != string(want) {
				t.Errorf("the specification is not that of %s (%s=1 writes it):\n%s", path, goldenEnv, got)
			}
		})
	}
}

func TestSpecHasNothingOfTheHost(t *testing.T) {
	t.Setenv("SECRET_OF_THE_HOST", "seen")
	host, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	spec := specFor(plan{limits: job.DefaultLimits().Filled(), guestDir: "/data/worker/guest", cgroupsPath: "../t-1"})
	data, err := json.Marshal(spec)
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(data), "SECRET") || spec.Hostname == host {
		t.Errorf("specification is %s", data)
	}
}

func TestLimitsOfTheSandboxAreAboveTheJobs(t *testing.T) {
	for _, limit := range []job.Bytes{1, 4096, 5000, 64 * job.MiB, 3*job.GiB + 1} {
		if got := memoryLimit(limit); got%pageSize != 0 || got < limit+MemoryAllowance || got >= limit+MemoryAllowance+pageSize {
			t.Errorf("memory %d: %d", limit, got)
		}
	}
	for _, limit := range []int{1, 64, 1000} {
		if got := pidsGuard(limit); got < int64(64+4*limit) {
			t.Errorf("pids %d: %d", limit, got)
		}
	}
}

func TestIDsAreChecked(t *testing.T) {
	for id, want := range map[string]bool{
		"a": true, "0192-abc": true, strings.Repeat("a", 64): true,
		"": false, strings.Repeat("a", 65): false, "A": false, "a/b": false, "..": false, "-a": false, "a-": false, "a_b": false,
		"runtime": false, "worker": false, "a b": false, "ä": false,
	} {
		if got := validID(id); got != want {
			t.Errorf("%q: %v", id, got)
		}
	}
}
