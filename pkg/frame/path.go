package frame

import (
	"fmt"
	"path"
	"slices"
	"strings"
	"unicode/utf8"
)

// CheckPath accepts the name of a file below the work directory: relative, clean, no "..", no NUL, valid UTF-8.
// Both ends call it for every name that crosses the channel, whoever sent it.
func CheckPath(name string) error {
	switch {
	case name == "" || name == ".":
		return fmt.Errorf("path is empty")
	case len(name) > MaxPath:
		return fmt.Errorf("path of %d bytes is longer than %d", len(name), MaxPath)
	case strings.IndexByte(name, 0) >= 0:
		return fmt.Errorf("path %q holds a NUL", name)
	case !utf8.ValidString(name):
		return fmt.Errorf("path %q is not UTF-8", name)
	case path.IsAbs(name):
		return fmt.Errorf("path %q is absolute", name)
	case name == ".." || strings.HasPrefix(path.Clean(name), "../"):
		return fmt.Errorf("path %q leaves the work directory", name)
	case path.Clean(name) != name:
		return fmt.Errorf("path %q is not clean, %q would be", name, path.Clean(name))
	}
	for part := range strings.SplitSeq(name, "/") {
		if len(part) > MaxName {
			return fmt.Errorf("path %q has a part longer than %d bytes", name, MaxName)
		}
	}
	return nil
}

// CheckGlob accepts a pattern for Match.
func CheckGlob(glob string) error {
	if len(glob) > MaxGlob {
		return fmt.Errorf("glob of %d bytes is longer than %d", len(glob), MaxGlob)
	}
	if err := CheckPath(glob); err != nil {
		return fmt.Errorf("glob: %w", err)
	}
	for part := range strings.SplitSeq(glob, "/") {
		if _, err := path.Match(part, ""); err != nil {
			return fmt.Errorf("glob %q: %w", glob, err)
		}
	}
	return nil
}

// Match tells whether a path matches a glob, part by part as path.Match does; a part "**" stands for any number of
// parts, none included.
func Match(glob, name string) bool {
	parts := strings.Split(glob, "/")
	return reach(parts, name)[len(parts)]
}

// MatchBelow tells whether a path below the directory dir may match the glob.
func MatchBelow(glob, dir string) bool {
	parts := strings.Split(glob, "/")
	return slices.Contains(reach(parts, dir)[:len(parts)], true)
}

// reach gives the set of positions in the glob after the parts of name. Keeping the whole set bounds the time by the
// product of the two lengths, whatever the glob is.
func reach(glob []string, name string) []bool {
	at := make([]bool, len(glob)+1)
	at[0] = true
	skipStars(glob, at)
	for part := range strings.SplitSeq(name, "/") {
		next := make([]bool, len(glob)+1)
		for i, g := range glob {
			if !at[i] {
				continue
			}
			if g == "**" {
				next[i] = true
			} else if ok, _ := path.Match(g, part); ok {
				next[i+1] = true
			}
		}
		skipStars(glob, next)
		at = next
	}
	return at
}

// skipStars lets every "**" stand for nothing.
func skipStars(glob []string, at []bool) {
	for i, g := range glob {
		if at[i] && g == "**" {
			at[i+1] = true
		}
	}
}
