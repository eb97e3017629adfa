package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"

	"github.com/sandlot-dev/sandlot/pkg/image"
	"github.com/sandlot-dev/sandlot/worker/gvisor"
)

// ctrRun is `ctr run` against a containerd of its own.
type ctrRun struct {
	containerd *gvisor.Containerd
	ctr        string
	env        []string
	images     map[string]string
	runs       atomic.Int64
}

func startCtr(ctx context.Context, sandlot, dir string) (contender, error) {
	programsDir := filepath.Dir(sandlot)
	binaries, err := gvisor.FindBinaries(programsDir)
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	containerd, err := gvisor.StartContainerd(ctx, gvisor.ContainerdConfig{
		Dir: dir, Binaries: binaries, RunscFlags: gvisor.RunscFlags(),
		Logger: slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelError})),
	})
	if err != nil {
		return nil, err
	}
	c := &ctrRun{containerd: containerd, ctr: binaries.Ctr, images: map[string]string{}}
	c.env = append(os.Environ(), "CONTAINERD_ADDRESS="+containerd.Address(), "CONTAINERD_NAMESPACE="+gvisor.Namespace)
	for _, p := range programs {
		if err := c.load(ctx, p.image, binaries.Runsc, dir); err != nil {
			return nil, errors.Join(err, c.close())
		}
	}
	return c, nil
}

func (c *ctrRun) load(ctx context.Context, name, runsc, dir string) error {
	archive, err := archiveOf(ctx, name, runsc)
	if err != nil {
		return err
	}
	file := filepath.Join(dir, name+".tar")
	if err := save(archive, file); err != nil {
		return err
	}
	base := "bench.invalid/" + name
	c.images[name] = base + "@" + archive.Digest
	_, err = c.do(ctx, "images", "import", "--local", "--base-name", base, "--digests", "--snapshotter", "overlayfs", file)
	return err
}

func (c *ctrRun) once(ctx context.Context, p program) error {
	id := fmt.Sprintf("bench-%d", c.runs.Add(1))
	// gVisor's shim gives a task its output only with this annotation.
	args := append([]string{
		"run", "--rm", "--runtime", gvisor.RuntimeName, "--runtime-config-path", c.containerd.RuntimeOptions().ConfigPath,
		"--annotation", "io.kubernetes.cri.container-type=sandbox", "--snapshotter", "overlayfs",
		"--fifo-dir", c.containerd.FIFODir(), "--cgroup", c.containerd.Cgroups().SpecPath(id), c.images[p.image], id,
	}, p.command...)
	output, err := c.do(ctx, args...)
	// The shim reports 128 for programs that end before it looks.
	if exit, ok := errors.AsType[*exec.ExitError](err); ok && exit.ExitCode() == 128 {
		err = nil
	}
	if err == nil && output != p.output {
		err = fmt.Errorf("the output is %q", output)
	}
	return err
}

func (c *ctrRun) do(ctx context.Context, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, c.ctr, args...)
	cmd.Env = c.env
	var stdout, stderr strings.Builder
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return stdout.String(), fmt.Errorf("ctr %s: %w: %s", args[0], err, strings.TrimSpace(stderr.String()))
	}
	return stdout.String(), nil
}

func (c *ctrRun) close() error { return c.containerd.Close() }

// archiveOf takes the image that sandlot runs, too, from the same cache.
func archiveOf(ctx context.Context, name, runsc string) (image.Archive, error) {
	cache, err := os.UserCacheDir()
	if err != nil {
		return image.Archive{}, err
	}
	builder := &image.Builder{CacheDir: filepath.Join(cache, "sandlot", "images"), Runsc: runsc, Install: true}
	return builder.Prepare(ctx, name)
}

func save(archive image.Archive, path string) error {
	body, err := archive.Reader()
	if err != nil {
		return err
	}
	defer body.Close()
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	_, err = io.Copy(f, body)
	return errors.Join(err, f.Close())
}
