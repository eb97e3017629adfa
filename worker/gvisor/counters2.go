package gvisor

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/sandlot-dev/sandlot/pkg/job"
)

// counters2 are those of cgroup version 2: one directory for everything.
type counters2 struct{ dir string }

func newCounters2(dir string) (counters, error) {
	if dir == "" {
		return nil, fmt.Errorf("cgroup: %w", errAbsent)
	}
	return counters2{dir}, nil
}

func (c counters2) cpu() (time.Duration, error) {
	stat, err := readKeys(c.dir, "cpu.stat", "usage_usec")
	if err != nil {
		return 0, err
	}
	return time.Duration(stat[0]) * time.Microsecond, nil
}

func (c counters2) memory() (memory, error) {
	usage, err1 := readInt(c.dir, "memory.current")
	peak, err2 := readInt(c.dir, "memory.peak")
	if errors.Is(err2, fs.ErrNotExist) {
		peak, err2 = usage, nil // before Linux 5.19: the highest reading stands for the peak
	}
	stat, err3 := readKeys(c.dir, "memory.stat", "workingset_refault_file", "workingset_refault")
	if err := errors.Join(err1, err2, err3); err != nil {
		return memory{}, err
	}
	return memory{job.Bytes(usage), job.Bytes(peak), max(stat[0], stat[1])}, nil
}

// resetPeak does nothing: the kernel resets memory.peak for one open file
// only, and from Linux 6.12. The peak of a step is that of the job so far.
func (c counters2) resetPeak() error { return nil }

func (c counters2) events() (events, error) {
	oom, err1 := readKeys(c.dir, "memory.events", "oom_kill")
	hits, err2 := readKeys(c.dir, "pids.events", "max")
	if err := errors.Join(err1, err2); err != nil {
		return events{}, err
	}
	return events{oom[0], hits[0]}, nil
}

func (c counters2) limits() (enforced, error) {
	limit, err1 := readInt(c.dir, "memory.max")
	swap, err2 := readInt(c.dir, "memory.swap.max")
	if errors.Is(err2, fs.ErrNotExist) {
		swap, err2 = 0, nil // no swap accounting: Check has seen to it that there is no swap
	}
	pids, err3 := readInt(c.dir, "pids.max")
	cores, err4 := c.cores()
	return enforced{job.Bytes(limit), job.Bytes(swap), pids, cores}, errors.Join(err1, err2, err3, err4)
}

// cores reads cpu.max: quota and period, the quota may be "max".
func (c counters2) cores() (float64, error) {
	data, err := os.ReadFile(filepath.Join(c.dir, "cpu.max"))
	if err != nil {
		return 0, err
	}
	fields := strings.Fields(string(data))
	if len(fields) != 2 {
		return 0, fmt.Errorf("cpu.max: %q", data)
	}
	quota, err1 := parseInt(fields[0])
	period, err2 := parseInt(fields[1])
	return float64(quota) / float64(max(period, 1)), errors.Join(err1, err2)
}

func (c counters2) setCPU(cores float64) error {
	return writeValue(c.dir, "cpu.max", strconv.FormatInt(quotaOf(cores), 10)+" "+strconv.FormatInt(cpuPeriod.Microseconds(), 10))
}
