package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/sandlot-dev/sandlot/pkg/image"
)

// result is what the demo reads of a line of results.
type result struct {
	ID      string            `json:"id"`
	Key     string            `json:"key"`
	State   string            `json:"state"`
	Labels  map[string]string `json:"labels"`
	Verdict struct {
		Blame    string         `json:"blame"`
		Reason   string         `json:"reason"`
		Evidence map[string]any `json:"evidence"`
	} `json:"verdict"`
	Steps []struct {
		Wall int64 `json:"wall_ms"`
	} `json:"steps"`
	Error json.RawMessage `json:"error"`
}

func (r result) verdict() string {
	return strings.Join([]string{r.State, r.Verdict.Blame, r.Verdict.Reason}, " ")
}

func readResults(path string) ([]result, error) {
	var all []result
	err := eachLine(path, func(decoder *json.Decoder) error {
		var r result
		err := decoder.Decode(&r)
		all = append(all, r)
		return err
	})
	slices.SortStableFunc(all, func(a, b result) int { return strings.Compare(a.Key, b.Key) })
	return all, err
}

// imagesOf are the catalogue images that a file of jobs needs.
func imagesOf(path string) ([]string, error) {
	catalogue := image.Builtin()
	var images []string
	err := eachLine(path, func(decoder *json.Decoder) error {
		var line struct{ Image, Language string }
		if err := decoder.Decode(&line); err != nil {
			return err
		}
		name := line.Image
		if l, ok := catalogue.Language(line.Language); ok {
			name = l.Image
		}
		if _, ok := catalogue.Recipe(name); ok && !slices.Contains(images, name) {
			images = append(images, name)
		}
		return nil
	})
	return images, err
}

func eachLine(path string, read func(*json.Decoder) error) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	decoder := json.NewDecoder(bufio.NewReader(f))
	for n := 1; decoder.More(); n++ {
		if err := read(decoder); err != nil {
			return fmt.Errorf("%s, job %d: %w", path, n, err)
		}
	}
	return nil
}

// printVerdicts prints a table of all jobs and counts those whose verdict is
// not the expected one.
func printVerdicts(w io.Writer, results []result) (unexpected int) {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "JOB\tWHAT IT IS\tSTATE\tBLAME\tREASON\tEVIDENCE\tAS EXPECTED")
	for _, r := range results {
		judged := "yes"
		if want := r.Labels["expect"]; r.verdict() != want {
			judged = "NO, expected " + want
			unexpected++
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%s\t%s\n", r.Key, r.Labels["show"], r.State, r.Verdict.Blame, r.Verdict.Reason, r.evidence(), judged)
	}
	_ = t.Flush() // a broken pipe has nobody to be told
	return unexpected
}

// evidence is the numbers that decided, in a few words.
func (r result) evidence() string {
	e := r.Verdict.Evidence
	number := func(name string) float64 { n, _ := e[name].(float64); return n }
	var parts []string
	switch unit, _ := e["unit"].(string); unit {
	case "":
		if signal, ok := e["signal"].(string); ok && signal != "" {
			parts = append(parts, signal)
		} else if _, ok := e["exit_code"]; ok {
			parts = append(parts, fmt.Sprintf("exit code %.0f", number("exit_code")))
		}
	case "bytes":
		parts = append(parts, fmt.Sprintf("%.1f MiB of %.1f MiB", number("measured")/(1<<20), number("limit")/(1<<20)))
	default:
		parts = append(parts, fmt.Sprintf("%.0f %s of %.0f", number("measured"), unit, number("limit")))
	}
	if n := number("oom_kills"); n > 0 {
		parts = append(parts, fmt.Sprintf("oom kills %.0f", n))
	}
	if hit, ok := e["hit"].([]any); ok {
		parts = append(parts, fmt.Sprintf("hit %v", hit))
	}
	if r.Error != nil {
		parts = append(parts, string(r.Error))
	}
	return strings.Join(parts, ", ")
}
