package gvisor_test

import (
	"os"
	"path/filepath"
	"regexp"
	"testing"
	"time"

	"github.com/sandlot-dev/sandlot/worker/gvisor"
	"github.com/sandlot-dev/sandlot/worker/sandboxtest"
)

// TestSandboxesStartAccelerated reads in gVisor's own log of a sandbox that
// the programs which make starts cheap were in use, not only installed.
func TestSandboxesStartAccelerated(t *testing.T) {
	for _, c := range []gvisor.Choice{gvisor.Stock, gvisor.Resident} {
		t.Run(string(c), func(t *testing.T) { testAccelerated(t, c) })
	}
}

func testAccelerated(t *testing.T, c gvisor.Choice) {
	logs := t.TempDir()
	h := openWith(t, &host{choice: c, flags: map[string]string{"debug": "true", "debug-log": logs + "/"}})
	sandboxtest.Must(t, h.runtime, sandboxtest.Sh(h.image(t, "busybox"), "echo hello"))
	var text []byte
	files, _ := filepath.Glob(filepath.Join(logs, "*"))
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		text = append(text, data...)
	}
	if len(files) == 0 {
		t.Fatal("gVisor wrote no log: the test proves nothing")
	}
	if regexp.MustCompile(`No precompiled program found`).Match(text) || !regexp.MustCompile(`Loaded precompiled seccomp instructions for options [^\n]*Platform="systrap"`).Match(text) {
		t.Error("seccomp programs were compiled at the start of the sandbox")
	}
	remapped := regexp.MustCompile(`Remapped stdio FDs to \[\d+, \d+\] in (\S+)`).FindSubmatch(text)
	if remapped == nil {
		t.Fatal("the log does not say how long the remap of standard files took")
	}
	if took, err := time.ParseDuration(string(remapped[1])); err != nil || took > 2*time.Millisecond {
		t.Errorf("the sentry's table of files had to grow: %s, %v", remapped[1], err)
	}
}
