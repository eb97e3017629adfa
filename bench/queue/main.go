// Command queue measures what the queue itself costs: jobs that do nothing,
// from an HTTP submit to one recorded result each, through the processes of
// the product.
//
//	bench (this)      submits NDJSON, 1,000 lines a request, and waits
//	sandlot scheduler the product's binary
//	server            the NATS server as `sandlot up` embeds it, alone in a process
//	worker            worker.Worker with a runtime that does nothing
//
// The last lines are figures; queue.json in --out has the same.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"syscall"

	"github.com/sandlot-dev/sandlot/bench/figure"
	"github.com/sandlot-dev/sandlot/pkg/queue"
)

// settings say what is measured.
type settings struct {
	sandlot string
	out     string
	rounds  int
	jobs    int
	slots   int
	backlog int
	items   int
	pprof   string
	plot    string
	only    string
	// peerBinary is bench/peers; empty to measure ours alone.
	peerBinary string
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Args[1:])
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench-queue:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	if len(args) > 0 {
		if role, ok := roles[args[0]]; ok {
			return runRole(ctx, role, args[1:])
		}
	}
	var s settings
	f := flag.NewFlagSet("queue", flag.ContinueOnError)
	f.StringVar(&s.sandlot, "sandlot", "bin/sandlot", "the sandlot binary")
	f.StringVar(&s.out, "out", "bench/out", "directory for queue.json with the figures")
	f.IntVar(&s.rounds, "rounds", 3, "how often every contender has its turn")
	f.IntVar(&s.jobs, "jobs", 30_000, "jobs of one turn")
	f.IntVar(&s.slots, "slots", 256, "slots of the worker")
	f.IntVar(&s.backlog, "backlog", 1_000_000, "jobs queued behind in the longer of the two measurements of cost")
	f.StringVar(&s.pprof, "pprof", "", "directory for processor profiles of the parts; the scheduler is then a part of this binary")
	f.StringVar(&s.plot, "plot", "", "file for the picture of the cost; queue-cost.svg in --out by default")
	f.StringVar(&s.peerBinary, "peers", "", "the binary of bench/peers; without it ours is measured alone")
	f.StringVar(&s.only, "only", "", "measure only: rate, strict, idle or cost; batch is measured alone")
	f.IntVar(&s.items, "items", 1_000_000, "items of the batch")
	if err := f.Parse(args); err != nil {
		return err
	}
	var err error
	if s.sandlot, err = filepath.Abs(s.sandlot); err != nil {
		return err
	}
	if s.plot == "" {
		s.plot = filepath.Join(s.out, "queue-cost.svg")
	}
	if s.only == "batch" {
		return s.bigBatch(ctx)
	}
	return s.measure(ctx)
}

func (s *settings) wants(what string) bool { return s.only == "" || s.only == what }

// measure makes all measurements, one after the other.
func (s *settings) measure(ctx context.Context) error {
	var all []figure.Figure
	for _, level := range []struct {
		what, prefix string
		profile      queue.Profile
	}{
		{"rate", "", queue.Balanced},
		{"strict", "strict_", queue.Strict},
	} {
		if !s.wants(level.what) {
			continue
		}
		found, err := s.level(ctx, level.prefix, level.profile)
		if err != nil {
			return fmt.Errorf("%s: %w", level.profile, err)
		}
		all = append(all, found...)
	}
	if s.wants("idle") {
		found, err := s.idle(ctx)
		if err != nil {
			return fmt.Errorf("idle: %w", err)
		}
		all = append(all, found...)
	}
	if s.wants("cost") {
		found, err := s.cost(ctx)
		if err != nil {
			return fmt.Errorf("cost: %w", err)
		}
		all = append(all, found...)
	}
	return figure.Write(filepath.Join(s.out, "queue.json"), nil, all)
}

// level lets all contenders take turns at one level of durability.
func (s *settings) level(ctx context.Context, prefix string, profile queue.Profile) (all []figure.Figure, err error) {
	contenders := append([]contender{{name: "queue", start: func(ctx context.Context) (system, error) {
		return s.startSandlot(ctx, profile, true)
	}}}, s.peers(profile)...)
	defer func() {
		for _, c := range contenders {
			if c.system != nil {
				err = errors.Join(err, c.system.close())
			}
		}
	}()
	for i := range contenders {
		c := &contenders[i]
		if c.system, err = c.start(ctx); err != nil {
			return nil, fmt.Errorf("start %s: %w", c.name, err)
		}
		if _, err = c.system.turn(ctx, min(s.jobs, 2000)); err != nil { // warms up
			return nil, fmt.Errorf("%s: %w", c.name, err)
		}
	}
	for round := 1; round <= s.rounds; round++ {
		for i := range contenders {
			c := &contenders[i]
			m, err := c.system.turn(ctx, s.jobs)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", c.name, err)
			}
			fmt.Printf("%-8s %s round %d: %6.0f jobs/s, %5.0f us of processor time a job %s\n", profile, c.name, round, m.rate, m.cpu, m.parts)
			c.rates, c.cpus = append(c.rates, m.rate), append(c.cpus, m.cpu)
		}
	}
	for _, c := range contenders {
		all = append(all,
			figure.Of(c.name+"_"+prefix+"jobs_per_s", median(c.rates), "jobs/s"),
			figure.Of(c.name+"_"+prefix+"cpu_us_per_job", median(c.cpus), "us"))
	}
	return all, nil
}

// contender is a job queue that takes turns with others.
type contender struct {
	name        string
	start       func(context.Context) (system, error)
	system      system
	rates, cpus []float64
}

// system is a contender that runs.
type system interface {
	// turn submits n jobs, 1,000 at a time where it can, and returns when the
	// result of each is recorded.
	turn(ctx context.Context, n int) (measured, error)
	close() error
}

// measured is what came of a turn.
type measured struct {
	rate  float64 // jobs per second
	cpu   float64 // microseconds of processor time per job, of all servers and workers
	parts string  // the same by process, to read
}

func median(list []float64) float64 {
	sorted := slices.Sorted(slices.Values(list))
	return sorted[len(sorted)/2]
}
