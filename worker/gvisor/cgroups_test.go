package gvisor

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

func TestTreeOfALifeStartedElsewhereIsSwept(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("SKIPPED: cgroups are made by root")
	}
	l, err := newLayout(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	name := InstanceName(l.dir)
	now, err := openCgroups(name, true)
	if err != nil {
		t.Skipf("SKIPPED: %v", err)
	}
	// The earlier life was in a session of its own, one level deeper.
	session := name + "-session"
	before := &Cgroups{name: name, below: true, unified: now.unified}
	for _, h := range now.hierarchies {
		if err := h.mkdir(session); err != nil {
			t.Fatal(err)
		}
		h.own = filepath.Join(h.own, session)
		t.Cleanup(func() { os.Remove(h.own) })
		before.hierarchies = append(before.hierarchies, h)
	}
	if err := before.remember(l.groups()); err != nil {
		t.Fatal(err)
	}
	if err := before.create(); err != nil {
		t.Fatal(err)
	}
	left := exec.Command("sleep", "1000")
	if err := left.Start(); err != nil {
		t.Fatal(err)
	}
	if err := before.attach(left.Process.Pid); err != nil {
		t.Fatal(err)
	}
	if err := sweep(t.Context(), l, now); err != nil {
		t.Fatal(err)
	}
	if err := left.Wait(); err == nil {
		t.Error("its process lives")
	}
	for _, h := range before.hierarchies {
		if _, err := os.Stat(filepath.Join(h.own, name)); err == nil {
			t.Errorf("%s is still there", h.own)
		}
	}
}

func TestRememberedPathsAreNotTakenAtTheirWord(t *testing.T) {
	here := t.TempDir()
	file := filepath.Join(here, "cgroups")
	c := &Cgroups{name: "sandlot-1", hierarchies: []hierarchy{{own: "/sys/fs/cgroup/pids"}}}
	lines := "/\n/etc\n/sys/fs/cgroup/pids/sandlot-1\n" + here + "/sandlot-1\n/sys/fs/cgroup/pids/other\n\n"
	if err := os.WriteFile(file, []byte(lines), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(here, "sandlot-1"), 0o755); err != nil {
		t.Fatal(err)
	}
	old, err := c.elsewhere(file)
	if err != nil || len(old.hierarchies) != 0 {
		t.Errorf("would sweep %+v (%v)", old.hierarchies, err)
	}
}
