package gvisor_test

import (
	"bytes"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// containerdPid finds the managed containerd of a data directory.
func containerdPid(t *testing.T, dir string) int {
	t.Helper()
	paths, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, path := range paths {
		line, _ := os.ReadFile(path)
		if bytes.HasSuffix(line, []byte("--config\x00"+filepath.Join(dir, "worker/containerd.toml")+"\x00")) {
			pid, _ := strconv.Atoi(filepath.Base(filepath.Dir(path)))
			return pid
		}
	}
	t.Fatal("containerd does not run")
	return 0
}

// watch returns a function that fails unless the process ends in time. It must
// be called while the process lives.
func watch(t *testing.T, pid int) func(time.Duration) {
	t.Helper()
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		t.Fatalf("watch process %d: %v", pid, err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	return func(limit time.Duration) {
		t.Helper()
		fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
		for deadline := time.Now().Add(limit); ; {
			n, err := unix.Poll(fds, int(time.Until(deadline).Milliseconds()))
			if err == unix.EINTR {
				continue
			}
			if n == 0 || err != nil {
				t.Errorf("process %d still runs after %v", pid, limit)
			}
			return
		}
	}
}
