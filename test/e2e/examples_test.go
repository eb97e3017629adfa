package e2e

import (
	"bufio"
	"encoding/json"
	"os"
	"path/filepath"
	"testing"

	"github.com/sandlot-dev/sandlot/pkg/api"
	"github.com/sandlot-dev/sandlot/test/need"
	"github.com/sandlot-dev/sandlot/test/testenv"
)

// TestExamplesEndAsTheySay runs the batch of examples/ by the command line,
// as a user would.
func TestExamplesEndAsTheySay(t *testing.T) {
	p := program(t)
	need.Images(t, "busybox", "python", "node", "gcc")
	dir := testenv.ShortDir(t)
	up := p.Up(t, dir, "--prepare=busybox,python,node,gcc")
	out := filepath.Join(t.TempDir(), "results.jsonl")
	if _, stderr, code := p.Run(t, "batch", "run", "../../examples/demo.jsonl", "--out", out, "--data-dir", up.DataDir); code != 0 {
		t.Fatalf("batch run exits with %d: %s", code, stderr)
	}
	results := readResults(t, out)
	var expect map[string]struct{ State, Blame, Reason string }
	text, err := os.ReadFile("../../examples/demo.expect.json")
	if err == nil {
		err = json.Unmarshal(text, &expect)
	}
	if err != nil || len(expect) == 0 || len(results) != len(expect) {
		t.Fatalf("%d results, %d expectations: %v", len(results), len(expect), err)
	}
	for key, want := range expect {
		if got := testenv.Verdict(results[key]); got != want.State+" "+want.Blame+" "+want.Reason {
			t.Errorf("%s ended as %q, want %+v: %+v", key, got, want, results[key].Verdict)
		}
	}
}

// readResults reads a file of results, by key.
func readResults(t *testing.T, file string) map[string]api.Job {
	t.Helper()
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	results := map[string]api.Job{}
	lines := bufio.NewScanner(f)
	lines.Buffer(nil, 16<<20)
	for lines.Scan() {
		var one api.Job
		if err := json.Unmarshal(lines.Bytes(), &one); err != nil {
			t.Fatalf("result %q: %v", lines.Text(), err)
		}
		results[one.Key] = one
	}
	if err := lines.Err(); err != nil {
		t.Fatal(err)
	}
	return results
}
