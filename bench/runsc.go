package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"github.com/sandlot-dev/sandlot/worker/gvisor"
)

// runscRun is `runsc run` on unpacked images, one bundle per program.
type runscRun struct {
	runsc, dir string
	runs       atomic.Int64
}

func startRunsc(ctx context.Context, sandlot, dir string) (contender, error) {
	binaries, err := gvisor.FindBinaries(filepath.Dir(sandlot))
	if err != nil {
		return nil, err
	}
	r := &runscRun{runsc: binaries.Runsc, dir: dir}
	for _, p := range programs {
		if err := r.bundle(ctx, p); err != nil {
			return nil, fmt.Errorf("bundle of %s: %w", p.name, err)
		}
	}
	return r, nil
}

func (r *runscRun) bundle(ctx context.Context, p program) error {
	rootfs := filepath.Join(r.dir, p.name, "rootfs")
	if err := os.MkdirAll(rootfs, 0o755); err != nil {
		return err
	}
	archive, err := archiveOf(ctx, p.image, r.runsc)
	if err != nil {
		return err
	}
	if err := unpack(archive, rootfs); err != nil {
		return err
	}
	namespaces := []map[string]string{}
	for _, kind := range []string{"pid", "ipc", "uts", "mount", "network"} {
		namespaces = append(namespaces, map[string]string{"type": kind})
	}
	spec, err := json.Marshal(map[string]any{
		"ociVersion": "1.0.2",
		"process": map[string]any{
			"args": p.command, "cwd": "/", "env": []string{"PATH=/usr/local/bin:/usr/bin:/bin"},
			"user": map[string]int{"uid": 1000, "gid": 1000}, "noNewPrivileges": true,
		},
		"root":   map[string]any{"path": "rootfs", "readonly": true},
		"mounts": []map[string]string{{"destination": "/proc", "type": "proc", "source": "proc"}},
		"linux":  map[string]any{"namespaces": namespaces},
	})
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(r.dir, p.name, "config.json"), spec, 0o644)
}

func (r *runscRun) once(ctx context.Context, p program) error {
	cmd := exec.CommandContext(ctx, r.runsc, "--root", filepath.Join(r.dir, "state"), "--network=none", "--ignore-cgroups",
		"run", "--bundle", filepath.Join(r.dir, p.name), fmt.Sprintf("bench-%d", r.runs.Add(1)))
	var stdout, stderr strings.Builder
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("runsc run: %w: %s", err, strings.TrimSpace(stderr.String()))
	}
	if stdout.String() != p.output {
		return fmt.Errorf("the output is %q", stdout.String())
	}
	return nil
}

// close unmounts the network namespace that runsc keeps for its sandboxes.
func (r *runscRun) close() error {
	err := unix.Unmount(filepath.Join(r.dir, "state", "null-netns"), unix.MNT_DETACH)
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.EINVAL) {
		return nil
	}
	return err
}
