package main

import (
	"errors"
	"os"
	"os/exec"
	"strconv"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/sandlot-dev/sandlot/test/need"
	"github.com/sandlot-dev/sandlot/test/testenv"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){
		"sandlot": func() { os.Exit(execute(os.Args[1:])) },
	})
}

func TestScript(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata/script",
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"exits": exits,
		},
	})
}

// TestClientScript runs the client against a server of its own for each
// script, with sandboxes that are scripted.
func TestClientScript(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata/client",
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"exits": exits,
		},
		Setup: func(env *testscript.Env) error {
			c := testenv.New(env.T().(testing.TB), testenv.Config{})
			env.Setenv("SANDLOT_SERVER", c.URL)
			env.Setenv("SANDLOT_TOKEN", c.Token)
			return nil
		},
	})
}

// TestLocalScript runs commands that start everything themselves, in real
// sandboxes.
func TestLocalScript(t *testing.T) {
	need.GVisor(t)
	need.Containerd(t)
	need.Images(t, "busybox", "python", "gcc")
	cache := defaultCacheDir()
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata/local",
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"exits": exits,
			"until": until,
		},
		Setup: func(env *testscript.Env) error {
			env.Setenv("SANDLOT_RUNTIME_DIR", need.RuntimeDir(t))
			env.Setenv("SANDLOT_CACHE_DIR", cache)
			env.Setenv("TMPDIR", "/tmp") // short, for the names of sockets
			return nil
		},
	})
}

// exits runs a command that must end with the given code: exits CODE COMMAND…
func exits(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: exits CODE COMMAND…")
	}
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	err = ts.Exec(args[1], args[2:]...)
	got := 0
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		got = exit.ExitCode()
	} else {
		ts.Check(err)
	}
	if got != want {
		ts.Fatalf("exit code %d, want %d", got, want)
	}
}

// until runs a command again and again until it succeeds: until COMMAND…
func until(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 1 {
		ts.Fatalf("usage: until COMMAND…")
	}
	deadline := time.After(time.Minute)
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		err := ts.Exec(args[0], args[1:]...)
		if err == nil {
			return
		}
		select {
		case <-deadline:
			ts.Fatalf("still failing after a minute: %v", err)
		case <-tick.C:
		}
	}
}
