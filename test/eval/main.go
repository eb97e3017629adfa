// Command eval checks the verdicts of Sandlot against programs that others
// wrote: HumanEval in Python and in JavaScript, with right answers and with
// bodies that do nothing.
//
//	eval --data DIR [--sandlot bin/sandlot] [--rounds 3]
//
// DIR holds humaneval.jsonl.gz and humanevalx_js.jsonl.gz as their authors
// publish them. Each round is one `sandlot batch run --local`. The last lines
// are figures; the exit code is not 0 when any job was judged otherwise than
// expected.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
)

func main() {
	data := flag.String("data", "", "directory with humaneval.jsonl.gz and humanevalx_js.jsonl.gz")
	sandlot := flag.String("sandlot", "bin/sandlot", "the sandlot binary to use")
	rounds := flag.Int("rounds", 3, "how often to run everything")
	dataDir := flag.String("data-dir", "", "passed on to sandlot (default: a temporary one)")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, *data, *sandlot, *dataDir, *rounds)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "eval:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, data, sandlot, dataDir string, rounds int) error {
	if data == "" {
		return errors.New("name the directory of the public files with --data DIR")
	}
	sets, err := load(data)
	if err != nil {
		return err
	}
	scratch, err := os.MkdirTemp("", "sandlot-eval-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(scratch)
	batch := filepath.Join(scratch, "batch.jsonl")
	if err := writeBatch(batch, sets); err != nil {
		return err
	}

	unexpected := 0
	var took []time.Duration
	worst := map[string]int{} // fewest jobs of a set as expected, over all rounds
	succeeded := map[string]int{}
	for round := 1; round <= rounds; round++ {
		fmt.Printf("round %d of %d\n", round, rounds)
		out := filepath.Join(scratch, fmt.Sprintf("results-%d.jsonl", round))
		begin := time.Now()
		if err := runBatch(ctx, sandlot, dataDir, batch, out); err != nil {
			return fmt.Errorf("round %d: %w", round, err)
		}
		took = append(took, time.Since(begin))
		results, err := readResults(out)
		if err != nil {
			return fmt.Errorf("round %d: %w", round, err)
		}
		for _, s := range sets {
			good := s.judge(results)
			succeeded[s.name] = s.succeeded(results)
			unexpected += len(s.programs) - good
			if before, ok := worst[s.name]; !ok || good < before {
				worst[s.name] = good
			}
			fmt.Printf("  %-17s %d of %d succeeded; %d as expected (%s)\n",
				s.name, succeeded[s.name], len(s.programs), good, s.expectation())
		}
	}
	for _, s := range sets {
		fmt.Printf("figure eval_%s_succeeded %d jobs\n", s.name, succeeded[s.name])
		fmt.Printf("figure eval_%s_as_expected %d jobs\n", s.name, worst[s.name])
	}
	fmt.Printf("figure eval_rounds %d rounds\n", rounds)
	fmt.Printf("figure eval_unexpected %d jobs\n", unexpected)
	fmt.Printf("figure eval_round %.1f s\n", slices.Max(took).Seconds())
	if unexpected > 0 {
		return fmt.Errorf("%d verdicts were not as expected", unexpected)
	}
	return nil
}

// runBatch lets sandlot run the batch with a stack of its own. Exit code 3
// means that lines were refused; they are missing from what was expected and
// counted there.
func runBatch(ctx context.Context, sandlot, dataDir, batch, out string) error {
	args := []string{"batch", "run", batch, "--out", out, "--local"}
	if dataDir != "" {
		args = append(args, "--data-dir", dataDir)
	}
	cmd := exec.CommandContext(ctx, sandlot, args...)
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	err := cmd.Run()
	if exit, ok := errors.AsType[*exec.ExitError](err); ok && exit.ExitCode() == 3 {
		return nil
	}
	return err
}

func writeBatch(path string, sets []set) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	defer f.Close()
	w := bufio.NewWriter(f)
	encoder := json.NewEncoder(w)
	for _, s := range sets {
		for _, p := range s.programs {
			line := map[string]string{"key": s.key(p), "language": s.language, "code": p.code}
			if err := encoder.Encode(line); err != nil {
				return err
			}
		}
	}
	return w.Flush()
}

// result is what eval reads of a line of results.
type result struct {
	Key     string `json:"key"`
	State   string `json:"state"`
	Verdict struct {
		Blame    string          `json:"blame"`
		Reason   string          `json:"reason"`
		Evidence json.RawMessage `json:"evidence"`
	} `json:"verdict"`
	Steps []struct {
		Stderr struct {
			Text string `json:"text"`
		} `json:"stderr"`
	} `json:"steps"`
	Error json.RawMessage `json:"error"`
}

func (r result) String() string {
	text := fmt.Sprintf("%s, %s: %s %s%s", r.State, r.Verdict.Blame, r.Verdict.Reason, r.Verdict.Evidence, r.Error)
	if n := len(r.Steps); n > 0 {
		lines := strings.Split(strings.TrimSpace(r.Steps[n-1].Stderr.Text), "\n")
		text += " stderr: " + lines[len(lines)-1]
	}
	return text
}

func readResults(path string) (map[string]result, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	results := map[string]result{}
	decoder := json.NewDecoder(bufio.NewReader(f))
	for decoder.More() {
		var r result
		if err := decoder.Decode(&r); err != nil {
			return nil, fmt.Errorf("read %s: %w", path, err)
		}
		if _, twice := results[r.Key]; twice {
			return nil, fmt.Errorf("read %s: key %q is there twice", path, r.Key)
		}
		results[r.Key] = r
	}
	return results, nil
}
