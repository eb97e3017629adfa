package worker

import (
	"bufio"
	"bytes"
	"fmt"
	"os"
	"strconv"
	"strings"

	"github.com/sandlot-dev/sandlot/pkg/job"
)

// HostMemory is how much memory sandboxes may use together: what the host, or
// the cgroup that this process is in, has, without a share for the host itself
// and for the processes of Sandlot.
func HostMemory() (job.Bytes, error) {
	total, err := memTotal()
	if err != nil {
		return 0, err
	}
	for _, file := range []string{"/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"} {
		if text, err := os.ReadFile(file); err == nil {
			if n, err := strconv.ParseInt(strings.TrimSpace(string(text)), 10, 64); err == nil {
				total = min(total, job.Bytes(n))
			}
		}
	}
	return total - max(job.GiB, total/8), nil
}

// memTotal reads the host's memory from /proc/meminfo.
func memTotal() (job.Bytes, error) {
	text, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return 0, fmt.Errorf("host's memory: %w", err)
	}
	lines := bufio.NewScanner(bytes.NewReader(text))
	for lines.Scan() {
		if fields := strings.Fields(lines.Text()); len(fields) >= 2 && fields[0] == "MemTotal:" {
			kib, err := strconv.ParseInt(fields[1], 10, 64)
			return job.Bytes(kib) * job.KiB, err
		}
	}
	return 0, fmt.Errorf("host's memory: /proc/meminfo has no MemTotal")
}
