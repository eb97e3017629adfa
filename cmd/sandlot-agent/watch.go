package main

import (
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// watch ends the sandbox when the worker is silent for too long before over is closed. It counts ticks instead of
// comparing clocks: neither a jump of the clock nor a starved agent may look like silence, and what waits unread in
// the channel is not silence either.
func (a *agent) watch(over <-chan struct{}) {
	const ticks = 10
	silence := time.Duration(a.settings.SilenceMS) * time.Millisecond
	tick := time.NewTicker(silence / ticks)
	defer tick.Stop()
	for missed := 0; ; {
		select {
		case <-over:
			return
		case <-tick.C:
		}
		missed++
		if a.heard.Swap(false) {
			missed = 0
		}
		if missed >= ticks && !inputWaits() {
			complain("worker is silent for %v", silence)
			os.Exit(exitSilence)
		}
	}
}

// inputWaits looks into the channel, which is descriptor 0.
func inputWaits() bool {
	fds := []unix.PollFd{{Fd: 0, Events: unix.POLLIN}}
	n, err := unix.Poll(fds, 0)
	return err == nil && n > 0
}
