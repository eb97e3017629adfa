package gvisor

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// Binaries are the programs that a worker starts, as absolute paths.
type Binaries struct {
	Containerd string
	Ctr        string
	Runsc      string
	Shim       string // containerd's name for runtime io.containerd.runsc.v1
	Agent      string // PID 1 of every sandbox
	// Resident and Front are those of the resident runtime; empty where they
	// are not installed.
	Resident string
	Front    string // containerd's name for runtime io.containerd.sandlot.v1
}

// ErrNoRuntime means that programs which a worker needs are not installed.
var ErrNoRuntime = errors.New("runtime programs are missing")

// FindBinaries looks in dir if it is given, else beside the running program, in
// libexec beside it and in ../libexec/sandlot. The error names everything that is missing at once.
func FindBinaries(dir string) (Binaries, error) {
	dirs := []string{dir}
	if dir == "" {
		self, err := os.Executable()
		if err != nil {
			return Binaries{}, fmt.Errorf("find runtime: %w", err)
		}
		if self, err = filepath.EvalSymlinks(self); err != nil {
			return Binaries{}, fmt.Errorf("find runtime: %w", err)
		}
		beside := filepath.Dir(self)
		dirs = []string{beside, filepath.Join(beside, "libexec"), filepath.Join(beside, "../libexec/sandlot")}
	}
	var b Binaries
	var missing []string
	for _, program := range []struct {
		path *string
		name string
	}{
		{&b.Containerd, "containerd"},
		{&b.Ctr, "ctr"},
		{&b.Runsc, "runsc"},
		{&b.Shim, "containerd-shim-runsc-v1"},
		{&b.Agent, "sandlot-agent"},
	} {
		if *program.path = find(dirs, program.name); *program.path == "" {
			missing = append(missing, program.name)
		}
	}
	b.Resident, b.Front = find(dirs, "sandlot-runtime"), find(dirs, "containerd-shim-sandlot-v1")
	if len(missing) > 0 {
		return b, fmt.Errorf("%w: %s not in %s (in a source tree: make build)", ErrNoRuntime,
			strings.Join(missing, ", "), strings.Join(dirs, ", "))
	}
	return b, nil
}

func find(dirs []string, name string) string {
	for _, dir := range dirs {
		path, err := filepath.Abs(filepath.Join(dir, name))
		if err != nil {
			continue
		}
		if info, err := os.Stat(path); err == nil && info.Mode().IsRegular() && info.Mode()&0o111 != 0 {
			return path
		}
	}
	return ""
}
