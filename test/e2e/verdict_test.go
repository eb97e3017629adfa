package e2e

import (
	"strings"
	"testing"

	"github.com/sandlot-dev/sandlot/pkg/api"
	"github.com/sandlot-dev/sandlot/pkg/job"
	"github.com/sandlot-dev/sandlot/test/testenv"
)

// testVerdicts causes every row of the table of verdicts.
func testVerdicts(t *testing.T, up *testenv.Instance) {
	for name, row := range map[string]struct {
		script  string
		limits  api.Limits
		verdict string
		check   func(*testing.T, api.Job)
	}{
		"exit 0":     {script: "echo hello", verdict: "succeeded none exited"},
		"exit not 0": {script: "exit 3", verdict: "failed program exited", check: wantExit(3)},
		"died of a signal of its own making": {
			script: "kill -SEGV $$", verdict: "failed program signaled", check: wantSignal("SIGSEGV"),
		},
		"killed itself": {script: "kill -KILL $$", verdict: "failed program signaled", check: wantSignal("SIGKILL")},
		"wall limit": {
			script: "echo before; sleep 60", limits: api.Limits{Wall: 1000}, verdict: "failed limit timed_out",
			check: wantEvidence("ms", 1000),
		},
		"processor time limit": {
			script: "while :; do :; done", limits: api.Limits{CPUTime: 700, Wall: 30_000}, verdict: "failed limit cpu_time",
			check: wantEvidence("ms", 700),
		},
		"memory limit": {
			script: "tail /dev/zero", limits: api.Limits{Memory: 64 * job.MiB, Wall: 60_000},
			verdict: "failed limit out_of_memory", check: wantEvidence("bytes", float64(64*job.MiB)),
		},
		"output limit": {
			script: "cat /dev/zero", limits: api.Limits{Output: job.MiB, Wall: 60_000},
			verdict: "failed limit output_limit", check: wantEvidence("bytes", float64(job.MiB)),
		},
		"disk limit is seen by the program": {
			script: "head -c 50000000 /dev/zero > big; echo status $?", limits: api.Limits{Disk: 16 * job.MiB},
			verdict: "succeeded none exited", check: func(t *testing.T, j api.Job) {
				if out := j.Steps[0].Stdout.Text; out != "status 1\n" {
					t.Errorf("the program saw %q, stderr %q", out, j.Steps[0].Stderr.Text)
				}
			},
		},
		"process limit is seen by the program": {
			script:  "for i in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do sleep 2 & done; wait; echo over",
			limits:  api.Limits{PIDs: 8},
			verdict: "failed program exited", check: func(t *testing.T, j api.Job) {
				if j.Steps[0].Stderr.Bytes == 0 {
					t.Error("the shell did not complain that it cannot fork")
				}
			},
		},
	} {
		t.Run(name, func(t *testing.T) {
			submit := sh(row.script)
			submit.Limits = row.limits
			done := run(t, up.Client, submit)
			wantVerdict(t, done, row.verdict)
			if len(done.Attempts) != 1 {
				t.Errorf("%d attempts: %+v", len(done.Attempts), done.Attempts)
			}
			if row.check != nil && !t.Failed() {
				row.check(t, done)
			}
		})
	}
}

func wantExit(code int) func(*testing.T, api.Job) {
	return func(t *testing.T, j api.Job) {
		if got := j.Steps[0].ExitCode; got == nil || *got != code {
			t.Errorf("exit code is %v, want %d", got, code)
		}
	}
}

func wantSignal(name string) func(*testing.T, api.Job) {
	return func(t *testing.T, j api.Job) {
		if s := j.Steps[0]; s.Signal != name || s.ExitCode != nil {
			t.Errorf("signal is %q, exit code %v", s.Signal, s.ExitCode)
		}
	}
}

// wantEvidence wants the limit in the evidence, and a number that exceeds it.
func wantEvidence(unit string, limit float64) func(*testing.T, api.Job) {
	return func(t *testing.T, j api.Job) {
		e := j.Verdict.Evidence
		if e.Unit != unit || e.Limit != limit || e.Measured < limit || e.Applied < limit {
			t.Errorf("evidence is %+v", e)
		}
	}
}

// testNothingOfTheHost looks for what a sandbox must not have.
func testNothingOfTheHost(t *testing.T, up *testenv.Instance) {
	t.Setenv("SECRET_OF_THE_HOST", "seen")
	done := run(t, up.Client, sh("env; id -u; ls /sys/class/net 2>/dev/null; touch /etc/x; cat /proc/self/status | grep -i capeff"))
	out := done.Steps[0].Stdout.Text
	for _, line := range []string{"SECRET_OF_THE_HOST", "eth0"} {
		if strings.Contains(out, line) {
			t.Errorf("a job sees %q: %s", line, out)
		}
	}
	if !strings.Contains(out, "\n1000\n") {
		t.Errorf("a job runs as somebody else: %s", out)
	}
	if !strings.Contains(done.Steps[0].Stderr.Text, "Read-only file system") && !strings.Contains(done.Steps[0].Stderr.Text, "Permission denied") {
		t.Errorf("a job may write to its image: %s", done.Steps[0].Stderr.Text)
	}
}
