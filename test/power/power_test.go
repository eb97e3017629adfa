//go:build power

package main

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/sandlot-dev/sandlot/pkg/queue"
	"github.com/sandlot-dev/sandlot/test/need"
	"github.com/sandlot-dev/sandlot/test/testenv"
)

func TestMain(m *testing.M) {
	if is, code := asRole(); is {
		os.Exit(code)
	}
	if ran, code := apart(); ran {
		os.Exit(code)
	}
	os.Exit(m.Run())
}

// short is a short run of one seed, with what it needs.
func short(t *testing.T, s setup, seed uint64, c claim) outcome {
	t.Helper()
	t.Parallel() // they mostly wait
	need.Disk(t)
	s.NATS = need.NATSServer(t)
	program, err := testenv.Build(testenv.ShortDir(t))
	if err != nil {
		t.Fatal(err)
	}
	s.Sandlot, s.Out = program.Path, filepath.Join(t.TempDir(), "out")
	o, err := run(t.Context(), s, seed, 2, c)
	t.Logf("%s, seed %d, %s: %s", s.Profile, seed, o.Server, o)
	if err != nil {
		keep(t, s.Out)
		t.Fatal(err)
	}
	if o.Stats.Accepted < 50 || o.Stats.Answered < 20 || o.Flushes == 0 {
		t.Error("too little happened to say anything")
	}
	return o
}

// keep keeps the logs of a test that has failed.
func keep(t *testing.T, dir string) {
	to := filepath.Join(os.TempDir(), fmt.Sprintf("sandlot-power-failed-%d", os.Getpid()))
	if err := os.CopyFS(to, os.DirFS(dir)); err == nil {
		t.Logf("all logs are in %s", to)
	}
}

func wantNothingFound(t *testing.T, o outcome) {
	t.Helper()
	for _, f := range o.Findings {
		t.Error(f)
	}
}

func TestStrictLosesNothingWhenThePowerFails(t *testing.T) {
	wantNothingFound(t, short(t, setup{Profile: queue.Strict}, 1, claims[queue.Strict]))
}

func TestBalancedLosesOnlyTheLastSecondWhenThePowerFails(t *testing.T) {
	wantNothingFound(t, short(t, setup{Profile: queue.Balanced, Embedded: true}, 2, claims[queue.Balanced]))
}

func TestClusterLosesNothingWhenAllLosePower(t *testing.T) {
	wantNothingFound(t, short(t, setup{Profile: queue.Cluster}, 3, claims[queue.Cluster]))
}

// TestServerThatDoesNotSyncIsFoundOut has a server that syncs every two
// minutes judged as if it were strict.
func TestServerThatDoesNotSyncIsFoundOut(t *testing.T) {
	if o := short(t, setup{Profile: queue.Fast}, 4, claims[queue.Strict]); len(o.Findings) == 0 {
		t.Error("nothing was found")
	}
}
