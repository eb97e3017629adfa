package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/sandlot-dev/sandlot/worker"

	"github.com/sandlot-dev/sandlot/pkg/queue"
)

// schedulerRole is how `sandlot scheduler` is set up.
type schedulerRole struct {
	DataDir   string
	Scheduler schedulerConfig
	NATS      natsConfig
	Log       logConfig
}

func (c *schedulerRole) wrong() problems {
	p := append(c.Scheduler.wrong(), c.NATS.wrong()...)
	switch c.NATS.Replicas {
	case 0, 1, 3, 5:
	default:
		p.addf("--replicas %d: write 1, 3 or 5", c.NATS.Replicas)
	}
	p.check(c.NATS.Durability == "" || queue.Profile(c.NATS.Durability).Valid(),
		"--durability %q: write fast, balanced, strict or cluster", c.NATS.Durability)
	return append(p, c.Log.wrong()...)
}

func (a *app) schedulerCmd() *cobra.Command {
	c := schedulerRole{
		Scheduler: defaultScheduler(),
		NATS:      natsConfig{URL: "nats://127.0.0.1:4222"},
		Log:       logConfig{Level: "info", Format: "text"},
	}
	cmd := &cobra.Command{
		Use:   "scheduler",
		Short: "Start a scheduler on a NATS server of yours",
		Long: `Start a scheduler: the HTTP API, and the release of jobs to the workers. All
state is in NATS; --data-dir holds only the address and the token for clients.`,
		GroupID: groupServer,
		Args:    exactArgs(0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			c.DataDir = a.dataDir
			if ok, err := a.ready(cmd, &c); !ok || err != nil {
				return err
			}
			s, err := a.startSchedulerRole(cmd.Context(), c)
			if err != nil {
				return a.startFailed(cmd.Context(), err)
			}
			return a.serve(s, fmt.Sprintf("scheduler is ready at %s, token in %s/token", s.url, s.dir))
		},
	}
	f := cmd.Flags()
	c.Scheduler.flags(f)
	c.NATS.flags(f)
	f.BoolVar(&c.Scheduler.Gateway, "gateway", false, "serve the API only; another scheduler makes the streams and releases jobs")
	withEnv(f, "gateway")
	f.IntVar(&c.NATS.Replicas, "replicas", c.NATS.Replicas, "copies of each stream in a NATS cluster: 1, 3 or 5 (default: what --durability needs)")
	c.NATS.durabilityFlags(f, "what a loss of power may take, as the NATS server is set up: fast (2 min), balanced (1 s), strict or cluster (nothing)")
	f.StringVar(&c.NATS.Store, "nats-store", "", "directory of the NATS server's files, if it is on this host: has accepts stop before its disk is full")
	withEnv(f, "replicas", "nats-store")
	c.NATS.roomFlag(f)
	c.Log.flags(f)
	printConfigFlag(f)
	return cmd
}

// workerRole is how `sandlot worker` is set up.
type workerRole struct {
	DataDir string
	Worker  workerConfig
	NATS    natsConfig
	Log     logConfig
}

func (c *workerRole) wrong() problems {
	return append(append(c.Worker.wrong(), c.NATS.wrong()...), c.Log.wrong()...)
}

func (a *app) workerCmd() *cobra.Command {
	c := workerRole{
		Worker: defaultWorker(30 * time.Second),
		NATS:   natsConfig{URL: "nats://127.0.0.1:4222"},
		Log:    logConfig{Level: "info", Format: "text"},
	}
	cmd := &cobra.Command{
		Use:   "worker",
		Short: "Start a worker that takes jobs from a NATS server of yours",
		Long: `Start a worker. It needs root and the cgroups of the host; sandlot doctor says
whether this host will do. At a first signal it takes no more jobs and lets those
that run go on for --drain; then they go back to the queue.`,
		GroupID: groupServer,
		Args:    exactArgs(0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			c.DataDir = a.dataDir
			if ok, err := a.ready(cmd, &c); !ok || err != nil {
				return err
			}
			s, err := a.startWorkerRole(cmd.Context(), c)
			if err != nil {
				return a.startFailed(cmd.Context(), err)
			}
			return a.serve(s, fmt.Sprintf("worker %s takes jobs of pool %s, %d at once", s.name(), c.Worker.Pool, c.Worker.Slots))
		},
	}
	f := cmd.Flags()
	c.Worker.flags(f)
	c.NATS.flags(f)
	c.Log.flags(f)
	printConfigFlag(f)
	return cmd
}

// startFailed is err, unless the user ended the start.
func (a *app) startFailed(ctx context.Context, err error) error {
	if a.interrupted(ctx) {
		return nil
	}
	return err
}

// serve lets a role work until it is told to stop or a part of it breaks.
func (a *app) serve(s *stack, ready string) (err error) {
	defer func() { err = errors.Join(err, s.close()) }()
	if len(s.unfit) > 0 {
		ready = "worker takes no jobs: this host cannot enforce every limit (sandlot doctor says why)"
	}
	fmt.Fprintln(a.stdout, ready)
	<-s.ctx.Done()
	if a.interrupted(s.ctx) {
		return nil
	}
	if errors.Is(context.Cause(s.ctx), worker.ErrLeft) {
		fmt.Fprintln(a.stdout, "the worker was drained and has left")
		return nil
	}
	return context.Cause(s.ctx)
}
