package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/sandlot-dev/sandlot/test/chaos/check"
)

// suite runs many seeds.
type suite struct {
	setup   setup
	first   uint64
	seeds   int
	length  time.Duration
	out     string
	figures string
	keep    bool
}

// trial is a seed on so many nodes.
type trial struct {
	Nodes int    `json:"nodes"`
	Seed  uint64 `json:"seed"`
}

func (t trial) String() string { return fmt.Sprintf("nodes%d-seed%d", t.Nodes, t.Seed) }

// main runs the seeds that failed before and those that were asked for, and
// is the exit code.
func (p suite) main(ctx context.Context) int {
	if err := p.prepare(); err != nil {
		fmt.Fprintln(os.Stderr, "chaos:", err)
		return 2
	}
	failing := p.readFailing()
	var trials []trial
	for _, t := range failing {
		if t.Nodes == p.setup.Nodes {
			trials = append(trials, t)
		}
	}
	for i := range p.seeds {
		t := trial{p.setup.Nodes, p.first + uint64(i)}
		if !slices.Contains(trials, t) {
			trials = append(trials, t)
		}
	}
	var outcomes []outcome
	passed, failed := 0, 0
	for _, t := range trials {
		o, err := p.one(ctx, t)
		if ctx.Err() != nil {
			fmt.Fprintln(os.Stderr, "chaos: interrupted")
			return 2
		}
		outcomes = append(outcomes, o)
		failing = slices.DeleteFunc(failing, func(other trial) bool { return other == t })
		if err == nil && len(o.Findings) == 0 {
			passed++
		} else {
			failed++
			failing = append(failing, t)
		}
		if err := p.writeFailing(failing); err != nil {
			fmt.Fprintln(os.Stderr, "chaos:", err)
			return 2
		}
	}
	if err := p.report(outcomes, passed); err != nil {
		fmt.Fprintln(os.Stderr, "chaos:", err)
		return 2
	}
	fmt.Printf("chaos: %d passed, %d failed\n", passed, failed)
	if failed > 0 {
		return 1
	}
	return 0
}

func (p *suite) prepare() (err error) {
	if p.setup.Nodes != 1 && p.setup.Nodes != 3 {
		return fmt.Errorf("-nodes %d: write 1 or 3", p.setup.Nodes)
	}
	for _, path := range []*string{&p.setup.Sandlot, &p.setup.NATS, &p.out} {
		if *path, err = filepath.Abs(*path); err != nil {
			return err
		}
	}
	for _, path := range []string{p.setup.Sandlot, p.setup.NATS} {
		if _, err := os.Stat(path); err != nil {
			return fmt.Errorf("%w; run `make build` first", err)
		}
	}
	return os.MkdirAll(p.out, 0o755)
}

// one runs one trial and tells how it went.
func (p suite) one(ctx context.Context, t trial) (outcome, error) {
	s := p.setup
	s.Nodes, s.Out = t.Nodes, filepath.Join(p.out, t.String())
	if err := os.RemoveAll(s.Out); err != nil {
		return outcome{}, err
	}
	o, err := run(ctx, s, t.Seed, p.length)
	if err != nil {
		o.Seed, o.Nodes = t.Seed, t.Nodes
		o.Findings = append(o.Findings, check.Finding{Rule: "the harness works", Text: err.Error()})
	}
	tell(o, s.Out)
	if len(o.Findings) == 0 && !p.keep {
		return o, os.RemoveAll(s.Out)
	}
	return o, nil
}

// tell writes a line about a run, and what is wrong with it.
func tell(o outcome, dir string) {
	verdict := "ok"
	if len(o.Findings) > 0 {
		verdict = fmt.Sprintf("FAILED, %d findings, logs in %s", len(o.Findings), dir)
	}
	st := o.Stats
	fmt.Printf("seed %d, %d node(s), %.0f s: %d faults, %d asks, %d accepted (%d repeats, %d conflicts), %d records, %d revisions (%d unseen), "+
		"%d executions, %d retried, %d lost, %d canceled, %d expired, %d dead, %d removed, %d named batches, %d uploads of %d items, %d releases seen; quiet after %.1f s: %s\n",
		o.Seed, o.Nodes, o.Took.Seconds(), o.Faults, o.Asks, st.Accepted, st.Repeats, st.Conflicts, st.Records, st.Revisions, st.Gaps,
		st.Executions, st.Retried, st.Lost, st.Canceled, st.Expired, st.Dead, st.Removed, st.Batches, st.Uploads, st.Items, st.Releases, o.Settled.Seconds(), verdict)
	for i, f := range o.Findings {
		if i == 20 {
			fmt.Printf("  … and %d more\n", len(o.Findings)-i)
			break
		}
		fmt.Println("  " + f.String())
	}
}

// failing is the file that lists the trials that failed last time.
func (p suite) failing() string { return filepath.Join(p.out, "failing") }

func (p suite) readFailing() []trial {
	data, err := os.ReadFile(p.failing())
	if errors.Is(err, fs.ErrNotExist) || p.setup.Sabotage != "" {
		return nil
	}
	var all []trial
	for _, line := range strings.Split(string(data), "\n") {
		var t trial
		if _, err := fmt.Sscanf(line, "nodes%d-seed%d", &t.Nodes, &t.Seed); err == nil {
			all = append(all, t)
		}
	}
	return all
}

func (p suite) writeFailing(all []trial) error {
	if p.setup.Sabotage != "" {
		return nil
	}
	var text strings.Builder
	for _, t := range all {
		fmt.Fprintln(&text, t)
	}
	return os.WriteFile(p.failing(), []byte(text.String()), 0o644)
}

// figure is one number that can be compared between runs.
type figure struct {
	Name  string  `json:"name"`
	Value float64 `json:"value"`
	Unit  string  `json:"unit"`
}

// report prints the figures and keeps them with what they are from.
func (p suite) report(outcomes []outcome, passed int) error {
	all := []figure{{"chaos_seeds_green", float64(passed), "seeds"}}
	for _, f := range all {
		fmt.Printf("figure %s %.4g %s\n", f.Name, f.Value, f.Unit)
	}
	if p.setup.Sabotage != "" {
		return nil
	}
	if err := os.MkdirAll(p.figures, 0o755); err != nil {
		return err
	}
	name := "chaos.json"
	if p.setup.Nodes != 1 {
		name = fmt.Sprintf("chaos-%d.json", p.setup.Nodes)
	}
	return writeJSON(filepath.Join(p.figures, name), map[string]any{
		"time": time.Now().UTC().Format(time.RFC3339), "figures": all, "runs": outcomes,
		"host": map[string]any{"cpus": runtime.NumCPU(), "go": runtime.Version(), "os": runtime.GOOS + "/" + runtime.GOARCH},
	})
}
