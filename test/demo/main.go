// Command demo shows Sandlot at work: it starts a server, runs the example
// programs, prints their verdicts beside what was expected and one job's
// trace, and stops the server again.
//
//	demo --sandlot bin/sandlot --jobs examples/demo.jsonl
//
// Each job names what it expects in its label "expect": state, blame, reason.
// The exit code is not 0 when any verdict was another.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"syscall"
	"time"
)

func main() {
	sandlot := flag.String("sandlot", "bin/sandlot", "the sandlot binary to show")
	jobs := flag.String("jobs", "examples/demo.jsonl", "the jobs to run")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := demo(ctx, *sandlot, *jobs)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "demo:", err)
		os.Exit(1)
	}
}

func demo(ctx context.Context, sandlot, jobs string) error {
	began := time.Now()
	images, err := imagesOf(jobs)
	if err != nil {
		return err
	}
	scratch, err := os.MkdirTemp("", "sandlot-demo-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(scratch)
	d := demonstration{sandlot: sandlot, dir: filepath.Join(scratch, "data"), out: filepath.Join(scratch, "results.jsonl")}

	heading("Start a server", "sandlot up")
	stop, err := d.up(ctx, images)
	if err != nil {
		return err
	}
	showErr := d.show(ctx, jobs)
	heading("Stop it", "Ctrl-C")
	stopped := time.Now()
	if err := stop(); showErr == nil && err != nil {
		return fmt.Errorf("stop server: %w", err)
	}
	if showErr != nil {
		return showErr
	}
	fmt.Printf("stopped in %.1f s; the whole demo took %.0f s\n", time.Since(stopped).Seconds(), time.Since(began).Seconds())
	fmt.Print(`
Now it is your turn:
  ` + sandlot + ` up &
  ` + sandlot + ` run --language python --code 'print(6*7)'
  ` + sandlot + ` jobs ls
  ` + sandlot + ` --help
`)
	return nil
}

// demonstration is one run of the demo.
type demonstration struct{ sandlot, dir, out string }

func (d demonstration) show(ctx context.Context, jobs string) error {
	heading("Run the examples", "sandlot batch run "+jobs+" --out results.jsonl")
	if err := d.run(ctx, "batch", "run", jobs, "--out", d.out); err != nil {
		return fmt.Errorf("batch run: %w", err)
	}
	results, err := readResults(d.out)
	if err != nil {
		return err
	}
	heading("Who is to blame, and which numbers say so", "results.jsonl")
	unexpected := printVerdicts(os.Stdout, results)
	if i := slices.IndexFunc(results, func(r result) bool { return r.State == "succeeded" && len(r.Steps) > 1 }); i >= 0 {
		heading("Where the time went", "sandlot trace JOB")
		if err := d.run(ctx, "trace", results[i].ID); err != nil {
			return fmt.Errorf("trace: %w", err)
		}
	}
	if unexpected > 0 {
		return fmt.Errorf("%d of %d verdicts were not as expected", unexpected, len(results))
	}
	return nil
}

// run runs a client command against the demo's server.
func (d demonstration) run(ctx context.Context, args ...string) error {
	cmd := exec.CommandContext(ctx, d.sandlot, append(args, "--data-dir", d.dir)...)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	return cmd.Run()
}

func heading(text, command string) {
	fmt.Printf("\n── %s ── %s\n", text, command)
}
