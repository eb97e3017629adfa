package frame_test

import (
	"strings"
	"testing"
	"time"

	"github.com/sandlot-dev/sandlot/pkg/frame"
)

func TestOnlyPathsBelowTheWorkDirectoryPass(t *testing.T) {
	good := []string{"a", "a/b", ".hidden", "..a", "a..b/c", "with space", "ünï", "-rf", "a/...", strings.Repeat("x", 255)}
	for _, p := range good {
		if err := frame.CheckPath(p); err != nil {
			t.Errorf("%q: %v", p, err)
		}
	}
	bad := []string{
		"", ".", "..", "/", "/a", "../a", "a/..", "a/../b", "a/../../b", "./a", "a/", "a//b", "a/./b", "a\x00", "\xff",
		strings.Repeat("x", 256), strings.Repeat("x/", 2048) + "x",
	}
	for _, p := range bad {
		if frame.CheckPath(p) == nil {
			t.Errorf("%q passes", p)
		}
	}
}

func TestMatch(t *testing.T) {
	cases := []struct {
		glob, path string
		match      bool
	}{
		{"a.txt", "a.txt", true},
		{"*.txt", "a.txt", true},
		{"*.txt", "d/a.txt", false},
		{"*", ".hidden", true},
		{"d/*", "d/a", true},
		{"d/*", "d/e/a", false},
		{"**", "a", true},
		{"**", "d/e/a", true},
		{"**/*.txt", "a.txt", true},
		{"**/*.txt", "d/e/a.txt", true},
		{"d/**/a", "d/a", true},
		{"d/**/a", "d/e/f/a", true},
		{"d/**/a", "e/a", false},
		{"d/**", "d", true},
		{"d/**", "dd", false},
		{"**/e/**", "d/e/f", true},
		{"[a-c]?", "bz", true},
		{"[a-c]?", "dz", false},
	}
	for _, c := range cases {
		if got := frame.Match(c.glob, c.path); got != c.match {
			t.Errorf("Match(%q, %q) = %v", c.glob, c.path, got)
		}
	}
}

func TestMatchBelow(t *testing.T) {
	cases := []struct {
		glob, dir string
		below     bool
	}{
		{"*.txt", "d", false},
		{"d/*.txt", "d", true},
		{"d/*.txt", "e", false},
		{"d/e/a", "d", true},
		{"d/e/a", "d/e", true},
		{"d/e/a", "d/e/a", false},
		{"**/a", "x/y/z", true},
		{"d/**", "d/e", true},
	}
	for _, c := range cases {
		if got := frame.MatchBelow(c.glob, c.dir); got != c.below {
			t.Errorf("MatchBelow(%q, %q) = %v", c.glob, c.dir, got)
		}
	}
}

func TestMatchTimeIsBounded(t *testing.T) {
	glob := strings.Repeat("**/", 300) + "b"
	name := strings.Repeat("a/", 500) + "a"
	start := time.Now()
	if frame.Match(glob, name) {
		t.Error("matches")
	}
	if d := time.Since(start); d > time.Second {
		t.Errorf("took %v", d)
	}
}
