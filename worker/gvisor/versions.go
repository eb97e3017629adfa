package gvisor

import (
	"context"
	"fmt"
	"os/exec"
	"strings"
	"time"
)

// versionOf asks a program for its version. It understands what runsc and
// containerd answer.
func versionOf(ctx context.Context, program string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, program, "--version")
	cmd.Env = []string{}
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("version of %s: %w", program, err)
	}
	return parseVersion(string(out)), nil
}

// parseVersion finds the version in "runsc version X" and in
// "containerd github.com/containerd/containerd/v2 X revision".
func parseVersion(text string) string {
	line, _, _ := strings.Cut(strings.TrimSpace(text), "\n")
	fields := strings.Fields(line)
	if len(fields) < 3 {
		return line
	}
	return strings.TrimPrefix(fields[2], "release-")
}
