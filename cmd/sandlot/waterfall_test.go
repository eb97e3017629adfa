package main

import (
	"strings"
	"testing"
	"time"

	"github.com/sandlot-dev/sandlot/pkg/job"
)

func TestWaterfallNestsChildrenBelowTheirParentsInTimeOrder(t *testing.T) {
	at := func(ms int) time.Time { return time.Date(2026, 1, 1, 0, 0, 0, ms*1e6, time.UTC) }
	spans := []job.Span{
		{Name: "run", ID: "c", Parent: "a", Service: "worker", Start: at(40), End: at(90)},
		{Name: "submit", ID: "a", Service: "scheduler", Start: at(0), End: at(100)},
		{Name: "accept", ID: "b", Parent: "a", Service: "scheduler", Start: at(0), End: at(10)},
		{Name: "orphan", ID: "d", Parent: "gone", Service: "worker", Start: at(95), End: at(95), Error: "lost"},
		{Name: "itself", ID: "e", Parent: "e", Service: "worker", Start: at(96), End: at(97)},
	}
	var b strings.Builder
	waterfall(&b, spans, 80, false)
	want := []string{"span", "submit", "  accept", "  run", "orphan", "itself"}
	lines := strings.Split(strings.TrimRight(b.String(), "\n"), "\n")
	if len(lines) != len(want) {
		t.Fatalf("got %d lines, want %d:\n%s", len(lines), len(want), b.String())
	}
	for i, prefix := range want {
		if !strings.HasPrefix(lines[i], prefix) {
			t.Errorf("line %d is %q, want it to begin with %q", i, lines[i], prefix)
		}
	}
	if !strings.Contains(lines[3], "40.0      50.0") {
		t.Errorf("run is shown as %q, want start 40.0 and 50.0 ms", lines[3])
	}
	if !strings.HasSuffix(lines[4], "lost") {
		t.Errorf("the error is missing in %q", lines[4])
	}
}

func TestWaterfallDrawsSpansWithoutLengthAndNone(t *testing.T) {
	var b strings.Builder
	now := time.Now()
	waterfall(&b, []job.Span{{Name: "submit", ID: "a", Start: now, End: now}}, 10, true)
	if !strings.Contains(b.String(), "▏") {
		t.Errorf("an instant has no mark: %q", b.String())
	}
	b.Reset()
	waterfall(&b, nil, 80, false)
	if !strings.Contains(b.String(), "no spans") {
		t.Errorf("got %q", b.String())
	}
}
