package gvisor_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/containerd/v2/core/mount"
	"golang.org/x/sys/unix"

	"github.com/sandlot-dev/sandlot/test/need"
	"github.com/sandlot-dev/sandlot/worker/gvisor"
)

// TestLayersBecomeOneFile makes one EROFS file of two layers, of which the
// upper hides a file of the lower and replaces another, and leaves no mount.
func TestLayersBecomeOneFile(t *testing.T) {
	need.GVisor(t) // mounts, as a worker does
	lower, upper, dir := t.TempDir(), t.TempDir(), t.TempDir()
	for path, text := range map[string]string{
		filepath.Join(lower, "kept"): "lower", filepath.Join(lower, "hidden"): "lower",
		filepath.Join(lower, "replaced"): "lower", filepath.Join(upper, "replaced"): "upper",
	} {
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := unix.Mknod(filepath.Join(upper, "hidden"), unix.S_IFCHR, 0); err != nil { // a whiteout
		t.Fatal(err)
	}
	store, err := gvisor.OpenErofs(dir)
	if err != nil {
		t.Fatal(err)
	}
	layers := []mount.Mount{{Type: "overlay", Source: "overlay", Options: []string{"lowerdir=" + upper + ":" + lower}}}
	file, err := gvisor.ErofsFile(store, t.Context(), "two", layers)
	if err != nil {
		t.Fatal(err)
	}

	out := filepath.Join(t.TempDir(), "out")
	if said, err := exec.CommandContext(t.Context(), "fsck.erofs", "--extract="+out, file).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, said)
	}
	for name, want := range map[string]string{"kept": "lower", "replaced": "upper"} {
		if got, err := os.ReadFile(filepath.Join(out, name)); err != nil || string(got) != want {
			t.Errorf("%s holds %q, %v; want %q", name, got, err, want)
		}
	}
	if _, err := os.Lstat(filepath.Join(out, "hidden")); err == nil {
		t.Error("a file that the upper layer hides is there")
	}
	if mounts, err := os.ReadFile("/proc/self/mountinfo"); err != nil || strings.Contains(string(mounts), dir) {
		t.Errorf("something is mounted below %s: %v", dir, err)
	}
	if left, _ := filepath.Glob(filepath.Join(dir, "*")); len(left) != 1 {
		t.Errorf("the store holds %q, want the file alone", left)
	}
}
