package main

import (
	"fmt"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/sandlot-dev/sandlot/pkg/frame"
)

// setLimits gives the agent the limits that its next child is to inherit: there is no way to set them for the child
// alone, short of one more program between the two. The function it returns gives the agent its own back.
func setLimits(limits []frame.Limit) (restore func(), err error) {
	var undo []func()
	restore = func() {
		for _, u := range undo {
			u()
		}
	}
	for _, l := range limits {
		if !harmless(int(l.Resource)) {
			restore()
			return nil, fmt.Errorf("set limit %d: not one that an agent can lend", l.Resource)
		}
		value := forKernel(l)
		var old unix.Rlimit
		err := unix.Prlimit(0, int(l.Resource), &unix.Rlimit{Cur: value, Max: value}, &old)
		if err != nil {
			restore()
			return nil, fmt.Errorf("set limit %d to %d: %w", l.Resource, value, err)
		}
		undo = append(undo, func() {
			if err := unix.Prlimit(0, int(l.Resource), &old, nil); err != nil {
				// Outside of gVisor, without CAP_SYS_RESOURCE: later steps cannot have more than this one.
				complain("give limit %d back: %v", l.Resource, err)
			}
		})
	}
	return restore, nil
}

// harmless tells the limits that the agent itself does not feel in the moment that it has them. Memory and CPU time
// are not among them, and are the worker's to judge.
func harmless(resource int) bool {
	switch resource {
	case unix.RLIMIT_CORE, unix.RLIMIT_NOFILE, unix.RLIMIT_NPROC, unix.RLIMIT_FSIZE, unix.RLIMIT_STACK, unix.RLIMIT_MEMLOCK:
		return true
	}
	return false
}

// forKernel corrects the number of processes for gVisor, which goes on counting the program under the user that
// forked it, root, and only its children under the job's: N of them would make N + 1.
func forKernel(l frame.Limit) uint64 {
	if l.Resource != unix.RLIMIT_NPROC || l.Value == 0 {
		return l.Value
	}
	if release, _ := uname(); strings.HasSuffix(release, "gvisor") {
		return l.Value - 1
	}
	return l.Value
}
