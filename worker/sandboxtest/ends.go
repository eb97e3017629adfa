package sandboxtest

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/sandlot-dev/sandlot/pkg/job"
	"github.com/sandlot-dev/sandlot/worker"
)

// interrupt runs a program that would not end and ends the context for the
// given cause as soon as it is heard.
func interrupt(t *testing.T, s suite, cause error) job.Observation {
	t.Helper()
	box := Prepare(t, s.rt, Task(Sh(s.image, "echo ready; sleep 50", "echo never")))
	ctx, cancel := context.WithCancelCause(t.Context())
	defer cancel(nil)
	sink := &Sink{OnOutput: func(int, worker.Stream, []byte) error { cancel(cause); return nil }}
	start := time.Now()
	seen, err := box.Run(ctx, sink)
	if !errors.Is(err, cause) {
		t.Errorf("error is %v, want %v", err, cause)
	}
	if took := time.Since(start); took > 10*time.Second {
		t.Errorf("it took %v", took)
	}
	if len(seen.Steps) != 1 || sink.Text(0, worker.Stdout) != "ready\n" {
		t.Errorf("steps %+v, output %q", seen.Steps, sink.Text(0, worker.Stdout))
	}
	Close(t, box)
	return seen
}

func testCancel(t *testing.T, s suite) {
	if seen := interrupt(t, s, worker.ErrCanceled); seen.Ended != job.WasCanceled {
		t.Errorf("ended is %q", seen.Ended)
	}
}

func testDrain(t *testing.T, s suite) {
	if seen := interrupt(t, s, worker.ErrDrained); seen.Ended != "" || !seen.Unfinished {
		t.Errorf("ended is %q, unfinished %v", seen.Ended, seen.Unfinished)
	}
}

func testPrepareCanceled(t *testing.T, s suite) {
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(worker.ErrCanceled)
	box, err := s.rt.Prepare(ctx, Task(Sh(s.image, "exit 0")))
	if !errors.Is(err, worker.ErrCanceled) {
		t.Errorf("error is %v", err)
	}
	if err == nil {
		Close(t, box)
	}
}

func testUnknownImage(t *testing.T, s suite) {
	image := job.Image{Name: "nowhere", Digest: "sha256:" + strings.Repeat("0", 64)}
	box, err := s.rt.Prepare(t.Context(), Task(Sh(image, "exit 0")))
	if !errors.Is(err, job.ErrImage) {
		t.Errorf("error is %v", err)
	}
	if err == nil {
		Close(t, box)
	}
}

func testSinkFails(t *testing.T, s suite) {
	broken := errors.New("sink is broken")
	box := Prepare(t, s.rt, Task(Sh(s.image, "echo words; sleep 50")))
	sink := &Sink{OnOutput: func(int, worker.Stream, []byte) error { return broken }}
	seen, err := box.Run(t.Context(), sink)
	if !errors.Is(err, broken) {
		t.Errorf("error is %v", err)
	}
	if _, verdict := job.Decide(Sh(s.image, "exit 0"), seen); verdict.Blame != job.BlamePlatform {
		t.Errorf("verdict is %v", verdict)
	}
}

func testCloseTwice(t *testing.T, s suite) {
	box := Prepare(t, s.rt, Task(Sh(s.image, "echo words")))
	if _, err := box.Run(t.Context(), new(Sink)); err != nil {
		t.Fatal(err)
	}
	Close(t, box)
	Close(t, box)
}

func testCloseUnused(t *testing.T, s suite) {
	Close(t, Prepare(t, s.rt, Task(Sh(s.image, "echo words"))))
}

func testApart(t *testing.T, s suite) {
	t.Run("at once", func(t *testing.T) {
		for _, name := range []string{"left", "right"} {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				a := Must(t, s.rt, Sh(s.image, "echo "+name+" > /tmp/mine; echo "+name+" > mine; sleep 0.5; cat mine /tmp/mine"))
				if a.Stdout(0) != name+"\n"+name+"\n" {
					t.Errorf("it reads %q", a.Stdout(0))
				}
			})
		}
	})
	if a := Must(t, s.rt, Sh(s.image, "cat mine")); a.Verdict() != "failed program exited" {
		t.Errorf("a later sandbox reads %q", a.Stdout(0))
	}
}
