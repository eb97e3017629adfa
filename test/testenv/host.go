package testenv

import (
	"bufio"
	"bytes"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// Leftovers lists what an instance of Sandlot has on the host at the moment,
// outside its data directory: processes, mounts, cgroups and sockets. Each is
// one line. An instance that has ended must have none.
func Leftovers(t testing.TB, dataDir string, instance string, marks ...string) []string {
	t.Helper()
	belongs := func(text string) bool {
		return strings.Contains(text, dataDir) || instance != "" && strings.Contains(text, instance)
	}
	var left []string
	for _, p := range processes(t) {
		mine := belongs(p.command) || belongs(p.cgroups) || belongs(p.cwd)
		for _, m := range marks {
			mine = mine || strings.Contains(p.environ, mark+"="+m)
		}
		if mine {
			left = append(left, fmt.Sprintf("process %d: %s", p.pid, p.command))
		}
	}
	for _, line := range lines(t, "/proc/self/mountinfo") {
		if belongs(line) {
			left = append(left, "mount: "+line)
		}
	}
	for _, line := range lines(t, "/proc/net/unix") {
		if belongs(line) {
			left = append(left, "socket: "+line)
		}
	}
	for _, dir := range Cgroups(instance) {
		left = append(left, "cgroup: "+dir)
	}
	slices.Sort(left)
	return left
}

type process struct {
	pid                            int
	command, cwd, environ, cgroups string
}

// processes are all of the host but this one. Some end while they are looked
// at; those are left out.
func processes(t testing.TB) []process {
	t.Helper()
	entries, err := os.ReadDir("/proc")
	if err != nil {
		t.Fatal(err)
	}
	var all []process
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil || pid == os.Getpid() {
			continue
		}
		dir := filepath.Join("/proc", e.Name())
		command, err := os.ReadFile(filepath.Join(dir, "cmdline"))
		if err != nil || zombie(dir) {
			continue
		}
		p := process{pid: pid, command: strings.TrimSpace(string(bytes.ReplaceAll(command, []byte{0}, []byte{' '})))}
		p.cwd, _ = os.Readlink(filepath.Join(dir, "cwd"))
		environ, _ := os.ReadFile(filepath.Join(dir, "environ"))
		p.environ = string(environ)
		groups, _ := os.ReadFile(filepath.Join(dir, "cgroup"))
		p.cgroups = string(groups)
		all = append(all, p)
	}
	return all
}

// FindProcess is the pid of the process whose command line has all the given
// texts. The test fails unless there is exactly one.
func FindProcess(t testing.TB, texts ...string) int {
	t.Helper()
	var found []int
	for _, p := range processes(t) {
		all := true
		for _, text := range texts {
			all = all && strings.Contains(p.command, text)
		}
		if all {
			found = append(found, p.pid)
		}
	}
	if len(found) != 1 {
		t.Fatalf("%d processes have %q in their command: %v", len(found), texts, found)
	}
	return found[0]
}

// zombie reports whether the process has ended and only waits for its parent,
// which is not this test's fault on hosts whose init does not reap.
func zombie(dir string) bool {
	stat, err := os.ReadFile(filepath.Join(dir, "stat"))
	_, rest, found := bytes.Cut(stat, []byte(") "))
	return err != nil || !found || rest[0] == 'Z'
}

func lines(t testing.TB, file string) []string {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	for s := bufio.NewScanner(bytes.NewReader(text)); s.Scan(); {
		all = append(all, s.Text())
	}
	return all
}

// Cgroups are the directories of all hierarchies that are named after the
// instance.
func Cgroups(instance string) []string {
	if instance == "" {
		return nil
	}
	var found []string
	_ = filepath.WalkDir("/sys/fs/cgroup", func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() && strings.Contains(d.Name(), instance) {
			found = append(found, path)
			return filepath.SkipDir
		}
		return nil // a group that vanishes under the walk is no error
	})
	return found
}

// ours matches names that Sandlot or its runtime might give to a file.
var ours = regexp.MustCompile(`(?i)sandlot|containerd|runsc|gvisor|nats`)

// foreign matches the temporary directories of tests and of their compiler.
var foreign = regexp.MustCompile(`^/tmp/(Test|Fuzz|Benchmark|go-)`)

// SharedFiles lists the files outside any data directory that look like ours:
// in the places where such programs keep state on an ordinary host. Paths that
// contain one of the given texts are left out, and so are the directories of
// other tests, which may run at the same time.
func SharedFiles(without ...string) []string {
	var found []string
	for _, root := range []string{"/run", "/var/run", "/var/lib", "/var/log", "/etc", "/tmp", "/var/tmp", "/dev/shm"} {
		_ = filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
			if err != nil {
				return nil
			}
			other := func(text string) bool { return strings.Contains(path, text) }
			if foreign.MatchString(path) || slices.ContainsFunc(without, other) {
				if d.IsDir() {
					return filepath.SkipDir
				}
				return nil
			}
			deep := strings.Count(strings.TrimPrefix(path, root), "/")
			if path != root && ours.MatchString(path) {
				found = append(found, path)
			}
			if d.IsDir() && deep >= 4 {
				return filepath.SkipDir
			}
			return nil
		})
	}
	slices.Sort(found)
	return found
}

// CPUTicks is the processor time that the processes in the instance's cgroups
// have used so far, in clock ticks, by pid.
func CPUTicks(t testing.TB, instance string) map[int]int64 {
	t.Helper()
	ticks := map[int]int64{}
	for _, p := range processes(t) {
		if !strings.Contains(p.cgroups, instance) {
			continue
		}
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p.pid))
		if err != nil {
			continue
		}
		_, rest, _ := strings.Cut(string(stat), ") ")
		fields := strings.Fields(rest)
		if len(fields) > 12 {
			user, _ := strconv.ParseInt(fields[11], 10, 64)
			system, _ := strconv.ParseInt(fields[12], 10, 64)
			ticks[p.pid] = user + system
		}
	}
	return ticks
}
