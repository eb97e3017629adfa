package e2e

import (
	"path/filepath"
	"testing"

	"github.com/sandlot-dev/sandlot/test/testenv"
)

// roles are a nats-server, a scheduler and a worker, each a process.
type roles struct {
	natsURL      string
	schedulerDir string
	workerDir    string
	serving      *testenv.Instance
	worker       *testenv.Process
}

// startRoles starts one of each.
func startRoles(t *testing.T, p testenv.Program) *roles {
	t.Helper()
	r := &roles{schedulerDir: testenv.ShortDir(t), workerDir: testenv.ShortDir(t)}
	r.natsURL = testenv.NATS(t, filepath.Join(p.Dir, "nats-server"))
	r.startScheduler(t, p)
	if _, stderr, code := p.Run(t, "image", "build", "busybox", "--data-dir", r.schedulerDir); code != 0 {
		t.Fatalf("image build exits with %d: %s", code, stderr)
	}
	r.startWorker(t, p)
	return r
}

func (r *roles) startScheduler(t *testing.T, p testenv.Program) {
	t.Helper()
	process := p.Role(t, "scheduler", r.schedulerDir, "--listen", "127.0.0.1:0", "--nats", r.natsURL)
	r.serving = testenv.Serving(t, process, r.schedulerDir)
}

func (r *roles) startWorker(t *testing.T, p testenv.Program) {
	t.Helper()
	r.worker = p.Role(t, "worker", r.workerDir, "--nats", r.natsURL, "--id", "w1", "--drain", "1s")
	r.serving.WaitForWorkers(t, 1)
}

func TestRolesWorkAsSeparateProcesses(t *testing.T) {
	r := startRoles(t, program(t))
	done := run(t, r.serving.Client, sh("echo hello from afar"))
	wantVerdict(t, done, "succeeded none exited")
	if done.Worker != "w1" || done.Steps[0].Stdout.Text != "hello from afar\n" {
		t.Errorf("worker %q, output %q", done.Worker, done.Steps[0].Stdout.Text)
	}
}
