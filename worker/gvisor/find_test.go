package gvisor_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/sandlot-dev/sandlot/worker/gvisor"
)

func TestFindBinariesNamesAllThatIsMissing(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"containerd", "ctr", "runsc"} {
		if err := os.WriteFile(filepath.Join(dir, name), nil, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	// Not executable: as good as missing.
	if err := os.WriteFile(filepath.Join(dir, "sandlot-agent"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	_, err := gvisor.FindBinaries(dir)
	if !errors.Is(err, gvisor.ErrNoRuntime) {
		t.Fatalf("got %v, want ErrNoRuntime", err)
	}
	if want := "containerd-shim-runsc-v1, sandlot-agent not in " + dir; !strings.Contains(err.Error(), want) {
		t.Errorf("%q does not say %q", err, want)
	}
	for _, name := range []string{"containerd-shim-runsc-v1", "sandlot-agent"} {
		path := filepath.Join(dir, name)
		if err := errors.Join(os.RemoveAll(path), os.WriteFile(path, nil, 0o755)); err != nil {
			t.Fatal(err)
		}
	}
	found, err := gvisor.FindBinaries(dir)
	if err != nil || found.Agent != filepath.Join(dir, "sandlot-agent") {
		t.Errorf("got %+v, %v", found, err)
	}
}
