// Command chaos is the test of what a queue is for: real processes, NATS
// servers, schedulers and workers, are killed, stopped, restarted and cut off
// at random while clients submit thousands of jobs; then an independent
// checker (test/chaos/check) reads the streams and what everybody wrote down,
// and says which promise was broken, if any.
//
//	load    clients over HTTP, each ask and answer in a file of theirs
//	link    a bad network between any two processes
//	faults  what goes wrong when, planned by the seed
//	observe every revision of every record, past all links
//	run     load and faults, then quiet, then check
//
// The sandboxes are scripted, in workers that this program itself becomes, so
// that thousands run in a minute and tell when they ran; -real has the real
// worker with gVisor. A failing seed keeps all its logs and is run first the
// next time. The deliberate bugs of -sabotage test the test.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"
)

func main() {
	if is, code := asWorker(); is {
		os.Exit(code)
	}
	p := suite{}
	flag.StringVar(&p.setup.Sandlot, "sandlot", "bin/sandlot", "the sandlot binary")
	flag.StringVar(&p.setup.NATS, "nats-server", "bin/nats-server", "the nats-server binary")
	flag.IntVar(&p.setup.Nodes, "nodes", 1, "servers of NATS: 1 or 3")
	flag.IntVar(&p.setup.Schedulers, "schedulers", 2, "schedulers")
	flag.IntVar(&p.setup.Workers, "workers", 4, "workers")
	flag.IntVar(&p.setup.Slots, "slots", 6, "slots of each worker")
	flag.BoolVar(&p.setup.Real, "real", false, "real sandboxes: sandlot worker with gVisor")
	flag.StringVar(&p.setup.Sabotage, "sabotage", "", fmt.Sprintf("a deliberate bug, which must be found: %v", sabotages))
	flag.DurationVar(&p.setup.Quiet, "quiet", quietTime, "how long all jobs may take to end once all is well")
	flag.BoolVar(&p.keep, "keep", false, "keep the logs of seeds that pass, too")
	selftest := flag.Bool("selftest", false, "run every deliberate bug instead, each of which must be found")
	flag.Uint64Var(&p.first, "first", 1, "the first seed")
	flag.IntVar(&p.seeds, "seeds", 1, "how many seeds")
	flag.DurationVar(&p.length, "time", 20*time.Second, "how long load and faults last under each seed")
	flag.StringVar(&p.out, "out", "test/chaos/out", "directory for logs; those of seeds that pass are removed")
	flag.StringVar(&p.figures, "figures", "bench/out", "directory for chaos.json with the figures")
	flag.Parse()
	if p.setup.Real { // a smaller run: a sandbox costs more than its script
		p.setup.Workers, p.setup.Slots = min(p.setup.Workers, 2), min(p.setup.Slots, 2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	run := p.main
	if *selftest {
		run = p.selftest
	}
	code := run(ctx)
	stop()
	os.Exit(code)
}
