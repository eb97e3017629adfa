package job_test

import (
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/sandlot-dev/sandlot/pkg/job"
)

var update = flag.Bool("update", false, "write docs/state.md anew")

// TestStateDocumentIsCurrent holds docs/state.md against the table in code.
func TestStateDocumentIsCurrent(t *testing.T) {
	const path = "../../docs/state.md"
	want := stateDocument()
	if *update {
		if err := os.WriteFile(path, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(path)
	if err != nil || string(got) != want {
		t.Fatalf("docs/state.md is not what pkg/job/state.go says (%v): run make gen", err)
	}
}

func stateDocument() string {
	var b strings.Builder
	b.WriteString("# States of a job\n\nWritten from `pkg/job/state.go` by `make gen`; do not edit.\n\n")
	b.WriteString("A row is a state, a column an event; the cell says where the event leads. An empty cell is\n" +
		"`ErrStale`: the event came too late or twice and changes nothing.\n\n| from |")
	for _, event := range job.Events() {
		fmt.Fprintf(&b, " %s |", event)
	}
	b.WriteString("\n|" + strings.Repeat(" --- |", len(job.Events())+1) + "\n")
	for _, from := range job.States() {
		fmt.Fprintf(&b, "| %s |", label(from))
		for _, event := range job.Events() {
			fmt.Fprintf(&b, " %s |", strings.Join(targets(from, event), ", "))
		}
		b.WriteString("\n")
	}
	b.WriteString("\nA claim must name the attempt after the current one, a finish or a retry the current one.\n" +
		"A claim of a running job takes it over from a worker that is lost. States in bold are final.\n")
	return b.String()
}

func targets(from job.State, event job.Event) []string {
	attempt := 1
	if event == job.EventClaim {
		attempt = 2
	}
	var all []string
	for _, to := range job.States() {
		if job.Change(from, 1, event, attempt, to) == nil {
			all = append(all, label(to))
		}
	}
	return all
}

func label(s job.State) string {
	if s.Final() {
		return "**" + string(s) + "**"
	}
	return string(s)
}
