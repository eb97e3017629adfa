package main

import (
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// watch ends the sandbox when the worker is silent for that long in the middle of a step. It counts ticks instead of
// comparing clocks: neither a jump of the clock nor a starved agent may look like silence, and what waits unread in
// the channel is not silence either.
func (a *agent) watch(silence time.Duration) {
	const ticks = 5
	missed := 0
	for range time.Tick(silence / ticks) {
		if a.heard.Swap(false) || !a.isBusy() {
			missed = 0
			continue
		}
		missed++
		if missed >= ticks && !a.inputWaits() {
			complain("worker is silent for %v", silence)
			os.Exit(exitSilence)
		}
	}
}

func (a *agent) isBusy() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.busy
}

func (a *agent) inputWaits() bool {
	fds := []unix.PollFd{{Fd: 0, Events: unix.POLLIN}}
	n, err := unix.Poll(fds, 0)
	return err == nil && n > 0
}
