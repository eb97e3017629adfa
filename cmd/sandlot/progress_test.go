package main

import (
	"strings"
	"testing"
	"time"
)

func TestProgressCountsByVerdictInAFixedOrder(t *testing.T) {
	var b strings.Builder
	p := newProgress(&b, 6)
	for _, verdict := range []string{"limit", "succeeded", "program", "succeeded"} {
		p.add(verdict)
	}
	if got, want := p.line(2*time.Second), "4/6  succeeded 2  program 1  limit 1  2.0/s  1s left"; got != want {
		t.Errorf("got  %q\nwant %q", got, want)
	}
	p.Close()
	if !strings.HasPrefix(b.String(), "4/6  succeeded 2") {
		t.Errorf("the last state is not printed: %q", b.String())
	}
}
