package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// ownerEnv names the process that wants this shim, as "pid:start time". When
// that process ends, by whatever signal, so do the shim and its sandbox:
// nobody is left who would read a result or enforce a limit.
const ownerEnv = "SANDLOT_OWNER"

// endWithOwner returns at once and ends the process later. Without an owner it
// does nothing.
func endWithOwner(owner string) error {
	if owner == "" {
		return nil
	}
	name, start, ok := strings.Cut(owner, ":")
	pid, err := strconv.Atoi(name)
	if !ok || err != nil {
		return fmt.Errorf("%s=%q is not pid:start", ownerEnv, owner)
	}
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("watch owner: %w", err)
	}
	alive := err == nil
	// Read after the descriptor is open: it cannot become another's any more.
	if now, found := process(pid); !found || now.start != start {
		alive = false
	}
	go func() {
		for alive {
			_, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, -1)
			alive = errors.Is(err, unix.EINTR)
		}
		// Held to the end: nothing can be started behind the back of the search.
		syscall.ForkLock.Lock()
		killDescendants(os.Getpid())
		os.Exit(1)
	}()
	return nil
}

// killDescendants ends the sandbox and whatever else the shim started. It looks
// again until it has found nothing twice: the shim inherits orphans, and one
// that changes parents while it looks may be missed once.
func killDescendants(root int) {
	for empty := 0; empty < 2; {
		children := map[int][]int{}
		stats, _ := filepath.Glob("/proc/[0-9]*/stat")
		for _, path := range stats {
			pid, _ := strconv.Atoi(filepath.Base(filepath.Dir(path)))
			if p, found := process(pid); found && p.state != "Z" {
				children[p.parent] = append(children[p.parent], pid)
			}
		}
		killed := 0
		for queue := []int{root}; len(queue) > 0; queue = queue[1:] {
			for _, pid := range children[queue[0]] {
				if unix.Kill(pid, unix.SIGKILL) == nil {
					killed++
				}
				queue = append(queue, pid)
			}
		}
		if empty++; killed > 0 {
			empty = 0
		}
	}
}

type stat struct {
	state  string
	parent int
	start  string
}

// process reads what /proc/PID/stat tells about a process.
func process(pid int) (stat, bool) {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return stat{}, false
	}
	// The name in parentheses may hold anything, spaces and parentheses too.
	fields := strings.Fields(string(data[strings.LastIndexByte(string(data), ')')+1:]))
	if len(fields) < 20 {
		return stat{}, false
	}
	parent, _ := strconv.Atoi(fields[1])
	return stat{state: fields[0], parent: parent, start: fields[19]}, true
}
