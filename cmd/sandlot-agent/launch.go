package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/sandlot-dev/sandlot/pkg/frame"
)

// Exit codes of a program that could not be executed, as shells have them.
const (
	codeNotExecutable = 126
	codeNotFound      = 127
)

// notRun says that there is nothing to run, through the job's own fault.
type notRun struct {
	code uint8
	text string
}

func (e *notRun) Error() string { return e.text }

// start executes the step's program with the given files as its first descriptors. It runs on the launch thread. The
// error is a notRun if the job is to blame.
func start(f *frame.StepStart, stdio []*os.File) (pid int, err error) {
	restore, err := setLimits(f.Limits)
	if err != nil {
		return 0, err
	}
	defer restore()
	if info, err := os.Stat(f.Dir); err != nil || !info.IsDir() {
		return 0, &notRun{codeNotExecutable, fmt.Sprintf("work directory %s: not a directory", f.Dir)}
	}
	fds := make([]uintptr, len(stdio))
	for i, file := range stdio {
		fds[i] = file.Fd()
	}
	attr := &syscall.ProcAttr{
		Dir:   f.Dir,
		Env:   f.Env,
		Files: fds,
		Sys: &syscall.SysProcAttr{
			Setsid:     true,
			Credential: &syscall.Credential{Uid: f.UID, Gid: f.GID},
		},
	}
	return execute(f, attr)
}

// execute tries the program in every directory of PATH, as execvp does.
func execute(f *frame.StepStart, attr *syscall.ProcAttr) (int, error) {
	name := f.Argv[0]
	denied := error(nil)
	for _, path := range candidates(name, f.Env) {
		// A fork is dear, a stat is not.
		if info, err := os.Stat(absolute(f.Dir, path)); err == nil && info.IsDir() {
			denied = unix.EISDIR
			continue
		} else if isMissing(err) {
			continue
		}
		pid, err := syscall.ForkExec(path, f.Argv, attr)
		switch {
		case err == nil:
			return pid, nil
		case errors.Is(err, unix.EACCES):
			denied = err
		case isMissing(err):
			// The file is there, its interpreter is not.
			return 0, &notRun{codeNotFound, fmt.Sprintf("%s: interpreter not found", path)}
		case isForkFault(err):
			return 0, fmt.Errorf("start %s: %w", path, err)
		default:
			return 0, &notRun{codeNotExecutable, fmt.Sprintf("%s: %v", path, err)}
		}
	}
	if denied != nil {
		return 0, &notRun{codeNotExecutable, fmt.Sprintf("%s: %v", name, denied)}
	}
	return 0, &notRun{codeNotFound, name + ": not found"}
}

func isMissing(err error) bool {
	return errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR)
}

// isForkFault tells errors that the sandbox or the agent is to blame for.
func isForkFault(err error) bool {
	return errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.ENOMEM) || errors.Is(err, unix.EPERM) ||
		errors.Is(err, unix.EMFILE) || errors.Is(err, unix.ENFILE)
}

func candidates(name string, env []string) []string {
	if strings.Contains(name, "/") {
		return []string{name}
	}
	var paths []string
	for _, dir := range filepath.SplitList(lookup(env, "PATH")) {
		if dir == "" {
			dir = "."
		}
		paths = append(paths, dir+"/"+name)
	}
	return paths
}

func absolute(dir, path string) string {
	if filepath.IsAbs(path) {
		return path
	}
	return filepath.Join(dir, path)
}

// lookup finds the last value of a name, as execve's users do not agree on which counts.
func lookup(env []string, name string) string {
	for i := len(env) - 1; i >= 0; i-- {
		if value, ok := strings.CutPrefix(env[i], name+"="); ok {
			return value
		}
	}
	return ""
}
