package e2e

import (
	"errors"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/sandlot-dev/sandlot/pkg/api"
	"github.com/sandlot-dev/sandlot/test/testenv"
)

// hidePIDs is a script that hides the pids controller from the command that
// it then becomes; it runs in a mount namespace of its own.
const hidePIDs = `set -e
empty=$1; shift
if [ -d /sys/fs/cgroup/pids ]; then
	mount --bind "$empty" /sys/fs/cgroup/pids
else
	mount --bind "$empty" /sys/fs/cgroup
fi
exec "$@"`

// TestWorkerThatCannotEnforceALimitTakesNoJobs hides the pids controller of
// the host from a server: it must say so instead of running jobs without.
func TestWorkerThatCannotEnforceALimitTakesNoJobs(t *testing.T) {
	p := program(t)
	unshare, err := exec.LookPath("unshare")
	if err != nil {
		t.Fatalf("this test needs unshare of util-linux: %v", err)
	}
	dir, empty := testenv.ShortDir(t), t.TempDir()
	hidden := func(command ...string) []string {
		return append([]string{"--mount", "sh", "-c", hidePIDs, "sh", empty, p.Path}, command...)
	}

	process := testenv.Start(t, testenv.Command{
		Name: "up without pids", Path: unshare,
		Args: hidden("up", "--data-dir", dir, "--listen", "127.0.0.1:0", prepare),
		Env:  []string{"SANDLOT_RUNTIME_DIR=" + p.Dir},
	})
	up := testenv.Serving(t, process, dir)
	var problem *api.Problem
	testenv.Eventually(t, 30*time.Second, "a submit is refused for want of limits.pids", func() bool {
		_, err := up.Client.Submit(t.Context(), sh("echo hello"), 0)
		return errors.As(err, &problem) && problem.Status == 503 && strings.Contains(problem.Error(), "limits.pids")
	})
	if !strings.Contains(problem.Error(), "no worker can enforce limits.pids") {
		t.Errorf("the refusal says %q", problem.Error())
	}

	doctor := exec.Command(unshare, hidden("doctor", "--data-dir", dir)...)
	doctor.Env = append(os.Environ(), "SANDLOT_RUNTIME_DIR="+p.Dir)
	said, err := doctor.CombinedOutput()
	if err == nil || !strings.Contains(string(said), "pids") {
		t.Errorf("doctor says (%v):\n%s", err, said)
	}
}
