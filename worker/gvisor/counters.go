package gvisor

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/sandlot-dev/sandlot/pkg/job"
)

// counters reads what the kernel counts and enforces for one sandbox. The
// readings are evidence: they come from the host, whatever the guest says.
type counters interface {
	// cpu is the processor time used since the sandbox was made.
	cpu() (time.Duration, error)
	// memory costs the kernel more than the others: not for every look.
	memory() (memory, error)
	// resetPeak starts memory.peak anew, where the kernel can.
	resetPeak() error
	events() (events, error)
	// limits are those in force.
	limits() (enforced, error)
	// setCPU changes how many cores may be used at one moment.
	setCPU(cores float64) error
}

// memory is one reading of the memory controller.
type memory struct {
	usage, peak job.Bytes
	// refaults counts pages of files that were dropped and read again.
	refaults int64
}

// events are what the kernel did because of a limit.
type events struct {
	oomKills int64 // processes killed
	pidsHits int64 // forks refused
}

// enforced are the limits of a cgroup as read back from it.
type enforced struct {
	memory job.Bytes
	swap   job.Bytes // how much of the memory may be swapped out
	pids   int64
	cores  float64
}

// unlimited stands for a limit that the kernel does not set.
const unlimited = 1 << 62

// cpuPeriod is the window of the cpu quota: the kernel's default.
const cpuPeriod = 100 * time.Millisecond

// quotaOf is the processor time per cpuPeriod, in microseconds.
func quotaOf(cores float64) int64 {
	return max(1000, int64(cores*float64(cpuPeriod/time.Microsecond)))
}

// countersOf finds the counters of a sandbox: dir names the directory of a
// controller, the same for all of them on a unified hierarchy.
func countersOf(unified bool, dir func(controller string) string) (counters, error) {
	if unified {
		return newCounters2(dir("memory"))
	}
	c := counters1{cpuDir: dir("cpu"), acctDir: dir("cpuacct"), memoryDir: dir("memory"), pidsDir: dir("pids")}
	for name, dir := range map[string]string{"cpu": c.cpuDir, "cpuacct": c.acctDir, "memory": c.memoryDir, "pids": c.pidsDir} {
		if dir == "" {
			return nil, fmt.Errorf("cgroup controller %s: %w", name, errAbsent)
		}
	}
	return c, nil
}

var errAbsent = errors.New("not on this host")

// readInt reads a file that holds one number, or "max".
func readInt(dir, file string) (int64, error) {
	data, err := os.ReadFile(filepath.Join(dir, file))
	if err != nil {
		return 0, err
	}
	return parseInt(string(bytes.TrimSpace(data)))
}

func parseInt(text string) (int64, error) {
	if text == "max" {
		return unlimited, nil
	}
	n, err := strconv.ParseUint(text, 10, 64)
	return int64(min(n, unlimited)), err
}

// readKeys reads the named lines of a file of "key value" lines; a key that
// is not there is 0.
func readKeys(dir, file string, keys ...string) ([]int64, error) {
	data, err := os.ReadFile(filepath.Join(dir, file))
	if err != nil {
		return nil, err
	}
	values := make([]int64, len(keys))
	lines := bufio.NewScanner(bytes.NewReader(data))
	for lines.Scan() {
		key, value, _ := strings.Cut(lines.Text(), " ")
		for i := range keys {
			if keys[i] != key {
				continue
			}
			if values[i], err = parseInt(value); err != nil {
				return nil, fmt.Errorf("%s: %s: %w", file, key, err)
			}
		}
	}
	return values, nil
}

func writeValue(dir, file, value string) error {
	f, err := os.OpenFile(filepath.Join(dir, file), os.O_WRONLY|os.O_TRUNC, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString(value)
	return errors.Join(err, f.Close())
}
