package image

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// fixUpTime bounds the steps of a recipe.
const fixUpTime = 20 * time.Minute

// fixUp runs the script and the recipe's last steps on the tree. They are code
// from packages, so they run in gVisor with the tree as writable root, without
// network, and nothing of them on the host.
func (b Builder) fixUp(ctx context.Context, c Catalogue, r Recipe, stage, tree string) error {
	ctx, cancel := context.WithTimeoutCause(ctx, fixUpTime, errors.New("the recipe's steps took too long"))
	defer cancel()
	bundle := filepath.Join(stage, "bundle")
	if err := writeBundle(bundle, fixUpSpec(c, r, tree)); err != nil {
		return err
	}
	var output bytes.Buffer
	// Without overlay2=none the changes would stay in the sandbox's memory.
	cmd := isolated(ctx, []string{
		b.Runsc, "--root=" + filepath.Join(stage, "state"), "--rootless=false", "--network=none",
		"--ignore-cgroups", "--overlay2=none", "run", "--bundle=" + bundle, "fixup",
	})
	// runsc needs pipes: a buffer is fed by one.
	cmd.Stdout, cmd.Stderr = &output, &output
	if err := run(ctx, cmd); err != nil {
		return fmt.Errorf("fix up tree: %w\n\t%s", err, lastLines(output.String(), 12))
	}
	return nil
}

func writeBundle(dir string, spec specs.Spec) error {
	text, err := json.Marshal(spec)
	if err != nil {
		return fmt.Errorf("write sandbox configuration: %w", err)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("write sandbox configuration: %w", err)
	}
	if err := os.WriteFile(filepath.Join(dir, "config.json"), text, 0o600); err != nil {
		return fmt.Errorf("write sandbox configuration: %w", err)
	}
	return nil
}

func fixUpSpec(c Catalogue, r Recipe, tree string) specs.Spec {
	var links strings.Builder
	for _, path := range slices.Sorted(maps.Keys(r.Links)) {
		fmt.Fprintf(&links, "%s %s\n", path, r.Links[path])
	}
	caps := []string{"CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FOWNER", "CAP_FSETID"}
	return specs.Spec{
		Version: specs.Version,
		Root:    &specs.Root{Path: tree},
		Process: &specs.Process{
			Args: []string{"/usr/bin/busybox", "sh", "-c", c.script},
			Env: append(environment(r),
				"HOME=/root", "SOURCE_DATE_EPOCH="+epochSeconds(),
				"LINKS="+links.String(), "POST="+strings.Join(r.Post, "\n")),
			Cwd:             "/",
			Capabilities:    &specs.LinuxCapabilities{Bounding: caps, Effective: caps, Permitted: caps},
			NoNewPrivileges: true,
		},
		Hostname: "build",
		Mounts: []specs.Mount{
			{Destination: "/proc", Type: "proc", Source: "proc"},
			{Destination: "/tmp", Type: "tmpfs", Source: "tmpfs"},
		},
		Linux: &specs.Linux{Namespaces: []specs.LinuxNamespace{
			{Type: specs.PIDNamespace}, {Type: specs.MountNamespace}, {Type: specs.IPCNamespace},
			{Type: specs.UTSNamespace}, {Type: specs.NetworkNamespace},
		}},
	}
}

func lastLines(text string, n int) string {
	lines := strings.Split(strings.TrimSpace(text), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "\n\t")
}
