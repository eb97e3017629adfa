// Package launch is what the resident runtime tells a sentry's prewarmer, who
// runs just before gVisor's own code does: which cgroups to join, and what to
// add to the sentry's arguments.
//
// runsc joins the cgroups of version 1 by moving its whole process there and
// back, which a daemon that starts many sandboxes at once cannot do. The
// prewarmer is the sandbox's first process and nothing else: it joins by
// itself, from its first page on, and all that follows is born there.
//
// The same file is the runtime's record of what a sandbox has on the host:
// whoever comes after a runtime that was killed finds the cgroups in it.
package launch

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// Plan is the content of a launch file.
type Plan struct {
	// Groups are the sandbox's cgroup directories.
	Groups []string
	// Join tells the prewarmer to enter them.
	Join bool
	// Args are added to those of the sentry.
	Args []string
}

// suffix is of launch files, in runsc's root directory.
const suffix = ".launch"

// Path is the launch file of a sandbox.
func Path(root, id string) string { return filepath.Join(root, id+suffix) }

// Files lists the launch files of a root directory.
func Files(root string) ([]string, error) { return filepath.Glob(filepath.Join(root, "*"+suffix)) }

// Write writes a launch file. The directory is root's alone.
func Write(path string, p Plan) error {
	var text strings.Builder
	for _, dir := range p.Groups {
		fmt.Fprintf(&text, "group %s\n", dir)
	}
	if p.Join {
		text.WriteString("join\n")
	}
	for _, arg := range p.Args {
		fmt.Fprintf(&text, "arg %s\n", arg)
	}
	return os.WriteFile(path, []byte(text.String()), 0o600)
}

// Read reads a launch file. One that is not there is an empty plan.
func Read(path string) (Plan, error) {
	var p Plan
	text, err := os.ReadFile(path)
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return p, nil
		}
		return p, err
	}
	for line := range strings.Lines(string(text)) {
		word, rest, _ := strings.Cut(strings.TrimSuffix(line, "\n"), " ")
		switch word {
		case "group":
			p.Groups = append(p.Groups, rest)
		case "join":
			p.Join = true
		case "arg":
			p.Args = append(p.Args, rest)
		default:
			return p, fmt.Errorf("%s: unknown word %q", path, word)
		}
	}
	return p, nil
}

// Of finds the launch file of a sentry in its arguments: its root directory is
// a flag, and its id comes last.
func Of(args []string) string {
	for _, arg := range args {
		if root, ok := strings.CutPrefix(strings.TrimLeft(arg, "-"), "root="); ok && strings.HasPrefix(arg, "-") {
			return Path(root, args[len(args)-1])
		}
	}
	return ""
}

// Amend adds the plan's arguments to a sentry's, where they win over earlier
// ones and the id stays last.
func (p Plan) Amend(args []string) []string {
	last := len(args) - 1
	amended := append([]string{}, args[:last]...)
	return append(append(amended, p.Args...), args[last])
}

// Fail leaves word of why a prewarmer gave up: its standard error goes nowhere.
func Fail(path string, why error) {
	_ = os.WriteFile(path+".failed", []byte(why.Error()), 0o600)
}

// Failure is that word, empty if there is none.
func Failure(path string) string {
	text, _ := os.ReadFile(path + ".failed")
	return string(text)
}

// Remove removes the launch file and what Fail has left.
func Remove(path string) error {
	if err := os.Remove(path + ".failed"); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}
