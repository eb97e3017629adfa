// Package examples_test turns the programs of this directory into the batch
// that the demo runs, and checks that the batch is up to date:
//
//	programs/*  +  jobs.json  ──▶  demo.jsonl, demo.expect.json
//
// After a change: go test ./examples -update
package examples_test

import (
	"bytes"
	"encoding/json"
	"flag"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/sandlot-dev/sandlot/pkg/api"
	"github.com/sandlot-dev/sandlot/pkg/image"
	"github.com/sandlot-dev/sandlot/pkg/job"
)

var update = flag.Bool("update", false, "write demo.jsonl and demo.expect.json anew")

// example is one entry of jobs.json.
type example struct {
	Program  string         `json:"program"`
	Language string         `json:"language"`
	Show     string         `json:"show"`   // what it shows, in a few words
	Expect   string         `json:"expect"` // state, blame, reason
	Body     map[string]any `json:"body"`   // further fields of the submit
}

type expectation struct {
	State  string `json:"state"`
	Blame  string `json:"blame"`
	Reason string `json:"reason"`
}

func examples(t *testing.T) []example {
	t.Helper()
	var list []example
	text, err := os.ReadFile("jobs.json")
	if err == nil {
		err = json.Unmarshal(text, &list)
	}
	if err != nil {
		t.Fatal(err)
	}
	return list
}

func TestDemoIsMadeOfThePrograms(t *testing.T) {
	var batch bytes.Buffer
	expect := map[string]expectation{}
	for _, e := range examples(t) {
		code, err := os.ReadFile(filepath.Join("programs", e.Program))
		if err != nil {
			t.Fatal(err)
		}
		key := strings.TrimSuffix(e.Program, filepath.Ext(e.Program))
		line := map[string]any{"key": key, "language": e.Language, "code": string(code),
			"labels": map[string]string{"expect": e.Expect, "show": e.Show}}
		maps.Copy(line, e.Body)
		encoder := json.NewEncoder(&batch)
		encoder.SetEscapeHTML(false)
		if err := encoder.Encode(line); err != nil {
			t.Fatal(err)
		}
		words := strings.Fields(e.Expect)
		if len(words) != 3 {
			t.Fatalf("%s: expect is %q, want state, blame and reason", e.Program, e.Expect)
		}
		if _, twice := expect[key]; twice {
			t.Fatalf("two examples are called %s", key)
		}
		expect[key] = expectation{words[0], words[1], words[2]}
	}
	expectations, err := json.MarshalIndent(expect, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	compare(t, "demo.jsonl", batch.Bytes())
	compare(t, "demo.expect.json", append(expectations, '\n'))
}

func compare(t *testing.T, name string, want []byte) {
	t.Helper()
	if *update {
		if err := os.WriteFile(name, want, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(name)
	if err != nil || !bytes.Equal(got, want) {
		t.Errorf("%s is not what the programs make (%v): go test ./examples -update", name, err)
	}
}

func TestEveryProgramIsUsedAndSaysWhatItShows(t *testing.T) {
	used := map[string]bool{}
	for _, e := range examples(t) {
		used[e.Program] = true
	}
	programs, err := filepath.Glob("programs/*")
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range programs {
		if !used[filepath.Base(path)] {
			t.Errorf("%s is not in jobs.json", path)
		}
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.HasPrefix(text, []byte("# ")) && !bytes.HasPrefix(text, []byte("// ")) {
			t.Errorf("%s does not begin with a comment on what it shows", path)
		}
	}
}

func TestEveryLineIsASubmitThatIsUnderstood(t *testing.T) {
	text, err := os.ReadFile("demo.jsonl")
	if err != nil {
		t.Fatal(err)
	}
	catalogue := image.Builtin()
	for line := range bytes.Lines(text) {
		submit, problem := api.DecodeSubmit(line)
		if problem != nil {
			t.Errorf("%s: %v", line, problem)
			continue
		}
		if _, ok := catalogue.Language(submit.Language); !ok {
			t.Errorf("%s: language %q is not in the catalogue", submit.Key, submit.Language)
		}
	}
}

func TestExpectationsUseTheWordsOfVerdicts(t *testing.T) {
	blames := []job.Blame{job.BlameNone, job.BlameProgram, job.BlameLimit}
	reasons := []job.Reason{job.Exited, job.Signaled, job.TimedOut, job.CPUTime, job.OutOfMemory, job.OutputLimit}
	for _, e := range examples(t) {
		words := strings.Fields(e.Expect)
		if words[0] != string(job.Succeeded) && words[0] != string(job.Failed) {
			t.Errorf("%s: no such state: %s", e.Program, words[0])
		}
		if !contains(blames, words[1]) || !contains(reasons, words[2]) {
			t.Errorf("%s: no such verdict: %s", e.Program, e.Expect)
		}
	}
}

func contains[T ~string](list []T, word string) bool {
	for _, w := range list {
		if string(w) == word {
			return true
		}
	}
	return false
}
