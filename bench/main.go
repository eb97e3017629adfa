// Command bench measures what a job costs: from submit to result, one at a
// time, and jobs per second, beside two ways to have the same program run by
// gVisor without Sandlot. All take turns in the same run on the same machine,
// so that their ratios mean something where the figures alone do not.
//
//	sandlot   sandlot up, a client that submits and waits
//	ctr       ctr run --rm, containerd with gVisor's shim: no queue, no limits
//	runsc     runsc run on an unpacked image: no containerd either
//
// The last lines are figures; bench.json in --out has the same.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"github.com/sandlot-dev/sandlot/bench/figure"
)

func main() {
	sandlot := flag.String("sandlot", "bin/sandlot", "the sandlot binary; its runtime is beside it")
	rounds := flag.Int("rounds", 3, "how often every contender has its turn")
	turn := flag.Duration("turn", 2500*time.Millisecond, "length of one measurement")
	slots := flag.Int("slots", 4, "slots of sandlot's worker; the others run as many at once")
	out := flag.String("out", "bench/out", "directory for bench.json with the figures")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	b := bench{rounds: *rounds, turn: *turn, concurrency: concurrency(*slots)}
	err := b.run(ctx, *sandlot, *slots, *out)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// concurrency is how many jobs are under way at once where the rate is
// measured: the best of these counts.
func concurrency(slots int) []int {
	if slots < 4 {
		return []int{slots}
	}
	return []int{slots / 2, slots}
}

// program is what is run.
type program struct {
	name, image string
	command     []string
	output      string
}

var programs = []program{
	{"echo", "busybox", []string{"echo", "hello"}, "hello\n"},
	{"python", "python", []string{"python3", "-c", "print(1)"}, "1\n"},
}

// contender is a way to run a program.
type contender interface {
	// once runs the program and returns when its result is known.
	once(ctx context.Context, p program) error
	// close removes all that the contender has started.
	close() error
}

func (b *bench) run(ctx context.Context, sandlot string, slots int, out string) (err error) {
	dir, err := os.MkdirTemp("", "sandlot-bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	sandlot, err = filepath.Abs(sandlot)
	if err != nil {
		return err
	}
	var contenders []named
	defer func() {
		for _, c := range contenders {
			if closeErr := c.close(); err == nil && closeErr != nil {
				err = fmt.Errorf("close %s: %w", c.name, closeErr)
			}
		}
	}()
	for _, start := range []struct {
		name string
		open func() (contender, error)
	}{
		{"sandlot", func() (contender, error) { return startSandlot(ctx, sandlot, filepath.Join(dir, "up"), slots) }},
		{"ctr", func() (contender, error) { return startCtr(ctx, sandlot, filepath.Join(dir, "ctr")) }},
		{"runsc", func() (contender, error) { return startRunsc(ctx, sandlot, filepath.Join(dir, "runsc")) }},
	} {
		c, err := start.open()
		if err != nil {
			return fmt.Errorf("start %s: %w", start.name, err)
		}
		contenders = append(contenders, named{start.name, c})
	}
	measured, err := b.measure(ctx, contenders)
	if err != nil {
		return err
	}
	report(measured)
	return figure.Write(filepath.Join(out, "bench.json"), nil, figures(measured))
}

type named struct {
	name string
	contender
}
