package gvisor

import (
	"time"

	"github.com/sandlot-dev/sandlot/pkg/job"
)

const (
	// thrashWindow is the time over which refaults are counted.
	thrashWindow = 250 * time.Millisecond
	// thrashWindows is how many of them in a row are needed.
	thrashWindows = 2
	// thrashRate is how many pages of files a sandbox reads again in a second
	// of a processor, when it does nothing else any more. One that runs well
	// has a tenth of it in its whole life.
	thrashRate = 100_000
	// leastShare is the share of a processor that is assumed of a sandbox that
	// got less, because it has to wait for others or for the disk.
	leastShare = 0.2
)

// thrash recognises a sandbox that has too little memory for its own program:
// the kernel drops pages of its files and reads them again for ever instead of
// killing it. It looks like a program that is slow.
type thrash struct {
	limit job.Bytes

	since    time.Time
	cpu      time.Duration
	refaults int64
	windows  int
	highest  int64
}

// due tells whether it is time for the next reading.
func (t *thrash) due(now time.Time) bool {
	return t.since.IsZero() || now.Sub(t.since) >= thrashWindow
}

// see takes one reading that was due, and reports whether the sandbox thrashes.
func (t *thrash) see(now time.Time, cpu time.Duration, m memory) bool {
	first, passed := t.since.IsZero(), now.Sub(t.since)
	rate := float64(m.refaults-t.refaults) / passed.Seconds()
	share := min(1, max(leastShare, float64(cpu-t.cpu)/float64(passed)))
	t.since, t.cpu, t.refaults = now, cpu, m.refaults
	if first {
		return false
	}
	t.highest = max(t.highest, int64(rate))
	if rate < thrashRate*share || m.usage < t.limit/20*19 {
		t.windows = 0
		return false
	}
	t.windows++
	return t.windows >= thrashWindows
}
