package gvisor_test

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/sandlot-dev/sandlot/test/need"
	"github.com/sandlot-dev/sandlot/worker/gvisor"
)

// TestCheckFindsThisHostGood: where the other tests pass, so must the check,
// and it leaves nothing behind.
func TestCheckFindsThisHostGood(t *testing.T) {
	need.GVisor(t)
	facts, problems := gvisor.Check(t.Context(), gvisor.CheckConfig{RuntimeDir: need.RuntimeDir(t)})
	for _, p := range problems {
		t.Errorf("problem: %s", p)
	}
	names := map[string]string{}
	for _, f := range facts {
		names[f.Name] = f.Value
		t.Logf("%s: %s", f.Name, f.Value)
	}
	for _, name := range []string{"runsc", "containerd", "agent", "cgroups", "open files"} {
		if names[name] == "" {
			t.Errorf("nothing is said of %s", name)
		}
	}
	mustLeaveNoCheck(t)
}

func mustLeaveNoCheck(t *testing.T) {
	t.Helper()
	for _, pattern := range []string{"/sys/fs/cgroup/*/sandlot-check-*", "/sys/fs/cgroup/sandlot-check-*"} {
		if left, _ := filepath.Glob(pattern); len(left) > 0 {
			t.Errorf("left are %q", left)
		}
	}
}

func TestCheckMissesPrograms(t *testing.T) {
	_, problems := gvisor.Check(t.Context(), gvisor.CheckConfig{RuntimeDir: t.TempDir()})
	if !mentions(problems, "", "runsc") {
		t.Errorf("problems are %v", problems)
	}
}

// TestCheckMissesControllers hides one controller after the other under an
// empty file system, as a container or an operator may.
func TestCheckMissesControllers(t *testing.T) {
	need.Root(t)
	if _, err := os.Stat("/sys/fs/cgroup/pids"); err != nil {
		t.Skip("SKIPPED: this host has cgroup version 2, whose controllers cannot be hidden one by one")
	}
	for controller, limit := range map[string]string{
		"pids": "limits.pids", "memory": "limits.memory", "cpu": "limits.cpu", "cpuacct": "limits.cpu_time",
	} {
		t.Run(controller, func(t *testing.T) {
			problems := checkWithout(t, controller)
			if !mentions(problems, limit, controller) {
				t.Errorf("problems are %v", problems)
			}
			for _, p := range problems {
				if p.Limit != "" && p.Limit != limit {
					t.Errorf("also: %s", p)
				}
			}
			mustLeaveNoCheck(t)
		})
	}
}

func mentions(problems []gvisor.Problem, limit, word string) bool {
	for _, p := range problems {
		if p.Limit == limit && strings.Contains(p.What, word) && p.Fix != "" && strings.Contains(p.String(), p.What) {
			return true
		}
	}
	return false
}

// hideEnv names the controller that TestCheckHelper hides from itself.
const hideEnv = "TEST_HIDE_CONTROLLER"

// checkWithout runs Check in a process that cannot see a controller.
func checkWithout(t *testing.T, controller string) []gvisor.Problem {
	t.Helper()
	cmd := exec.Command(os.Args[0], "-test.run=^TestCheckHelper$")
	cmd.Env = append(os.Environ(), hideEnv+"="+controller, "SANDLOT_RUNTIME_DIR="+need.RuntimeDir(t))
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS}
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	line, _, _ := strings.Cut(string(out), "\n")
	var problems []gvisor.Problem
	if err := json.Unmarshal([]byte(line), &problems); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return problems
}

// TestCheckHelper is the other side of checkWithout and tests nothing itself.
func TestCheckHelper(t *testing.T) {
	controller := os.Getenv(hideEnv)
	if controller == "" {
		return
	}
	if err := syscall.Mount("none", "/sys/fs/cgroup/"+controller, "tmpfs", 0, ""); err != nil {
		t.Fatal(err)
	}
	_, problems := gvisor.Check(t.Context(), gvisor.CheckConfig{RuntimeDir: os.Getenv("SANDLOT_RUNTIME_DIR")})
	if err := json.NewEncoder(os.Stdout).Encode(problems); err != nil {
		t.Fatal(err)
	}
}
