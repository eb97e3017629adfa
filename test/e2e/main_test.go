// Package e2e tests the real program from the outside: processes, HTTP, real
// sandboxes, and faults that are caused instead of simulated.
package e2e

import (
	"fmt"
	"os"
	"strconv"
	"sync"
	"testing"

	"github.com/sandlot-dev/sandlot/pkg/api"
	"github.com/sandlot-dev/sandlot/test/need"
	"github.com/sandlot-dev/sandlot/test/testenv"
	"github.com/sandlot-dev/sandlot/worker/gvisor"
)

// binDir holds the program that the tests run; removed at the end.
var binDir string

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "sandlot-e2e-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	binDir = dir
	code := m.Run()
	_ = os.RemoveAll(dir)
	os.Exit(code)
}

var build = sync.OnceValues(func() (testenv.Program, error) { return testenv.Build(binDir) })

// program is the real sandlot, on a host that can run real sandboxes.
func program(t *testing.T) testenv.Program {
	t.Helper()
	need.GVisor(t)
	p, err := build()
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// prepare makes `up` have the image before their first job.
const prepare = "--prepare=busybox"

// count is a number that the environment may change: what is quick enough for
// every run by default, all of it for `make eval`.
func count(t *testing.T, variable string, standard int) int {
	t.Helper()
	text := os.Getenv(variable)
	if text == "" {
		return standard
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 {
		t.Fatalf("%s is %q; write a number", variable, text)
	}
	return n
}

// sh is a job that runs a shell script in the smallest image.
func sh(script string) api.Submit {
	return api.Submit{Image: "busybox", Command: []string{"sh", "-c", script}}
}

// instanceOf is the name that an instance's cgroups bear.
func instanceOf(dataDir string) string { return gvisor.InstanceName(dataDir) }
