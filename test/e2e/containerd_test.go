package e2e

import (
	"fmt"
	"syscall"
	"testing"
	"time"

	"github.com/sandlot-dev/sandlot/pkg/api"
	"github.com/sandlot-dev/sandlot/pkg/job"
	"github.com/sandlot-dev/sandlot/test/testenv"
)

// TestKilledContainerdIsTheFaultOfThePlatform kills the containerd under
// running jobs. No program is blamed: every job has its right result, if need
// be from a further attempt.
func TestKilledContainerdIsTheFaultOfThePlatform(t *testing.T) {
	p := program(t)
	dir := testenv.ShortDir(t)
	up := p.Up(t, dir, prepare)
	ids := submitAll(t, up.Client, 6, func(i int) api.Submit { return sh(fmt.Sprintf("sleep 2; echo %d", i)) })
	testenv.Eventually(t, time.Minute, "a job runs", func() bool {
		now, err := up.Client.Get(t.Context(), ids[0])
		return err == nil && now.State == job.Running && !now.Timings.Claim.IsZero()
	})
	containerd := testenv.FindProcess(t, "containerd --config", dir)
	if err := syscall.Kill(containerd, syscall.SIGKILL); err != nil {
		t.Fatalf("kill containerd: %v", err)
	}
	again := wantAll(t, up.Client, ids, 2*time.Minute)
	t.Logf("%d jobs needed another attempt", again)
	if again == 0 {
		t.Error("no job was interrupted: the test proves nothing")
	}
	up.Terminate(t, 10*time.Second)
	wantNothingLeft(t, dir)
}
