package main

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"testing"
	"time"

	"github.com/sandlot-dev/sandlot/test/testenv"
)

func TestMain(m *testing.M) {
	if is, code := asWorker(); is {
		os.Exit(code)
	}
	os.Exit(m.Run())
}

// TestNothingIsBrokenByAShortSeed is the short form of `make chaos`: processes
// die and networks break for a few seconds, and no promise may be broken.
func TestNothingIsBrokenByAShortSeed(t *testing.T) {
	if testing.Short() {
		t.Skip("short: takes half a minute of the whole machine")
	}
	program, err := testenv.Build(testenv.ShortDir(t))
	if err != nil {
		t.Fatal(err)
	}
	s := setup{
		Sandlot: program.Path, NATS: filepath.Join(program.Dir, "nats-server"), Nodes: 1, Schedulers: 2, Workers: 3, Slots: 4,
		Out: filepath.Join(t.TempDir(), "out"), Quiet: quietTime,
	}
	if _, err := os.Stat(s.NATS); err != nil {
		t.Fatalf("%v; run `make runtime`", err)
	}
	o, err := run(t.Context(), s, 7, 10*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range o.Findings {
		t.Error(f)
	}
	t.Logf("%d faults, %d asks, %+v, quiet after %s", o.Faults, o.Asks, o.Stats, o.Settled)
	if o.Stats.Accepted < 50 || o.Stats.Executions < 50 || o.Faults == 0 {
		t.Error("too little happened to say anything")
	}
	if t.Failed() {
		keep := filepath.Join(os.TempDir(), fmt.Sprintf("sandlot-chaos-failed-%d", os.Getpid()))
		if err := os.CopyFS(keep, os.DirFS(s.Out)); err == nil {
			t.Logf("all logs are in %s", keep)
		}
	}
}

func TestASeedPlansTheSameAgain(t *testing.T) {
	for _, nodes := range []int{1, 3} {
		s := setup{Nodes: nodes, Schedulers: 2, Workers: 4}
		if !reflect.DeepEqual(plan(5, s, 20*time.Second), plan(5, s, 20*time.Second)) {
			t.Error("two plans of one seed differ")
		}
		if reflect.DeepEqual(plan(5, s, 20*time.Second), plan(6, s, 20*time.Second)) {
			t.Error("two seeds plan the same")
		}
	}
}

// TestNoPlanTakesTheQuorum wants at most one server in trouble at a time.
func TestNoPlanTakesTheQuorum(t *testing.T) {
	for seed := range uint64(200) {
		var until time.Duration
		for _, f := range plan(seed, setup{Nodes: 3, Schedulers: 2, Workers: 4}, 30*time.Second) {
			if f.Whom[0] != 'n' {
				continue
			}
			if f.At < until {
				t.Fatalf("seed %d: %s at %s, while another is in trouble until %s", seed, f.Whom, f.At, until)
			}
			until = f.At + f.For
		}
	}
}

// TestSabotageForgetsWhatItShould feeds the saboteur a client's words in
// pieces of every size.
func TestSabotageForgetsWhatItShould(t *testing.T) {
	header := "NATS/1.0\r\nNats-Expected-Last-Subject-Sequence: 5\r\n\r\n"
	forgotten := "NATS/1.0\r\nXats-Expected-Last-Subject-Sequence: 5\r\n\r\n"
	message := func(subject, header string) string {
		return fmt.Sprintf("HPUB %s reply %d %d\r\n%sbody\r\n", subject, len(header), len(header)+4, header)
	}
	in := "CONNECT {}\r\n" + message("r.0.t.j", header) + "PUB r.0.t.j 9\r\nHPUB a\r\nb\r\n" + "PING\r\n" + message("in.x", header)
	want := "CONNECT {}\r\n" + message("r.0.t.j", forgotten) + "PUB r.0.t.j 9\r\nHPUB a\r\nb\r\n" + "PING\r\n" + message("in.x", header)
	for size := 1; size <= len(in); size++ {
		var out bytes.Buffer
		w := forget("r.")(&out)
		for rest := []byte(in); len(rest) > 0; rest = rest[min(size, len(rest)):] {
			if _, err := w.Write(rest[:min(size, len(rest))]); err != nil {
				t.Fatal(err)
			}
		}
		if out.String() != want {
			t.Fatalf("in pieces of %d: %q", size, out.String())
		}
	}
}
