package main

import (
	"slices"
	"testing"
)

func TestProgramsAreLookedUpAsExecvpDoes(t *testing.T) {
	cases := map[string]struct {
		name string
		env  []string
		want []string
	}{
		"a path":           {"./x", []string{"PATH=/bin"}, []string{"./x"}},
		"in every part":    {"x", []string{"PATH=/a:/b"}, []string{"/a/x", "/b/x"}},
		"empty parts":      {"x", []string{"PATH=/a::"}, []string{"/a/x", "./x", "./x"}},
		"last value wins":  {"x", []string{"PATH=/a", "PATH=/b"}, []string{"/b/x"}},
		"no PATH":          {"x", []string{"XPATH=/a"}, nil},
		"PATH of no value": {"x", []string{"PATH="}, nil},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			if got := candidates(c.name, c.env); !slices.Equal(got, c.want) {
				t.Errorf("%q, want %q", got, c.want)
			}
		})
	}
}
