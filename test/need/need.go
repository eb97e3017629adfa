// Package need says what a test needs of the host it runs on.
//
// A test that needs what is not there is skipped, and says so. It fails
// instead when the need is named in $SANDLOT_REQUIRE, a list of words with
// commas: gvisor, containerd, images, nats, disk. CI sets all of them, so that nothing is
// skipped there.
package need

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/sandlot-dev/sandlot/worker/gvisor"
)

// missing skips the test, or fails it where the word is required.
func missing(t testing.TB, word, format string, args ...any) {
	t.Helper()
	required := strings.FieldsFunc(os.Getenv("SANDLOT_REQUIRE"), func(r rune) bool { return r == ',' || r == ' ' })
	if slices.Contains(required, word) {
		t.Fatalf("SANDLOT_REQUIRE has "+word+", but "+format, args...)
	}
	t.Skipf("SKIPPED for want of "+word+": "+format, args...)
}

// Root skips a test that only root can run.
func Root(t testing.TB) {
	t.Helper()
	root(t, "gvisor")
}

// Disk skips a test that makes disks of its own: as root, with FUSE, a loop
// device and ext4.
func Disk(t testing.TB) {
	t.Helper()
	root(t, "disk")
	for _, path := range []string{"/dev/fuse", "/dev/loop-control"} {
		if _, err := os.Stat(path); err != nil {
			missing(t, "disk", "%v", err)
		}
	}
	for _, program := range []string{"losetup", "mkfs.ext4", "mount", "umount"} {
		if _, err := exec.LookPath(program); err != nil {
			missing(t, "disk", "%v", err)
		}
	}
}

func root(t testing.TB, word string) {
	t.Helper()
	if os.Geteuid() != 0 {
		missing(t, word, "this test runs as user %d, not as root", os.Geteuid())
	}
}

// GVisor returns the programs of the runtime, on a host where they work.
func GVisor(t testing.TB) gvisor.Binaries {
	t.Helper()
	return binaries(t, "gvisor")
}

// Containerd is GVisor for a test that starts containerd and no sandbox.
func Containerd(t testing.TB) gvisor.Binaries {
	t.Helper()
	return binaries(t, "containerd")
}

func binaries(t testing.TB, word string) gvisor.Binaries {
	t.Helper()
	root(t, word)
	found, err := gvisor.FindBinaries(RuntimeDir(t))
	if err != nil {
		missing(t, word, "%v", err)
	}
	return found
}

// NATSServer returns the path of nats-server, for a test that needs NATS as a
// process of its own or several of them.
func NATSServer(t testing.TB) string {
	t.Helper()
	path := filepath.Join(RuntimeDir(t), "nats-server")
	if _, err := os.Stat(path); err != nil {
		missing(t, "nats", "%v; make runtime builds it", err)
	}
	return path
}

// RuntimeDir is where the programs of the runtime are looked for:
// $SANDLOT_RUNTIME_DIR, else bin/ of this module.
func RuntimeDir(t testing.TB) string {
	t.Helper()
	if dir := os.Getenv("SANDLOT_RUNTIME_DIR"); dir != "" {
		return dir
	}
	return filepath.Join(moduleRoot(t), "bin")
}

// moduleRoot is the nearest directory above the test with a go.mod.
func moduleRoot(t testing.TB) string {
	t.Helper()
	dir, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	for {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir
		}
		if dir == filepath.Dir(dir) {
			t.Fatal("the test runs outside of a module")
		}
		dir = filepath.Dir(dir)
	}
}
