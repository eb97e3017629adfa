package testenv_test

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/sandlot-dev/sandlot/test/testenv"
)

const helper = "SANDLOT_TESTENV_HELPER"

// TestAKilledTestLeavesNoProcess has another test start a process, and kills
// that test, so that none of its cleanup runs.
func TestAKilledTestLeavesNoProcess(t *testing.T) {
	if os.Getenv(helper) != "" {
		p := testenv.Start(t, testenv.Command{Path: "sleep", Args: []string{"600"}})
		fmt.Println("pid", p.PID())
		<-p.Done()
		return
	}
	cmd := exec.Command(os.Args[0], "-test.run=^TestAKilledTestLeavesNoProcess$")
	cmd.Env = append(os.Environ(), helper+"=1")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	pid := 0
	for lines := bufio.NewScanner(out); pid == 0 && lines.Scan(); {
		if text, ok := strings.CutPrefix(lines.Text(), "pid "); ok {
			pid, _ = strconv.Atoi(text)
		}
	}
	_ = cmd.Process.Kill()
	_ = cmd.Wait()
	if pid == 0 {
		t.Fatal("the other test started nothing")
	}
	testenv.Eventually(t, 10*time.Second, "the process is gone", func() bool {
		return syscall.Kill(pid, 0) == syscall.ESRCH || zombie(pid)
	})
}

// zombie: the process has ended and nobody has taken notice yet.
func zombie(pid int) bool {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	return err != nil || strings.Contains(string(stat), ") Z ")
}
