package gvisor_test

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/sandlot-dev/sandlot/pkg/image"
	"github.com/sandlot-dev/sandlot/pkg/job"
	"github.com/sandlot-dev/sandlot/test/need"
	"github.com/sandlot-dev/sandlot/worker/gvisor"
)

// host is a managed containerd with a runtime on it.
type host struct {
	dir        string
	containerd *gvisor.Containerd
	runtime    *gvisor.Runtime
	archives   map[string]image.Archive // by digest
	fetched    atomic.Int32
	override   io.Reader         // what fetch gives instead
	flags      map[string]string // of runsc, beside the usual ones
	plain      bool              // roots are directories
	choice     gvisor.Choice
	spares     int
	stopSpares func() // and wait until they are gone
}

func open(t testing.TB) *host {
	t.Helper()
	return openWith(t, &host{choice: choice()})
}

// openWith begins with some fields given.
func openWith(t testing.TB, h *host) *host {
	t.Helper()
	h.dir, h.archives = shortDir(t), map[string]image.Archive{}
	if h.choice == "" {
		h.choice = choice()
	}
	h.start(t)
	return h
}

// choice is the runtime of all tests that do not choose one themselves.
func choice() gvisor.Choice {
	if c := gvisor.Choice(os.Getenv("SANDLOT_RUNTIME")); c != "" {
		return c
	}
	return gvisor.Resident
}

// onBoth runs a test with either runtime.
func onBoth(t *testing.T, test func(t *testing.T, h *host)) {
	for _, c := range []gvisor.Choice{gvisor.Stock, gvisor.Resident} {
		t.Run(string(c), func(t *testing.T) { test(t, openWith(t, &host{choice: c})) })
	}
}

// start begins a life of the host.
func (h *host) start(t testing.TB) {
	t.Helper()
	binaries := need.GVisor(t)
	if _, why := h.choice.On(binaries, ""); why != nil {
		t.Fatal(why)
	}
	logger := slog.New(slog.NewTextHandler(t.Output(), nil))
	flags := gvisor.RunscFlags()
	maps.Copy(flags, h.flags)
	started, err := gvisor.StartContainerd(t.Context(), gvisor.ContainerdConfig{
		Dir: h.dir, Binaries: binaries, RunscFlags: flags, Logger: logger, Resident: h.choice == gvisor.Resident,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := started.Close(); err != nil {
			t.Errorf("close containerd: %v", err)
		}
	})
	h.containerd = started
	h.runtime, err = gvisor.New(t.Context(), gvisor.Config{
		Containerd: started, Binaries: binaries, FetchArchive: h.fetch, Logger: logger, Directories: h.plain, Spares: h.spares,
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	runtime := h.runtime // another life has another one
	running.Go(func() { _ = runtime.Run(ctx) })
	h.stopSpares = func() { cancel(); running.Wait() }
	t.Cleanup(h.stopSpares)
}

func (h *host) fetch(_ context.Context, digest string) (io.ReadCloser, error) {
	h.fetched.Add(1)
	if closer, ok := h.override.(io.ReadCloser); ok {
		return closer, nil
	}
	if h.override != nil {
		return io.NopCloser(h.override), nil
	}
	archive, ok := h.archives[digest]
	if !ok {
		return nil, job.ErrNotFound
	}
	return archive.Reader()
}

// image makes a catalogue image known to the host.
func (h *host) image(t testing.TB, name string) job.Image {
	t.Helper()
	archive := need.Images(t, name)[0]
	h.archives[archive.Digest] = archive
	return job.Image{Name: name, Digest: archive.Digest}
}

// shortDir is a temporary directory whose sockets' paths are not too long.
func shortDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("/tmp", "sl")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// mustBeClean fails the test when something of a sandbox is left.
func (h *host) mustBeClean(t *testing.T) {
	t.Helper()
	left, err := h.containerd.Client().Containers(t.Context())
	if err != nil || len(left) > 0 {
		t.Errorf("%d containers are left, error %v", len(left), err)
	}
	for _, controller := range []string{"memory", "pids", "cpu", "cpuacct", "cpuset", "freezer", "devices", "blkio", "systemd"} {
		dir := h.containerd.Cgroups().Dir(controller, "")
		if dir == "" {
			continue
		}
		entries, err := os.ReadDir(dir)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			t.Error(err)
		}
		for _, e := range entries {
			if e.IsDir() && e.Name() != "runtime" && e.Name() != "worker" {
				t.Errorf("cgroup %s is left", filepath.Join(dir, e.Name()))
			}
		}
	}
	for _, pattern := range []string{h.containerd.FIFODir() + "/*", h.dir + "/worker/state/*/sandlot/*", h.dir + "/run/r/sandlot/*", h.dir + "/run/s/*"} {
		if found, _ := filepath.Glob(pattern); len(found) > 0 && filepath.Base(found[0]) != "null-netns" {
			t.Errorf("left are %q", found)
		}
	}
}
