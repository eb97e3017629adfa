package gvisor

import (
	"errors"
	"io/fs"
	"strconv"
	"time"

	"github.com/sandlot-dev/sandlot/pkg/job"
)

// counters1 are those of cgroup version 1: a directory per controller.
type counters1 struct{ cpuDir, acctDir, memoryDir, pidsDir string }

func (c counters1) cpu() (time.Duration, error) {
	ns, err := readInt(c.acctDir, "cpuacct.usage")
	return time.Duration(ns), err
}

func (c counters1) memory() (memory, error) {
	usage, err1 := readInt(c.memoryDir, "memory.usage_in_bytes")
	peak, err2 := readInt(c.memoryDir, "memory.max_usage_in_bytes")
	// Kernels before 5.9 have one counter for both kinds of pages.
	stat, err3 := readKeys(c.memoryDir, "memory.stat", "workingset_refault_file", "workingset_refault")
	if err := errors.Join(err1, err2, err3); err != nil {
		return memory{}, err
	}
	return memory{job.Bytes(usage), job.Bytes(peak), max(stat[0], stat[1])}, nil
}

func (c counters1) resetPeak() error {
	return writeValue(c.memoryDir, "memory.max_usage_in_bytes", "0")
}

func (c counters1) events() (events, error) {
	oom, err1 := readKeys(c.memoryDir, "memory.oom_control", "oom_kill")
	hits, err2 := readKeys(c.pidsDir, "pids.events", "max")
	if err := errors.Join(err1, err2); err != nil {
		return events{}, err
	}
	return events{oom[0], hits[0]}, nil
}

func (c counters1) limits() (enforced, error) {
	limit, err1 := readInt(c.memoryDir, "memory.limit_in_bytes")
	both, err2 := readInt(c.memoryDir, "memory.memsw.limit_in_bytes")
	if errors.Is(err2, fs.ErrNotExist) {
		both, err2 = limit, nil // no swap accounting: Check has seen to it that there is no swap
	}
	pids, err3 := readInt(c.pidsDir, "pids.max")
	quota, err4 := c.quota()
	period, err5 := readInt(c.cpuDir, "cpu.cfs_period_us")
	err := errors.Join(err1, err2, err3, err4, err5)
	return enforced{job.Bytes(limit), job.Bytes(both - limit), pids, float64(quota) / float64(max(period, 1))}, err
}

// quota is -1 where there is none.
func (c counters1) quota() (int64, error) {
	n, err := readInt(c.cpuDir, "cpu.cfs_quota_us")
	if errors.Is(err, strconv.ErrSyntax) {
		return unlimited, nil
	}
	return n, err
}

func (c counters1) setCPU(cores float64) error {
	return writeValue(c.cpuDir, "cpu.cfs_quota_us", strconv.FormatInt(quotaOf(cores), 10))
}
