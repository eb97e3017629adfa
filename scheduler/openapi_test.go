package scheduler_test

import (
	"bytes"
	"encoding/json"
	"flag"
	"io"
	"net/http"
	"os"
	"strings"
	"testing"

	"github.com/sandlot-dev/sandlot/scheduler"
)

var update = flag.Bool("update", false, "write golden files")

const golden = "../docs/openapi.json"

func TestOpenAPIDocumentIsTheGoldenOne(t *testing.T) {
	w := newWorld(t, func(c *scheduler.Config) { c.Version = "1" })
	got := indented(t, fetch(t, w.url+"/openapi.json"))
	if *update {
		must(t, os.WriteFile(golden, got, 0o644))
	}
	want, err := os.ReadFile(golden)
	must(t, err)
	if !bytes.Equal(got, want) {
		t.Errorf("%s is out of date; run go test ./scheduler -run OpenAPI -update", golden)
	}
	if yaml := fetch(t, w.url+"/openapi.yaml"); !bytes.Contains(yaml, []byte("openapi: 3.1.0")) {
		t.Errorf("YAML begins with %.100s", yaml)
	}
}

func fetch(t *testing.T, url string) []byte {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	must(t, err)
	r, err := http.DefaultClient.Do(req)
	must(t, err)
	defer r.Body.Close()
	data, err := io.ReadAll(r.Body)
	must(t, err)
	if r.StatusCode != http.StatusOK {
		t.Fatalf("%s: %s: %s", url, r.Status, data)
	}
	return data
}

func indented(t *testing.T, data []byte) []byte {
	t.Helper()
	var out bytes.Buffer
	must(t, json.Indent(&out, data, "", "  "))
	out.WriteByte('\n')
	return out.Bytes()
}

// TestOpenAPIDocumentHoldsTogether checks what a reader of the document
// relies on: every reference leads somewhere, every operation has an id of
// its own and an answer, every parameter of a path is declared.
func TestOpenAPIDocumentHoldsTogether(t *testing.T) {
	w := newWorld(t, nil)
	var doc map[string]any
	must(t, json.Unmarshal(fetch(t, w.url+"/openapi.json"), &doc))
	if doc["openapi"] != "3.1.0" {
		t.Errorf("openapi is %v", doc["openapi"])
	}
	references(doc, func(ref string) {
		at := any(doc)
		for name := range strings.SplitSeq(strings.TrimPrefix(ref, "#/"), "/") {
			m, _ := at.(map[string]any)
			at = m[name]
		}
		if at == nil {
			t.Errorf("%s leads nowhere", ref)
		}
	})
	seen := map[string]bool{}
	for path, item := range doc["paths"].(map[string]any) {
		for method, raw := range item.(map[string]any) {
			op := raw.(map[string]any)
			id, _ := op["operationId"].(string)
			if id == "" || seen[id] {
				t.Errorf("%s %s: operationId %q is empty or taken", method, path, id)
			}
			seen[id] = true
			if answers, _ := op["responses"].(map[string]any); len(answers) < 2 {
				t.Errorf("%s %s has no answers", method, path)
			}
			checkPathParameters(t, method+" "+path, path, op)
		}
	}
}

func checkPathParameters(t *testing.T, where, path string, op map[string]any) {
	t.Helper()
	declared := map[string]bool{}
	list, _ := op["parameters"].([]any)
	for _, raw := range list {
		if p := raw.(map[string]any); p["in"] == "path" {
			declared[p["name"].(string)] = true
		}
	}
	for piece := range strings.SplitSeq(path, "/") {
		if name, ok := strings.CutPrefix(piece, "{"); ok && !declared[strings.TrimSuffix(name, "}")] {
			t.Errorf("%s: parameter %s is not declared", where, piece)
		}
	}
}

func references(v any, each func(string)) {
	switch v := v.(type) {
	case map[string]any:
		for name, inner := range v {
			if ref, ok := inner.(string); ok && name == "$ref" {
				each(ref)
			}
			references(inner, each)
		}
	case []any:
		for _, inner := range v {
			references(inner, each)
		}
	}
}
