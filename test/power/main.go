// Command power is the test of what durability promises: a machine under load
// loses its power, again and again, and what its clients were told before is
// compared with what is there after.
//
//	disk     keeps what was flushed, and may forget the rest
//	machine  servers and scheduler on such disks, and workers; all die at once
//	clients  submit, wait, look and cancel
//	ledger   what clients and listeners were told, and the judge
//
// The disks lie below a real ext4: which pages it has written by the time of
// the cut, and in which order, is the kernel's doing. The sandboxes are
// scripted, in workers that this program itself becomes.
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"syscall"
	"time"

	"github.com/sandlot-dev/sandlot/pkg/queue"
)

// claims are what the profiles promise: how old a change may be that is lost.
// That of balanced is the server's sync interval, and what a sync takes.
var claims = map[queue.Profile]claim{
	queue.Balanced: claim(2 * time.Second),
	queue.Strict:   0,
	queue.Cluster:  0,
}

// suite runs many seeds.
type suite struct {
	setup        setup
	profile      string
	first        uint64
	seeds        int
	losses       int
	out, figures string
	keep         bool
}

func main() {
	if is, code := asRole(); is {
		os.Exit(code)
	}
	if ran, code := apart(); ran {
		os.Exit(code)
	}
	p := suite{}
	flag.StringVar(&p.setup.Sandlot, "sandlot", "bin/sandlot", "the sandlot binary")
	flag.StringVar(&p.setup.NATS, "nats-server", "bin/nats-server", "the nats-server binary")
	flag.StringVar(&p.profile, "durability", "", "balanced, strict or cluster; all by turns if empty")
	flag.Uint64Var(&p.first, "first", 1, "the first seed")
	flag.IntVar(&p.seeds, "seeds", 1, "how many seeds of each profile")
	flag.IntVar(&p.losses, "losses", 3, "how often each seed loses its power")
	flag.StringVar(&p.out, "out", "test/power/out", "directory for logs; those of seeds that pass are removed")
	flag.StringVar(&p.figures, "figures", "bench/out", "directory for power.json with the figures")
	flag.BoolVar(&p.keep, "keep", false, "keep the logs of seeds that pass, too")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := p.main(ctx)
	stop()
	os.Exit(code)
}

func (p suite) main(ctx context.Context) int {
	var err error
	for _, path := range []*string{&p.setup.Sandlot, &p.setup.NATS, &p.out} {
		if *path, err = filepath.Abs(*path); err != nil {
			fmt.Fprintln(os.Stderr, "power:", err)
			return 2
		}
	}
	profiles := []queue.Profile{queue.Strict, queue.Balanced, queue.Cluster}
	if p.profile != "" {
		profiles = []queue.Profile{queue.Profile(p.profile)}
	}
	var outcomes []outcome
	passed, failed, survived := 0, 0, 0
	for i := range p.seeds {
		for _, profile := range profiles {
			o, err := p.one(ctx, profile, p.first+uint64(i))
			if ctx.Err() != nil {
				fmt.Fprintln(os.Stderr, "power: interrupted")
				return 2
			}
			if err != nil {
				o.Findings = append(o.Findings, "the harness: "+err.Error())
			}
			outcomes = append(outcomes, o)
			if len(o.Findings) > 0 {
				failed++
			} else {
				passed++
				survived += o.Stats.Losses
			}
		}
	}
	if err := p.report(outcomes, survived); err != nil {
		fmt.Fprintln(os.Stderr, "power:", err)
		return 2
	}
	fmt.Printf("power: %d passed, %d failed\n", passed, failed)
	if failed > 0 {
		return 1
	}
	return 0
}

// one runs one seed under one profile and tells how it went.
func (p suite) one(ctx context.Context, profile queue.Profile, seed uint64) (outcome, error) {
	c, known := claims[profile]
	if !known {
		return outcome{}, fmt.Errorf("-durability %q: write balanced, strict or cluster", profile)
	}
	s := p.setup
	s.Profile, s.Embedded = profile, profile != queue.Cluster && seed%2 == 0
	s.Out = filepath.Join(p.out, fmt.Sprintf("%s-seed%d", profile, seed))
	if err := os.RemoveAll(s.Out); err != nil {
		return outcome{}, err
	}
	o, err := run(ctx, s, seed, p.losses, c)
	verdict := "ok"
	if err != nil || len(o.Findings) > 0 {
		verdict = fmt.Sprintf("FAILED, %d findings, logs in %s", len(o.Findings), s.Out)
	}
	fmt.Printf("%s, seed %d, %s: %s: %s\n", profile, seed, o.Server, o, verdict)
	if err != nil {
		fmt.Println("  the harness:", err)
	}
	for i, f := range o.Findings {
		if i == 20 {
			fmt.Printf("  … and %d more\n", len(o.Findings)-i)
			break
		}
		fmt.Println("  " + f)
	}
	if verdict == "ok" && !p.keep {
		return o, os.RemoveAll(s.Out)
	}
	return o, err
}

// String says what was seen.
func (o outcome) String() string {
	s := o.Stats
	return fmt.Sprintf("%.0f s, mounted %q, %d losses, %d flushes, %d of %d fresh pages gone, %d jobs acknowledged, %d answered, %d lost, %d set back, oldest change that is gone %d ms old; all ended after %.1f s",
		o.Took.Seconds(), o.Mount, s.Losses, o.Flushes, s.Gone, s.Pages, s.Accepted, s.Answered, s.Lost, s.Reset, s.Oldest.Milliseconds(), o.Settled.Seconds())
}

// report prints the figures and keeps them with what they are from.
func (p suite) report(outcomes []outcome, survived int) error {
	fmt.Printf("figure power_losses_survived %d losses\n", survived)
	oldest := time.Duration(0)
	for _, o := range outcomes {
		if o.Profile == string(queue.Balanced) {
			oldest = max(oldest, o.Stats.Oldest)
		}
	}
	fmt.Printf("figure power_balanced_oldest_loss %d ms\n", oldest.Milliseconds())
	if err := os.MkdirAll(p.figures, 0o755); err != nil {
		return err
	}
	data, err := json.MarshalIndent(map[string]any{
		"time": time.Now().UTC().Format(time.RFC3339), "runs": outcomes,
		"figures": []map[string]any{
			{"name": "power_losses_survived", "value": survived, "unit": "losses"},
			{"name": "power_balanced_oldest_loss", "value": oldest.Milliseconds(), "unit": "ms"},
		},
		"host": map[string]any{"cpus": runtime.NumCPU(), "go": runtime.Version(), "os": runtime.GOOS + "/" + runtime.GOARCH},
	}, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(p.figures, "power.json"), append(data, '\n'), 0o644)
}
