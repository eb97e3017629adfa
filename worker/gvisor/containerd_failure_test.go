package gvisor_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/sandlot-dev/sandlot/test/need"
	"github.com/sandlot-dev/sandlot/worker/gvisor"
)

// script writes a program that stands in for containerd.
func script(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "containerd")
	if err := os.WriteFile(path, []byte("#!/bin/sh\n"+text), 0o755); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestContainerdThatDoesNotStartIsAnErrorWithoutTraces(t *testing.T) {
	need.GVisor(t)
	for name, text := range map[string]string{
		"it ends at once":     "exit 3",
		"it is never ready":   "exec sleep 1000",
		"it cannot be killed": "trap '' TERM; while :; do sleep 1000; done",
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			before := traces(t, dir)
			settings := config(t, dir)
			settings.Binaries.Containerd = script(t, text)
			// Longer than any start takes to become hopeless or to hang.
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			if _, err := gvisor.StartContainerd(ctx, settings); err == nil {
				t.Fatal("started")
			}
			if after := traces(t, dir); !slices.Equal(before, after) {
				t.Errorf("left behind:\n%s", strings.Join(after, "\n"))
			}
		})
	}
}

func TestContainerdThatKeepsDyingIsGivenUp(t *testing.T) {
	need.GVisor(t)
	dir := t.TempDir()
	settings := config(t, dir)
	once := filepath.Join(t.TempDir(), "once")
	settings.Binaries.Containerd = script(t, fmt.Sprintf(
		"[ -e %[1]s ] && exit 1\n: >%[1]s\nexec %s \"$@\"\n", once, settings.Binaries.Containerd))
	c, err := gvisor.StartContainerd(t.Context(), settings)
	if err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(containerdPid(t, dir), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	wait(t, c.Done(), "end of supervision")
	if c.Err() == nil {
		t.Error("supervision ended without an error")
	}
	if err := c.Ready(t.Context()); err == nil {
		t.Error("ready, with no containerd")
	}
	if err := c.Close(); err != nil {
		t.Errorf("close: %v", err)
	}
}

func TestContainerdIsNotBoundByTheWorkersUmask(t *testing.T) {
	need.GVisor(t)
	defer syscall.Umask(syscall.Umask(0o077))
	dir := t.TempDir()
	start(t, dir)
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", containerdPid(t, dir)))
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(status), "Umask:\t0022\n") {
		t.Errorf("containerd's status:\n%s", status)
	}
	if mine := syscall.Umask(0o077); mine != 0o077 {
		t.Errorf("the worker's own umask became %o", mine)
	}
}
