package gvisor_test

import (
	"io/fs"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sandlot-dev/sandlot/pkg/job"
	"github.com/sandlot-dev/sandlot/worker/sandboxtest"
)

// nodeJob is a program whose code alone is larger than a small memory limit.
func nodeJob(image job.Image, memory job.Bytes) job.Spec {
	spec := sandboxtest.Sh(image, "")
	spec.Steps[0].Command = []string{"node", "-e", "console.log([1, 2, 3].map(x => x * 2).join())"}
	spec.Limits = job.Limits{Memory: memory, Wall: 30_000}.Filled()
	return spec
}

// TestThrashingIsOutOfMemory takes the image out of the page cache, so that
// its pages are charged to the job: the job then drops and reads its own code
// for ever.
func TestThrashingIsOutOfMemory(t *testing.T) {
	h := open(t)
	image := h.image(t, "node")
	if a := sandboxtest.Must(t, h.runtime, nodeJob(image, 512*job.MiB)); a.Stdout(0) != "2,4,6\n" {
		t.Fatalf("node says %q, %q", a.Stdout(0), a.Stderr(0))
	}
	h.dropImages(t)
	start := time.Now()
	a := sandboxtest.Must(t, h.runtime, nodeJob(image, 4*job.MiB))
	t.Logf("%s after %v: %+v", a.Verdict(), time.Since(start), a.Seen)
	a.Want(t, "failed limit out_of_memory")
	if took := time.Since(start); took > 15*time.Second {
		t.Errorf("it took %v, the wall limit is 30 s", took)
	}
	h.mustBeClean(t)
}

// TestImageCacheIsTheWorkers runs the same program with little memory while
// its image is in the cache, where the worker has put it.
func TestImageCacheIsTheWorkers(t *testing.T) {
	h := open(t)
	a := sandboxtest.Must(t, h.runtime, nodeJob(h.image(t, "node"), 48*job.MiB))
	t.Logf("%+v", a.Seen)
	a.Want(t, "succeeded none exited")
}

// dropImages takes all image files out of the page cache.
func (h *host) dropImages(t *testing.T) {
	t.Helper()
	unix.Sync() // pages that are not on disk yet cannot be dropped
	drop := func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		f, err := os.Open(path)
		if err != nil {
			return err
		}
		defer f.Close()
		return unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED)
	}
	for _, place := range []string{"containerd", "erofs"} {
		if err := filepath.WalkDir(filepath.Join(h.dir, "worker", place), drop); err != nil {
			t.Fatal(err)
		}
	}
}
