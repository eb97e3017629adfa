package main

import (
	"strings"
	"testing"
)

func TestDataDirectoryServesOneAtATime(t *testing.T) {
	dir := t.TempDir()
	first, err := lockDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := lockDir(dir); err == nil || !strings.Contains(err.Error(), "is in use by another sandlot (process ") {
		t.Errorf("second lock: %v", err)
	}
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	again, err := lockDir(dir)
	if err != nil {
		t.Fatalf("after the first is gone: %v", err)
	}
	_ = again.Close()
}
