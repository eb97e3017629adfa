package main

import (
	"bufio"
	"compress/gzip"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
)

// set is programs of one kind, all of which should end alike but for some.
type set struct {
	name     string
	language string
	programs []program
	// succeed is what is expected of all programs but those in except.
	succeed bool
	except  []string
}

type program struct{ id, code string }

// brokenUpstream are answers of the JavaScript set that are wrong as they
// were published: two fail their tests, one wants a package from npm.
var brokenUpstream = []string{"JavaScript/112", "JavaScript/155", "JavaScript/162"}

// assertExits makes a failed console.assert end the program: Node's own only
// prints.
const assertExits = `console.assert = (ok) => { if (!ok) { console.error("assertion failed"); process.exit(1) } }` + "\n"

func load(dir string) ([]set, error) {
	python, err := readProblems(filepath.Join(dir, "humaneval.jsonl.gz"))
	if err != nil {
		return nil, err
	}
	js, err := readProblems(filepath.Join(dir, "humanevalx_js.jsonl.gz"))
	if err != nil {
		return nil, err
	}
	pythonCode := func(body func(problem) string) []program {
		return programs(python, func(p problem) string {
			return p.Prompt + body(p) + "\n" + p.Test + "\ncheck(" + p.EntryPoint + ")\n"
		})
	}
	jsCode := func(body func(problem) string) []program {
		return programs(js, func(p problem) string {
			return assertExits + p.Prompt + body(p) + "\n" + p.Test
		})
	}
	canonical := func(p problem) string { return p.Canonical }
	stub := func(text string) func(problem) string { return func(problem) string { return text } }
	return []set{
		{name: "python_canonical", language: "python", programs: pythonCode(canonical), succeed: true},
		{name: "python_stub", language: "python", programs: pythonCode(stub("    return None\n"))},
		{name: "js_canonical", language: "node", programs: jsCode(canonical), succeed: true, except: brokenUpstream},
		{name: "js_stub", language: "node", programs: jsCode(stub("  return undefined;\n}\n"))},
	}, nil
}

func programs(problems []problem, code func(problem) string) []program {
	list := make([]program, len(problems))
	for i, p := range problems {
		list[i] = program{p.ID, code(p)}
	}
	return list
}

func (s set) key(p program) string { return s.name + "/" + p.id }

func (s set) expectation() string {
	want := "failed, blame program"
	if s.succeed {
		want = "succeeded"
	}
	if len(s.except) > 0 {
		want += fmt.Sprintf(", the other way for %v", s.except)
	}
	return want
}

// judge counts the programs that ended as expected and prints the others.
func (s set) judge(results map[string]result) int {
	good := 0
	for _, p := range s.programs {
		r, ok := results[s.key(p)]
		succeed := s.succeed != slices.Contains(s.except, p.id)
		switch {
		case !ok:
			fmt.Printf("  %s: no result\n", s.key(p))
		case succeed && r.State == "succeeded" && r.Verdict.Blame == "none":
			good++
		case !succeed && r.State == "failed" && r.Verdict.Blame == "program":
			good++
		default:
			fmt.Printf("  %s: %s\n", s.key(p), r)
		}
	}
	return good
}

// succeeded counts the programs that exited with 0.
func (s set) succeeded(results map[string]result) int {
	n := 0
	for _, p := range s.programs {
		if results[s.key(p)].State == "succeeded" {
			n++
		}
	}
	return n
}

// problem is one row of the files.
type problem struct {
	ID         string `json:"task_id"`
	Prompt     string `json:"prompt"`
	Canonical  string `json:"canonical_solution"`
	Test       string `json:"test"`
	EntryPoint string `json:"entry_point"`
}

func readProblems(path string) ([]problem, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("%w\nThe file is public: HumanEval of openai/human-eval, HumanEval-X of THUDM/CodeGeeX", err)
	}
	defer f.Close()
	z, err := gzip.NewReader(bufio.NewReader(f))
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", path, err)
	}
	var list []problem
	decoder := json.NewDecoder(z)
	for decoder.More() {
		var p problem
		if err := decoder.Decode(&p); err != nil {
			return nil, fmt.Errorf("read %s: %w", path, err)
		}
		list = append(list, p)
	}
	return list, nil
}
