package figure

import (
	"bufio"
	"bytes"
	"os"
	"runtime"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// describeHost names what a figure depends on.
func describeHost() map[string]string {
	host := map[string]string{"cpus": strconv.Itoa(runtime.NumCPU()), "go": runtime.Version()}
	host["cpu"] = firstValue("/proc/cpuinfo", "model name")
	host["memory"] = firstValue("/proc/meminfo", "MemTotal")
	var name unix.Utsname
	if unix.Uname(&name) == nil {
		host["kernel"] = "Linux " + unix.ByteSliceToString(name.Release[:])
	}
	return host
}

// firstValue is what stands behind the first "name:" of a file.
func firstValue(path, name string) string {
	data, err := os.ReadFile(path)
	if err != nil {
		return "unknown"
	}
	for in := bufio.NewScanner(bytes.NewReader(data)); in.Scan(); {
		if key, value, ok := strings.Cut(in.Text(), ":"); ok && strings.TrimSpace(key) == name {
			return strings.TrimSpace(value)
		}
	}
	return "unknown"
}
