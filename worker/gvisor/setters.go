package gvisor

import (
	"fmt"
	"os"
	"strconv"
	"strings"
)

// setter is one write that sets a limit.
type setter struct {
	controller, dir, file, value string
	optional                     bool
}

// setters are the writes by which the runtime sets the limits of a sandbox.
func setters(unified bool, dir func(controller string) string, want enforced) []setter {
	memory, pids := strconv.FormatInt(int64(want.memory), 10), strconv.FormatInt(want.pids, 10)
	quota := strconv.FormatInt(quotaOf(want.cores), 10)
	if unified {
		return []setter{
			{"memory", dir("memory"), "memory.max", memory, false},
			{"memory", dir("memory"), "memory.swap.max", "0", true},
			{"pids", dir("pids"), "pids.max", pids, false},
			{"cpu", dir("cpu"), "cpu.max", fmt.Sprintf("%s %d", quota, cpuPeriod.Microseconds()), false},
		}
	}
	return []setter{
		{"memory", dir("memory"), "memory.limit_in_bytes", memory, false},
		{"memory", dir("memory"), "memory.memsw.limit_in_bytes", memory, true},
		{"pids", dir("pids"), "pids.max", pids, false},
		{"cpu", dir("cpu"), "cpu.cfs_quota_us", quota, false},
	}
}

// swapTotal is how many kilobytes of swap the host has.
func swapTotal() int64 { return memoryOf("SwapTotal") }

// memoryOf is a line of /proc/meminfo in kilobytes, 0 if it is not there.
func memoryOf(name string) int64 {
	data, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(data)) {
		if fields := strings.Fields(line); len(fields) > 1 && fields[0] == name+":" {
			n, _ := strconv.ParseInt(fields[1], 10, 64)
			return n
		}
	}
	return 0
}
