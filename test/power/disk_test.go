//go:build power

package main

import (
	"bytes"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"github.com/sandlot-dev/sandlot/test/need"
)

// TestDiskKeepsWhatWasSyncedAndMayForgetTheRest is the test of the means.
func TestDiskKeepsWhatWasSyncedAndMayForgetTheRest(t *testing.T) {
	need.Disk(t)
	d, err := newDisk(t.TempDir(), "")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := d.close(); err != nil {
			t.Error(err)
		}
	})
	forgot := 0
	for round := range uint64(6) {
		if err := d.mount(newSupply()); err != nil {
			t.Fatal(err)
		}
		synced, written := filepath.Join(d.place(), "synced"), filepath.Join(d.place(), "written")
		content := bytes.Repeat([]byte{byte(round + 1)}, 100_000)
		if round > 0 {
			before := bytes.Repeat([]byte{byte(round)}, 100_000)
			if got, err := os.ReadFile(synced); err != nil || !bytes.Equal(got, before) {
				t.Fatalf("round %d: what was synced is not there: %d bytes, %v", round, len(got), err)
			}
			if got, err := os.ReadFile(written); err != nil || !bytes.Equal(got, before) {
				forgot++
			}
		}
		if err := os.WriteFile(written, content, 0o600); err != nil {
			t.Fatal(err)
		}
		f, err := os.Create(synced)
		if err != nil {
			t.Fatal(err)
		}
		_, err = f.Write(content)
		if err == nil {
			err = f.Sync()
		}
		if err != nil {
			t.Fatal(err)
		}
		f.Close()
		if _, _, err := d.lose(rand.New(rand.NewPCG(round, 1))); err != nil {
			t.Fatal(err)
		}
	}
	if forgot == 0 {
		t.Error("it forgot nothing of what was not synced")
	}
	if d.flushes == 0 {
		t.Error("nobody flushed")
	}
}
