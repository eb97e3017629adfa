package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestLicencesOfThisProgramAreAllFound(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	out := t.TempDir()
	if err := collect(out, []string{self}); err != nil {
		t.Fatal(err)
	}
	list, err := os.ReadFile(filepath.Join(out, "modules.txt"))
	if err != nil {
		t.Fatal(err)
	}
	if !strings.HasPrefix(string(list), "std go1.") || !strings.Contains(string(list), " BSD ") {
		t.Errorf("modules.txt: %s", list)
	}
}

func TestOnlyLicencesThatMayBePackedHaveAName(t *testing.T) {
	for text, want := range map[string]string{
		"  Apache License\n  Version 2.0, January 2004":                       "Apache-2.0",
		"Permission is hereby granted,\nfree of charge, to any person":        "MIT",
		"GNU GENERAL PUBLIC LICENSE Version 3 ... Apache License Version 2.0": "",
		"All rights reserved.": "",
	} {
		if got := classify(text); got != want {
			t.Errorf("%q is %q, want %q", text, got, want)
		}
	}
}
