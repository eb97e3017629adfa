package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"github.com/sandlot-dev/sandlot/pkg/image"
	"github.com/sandlot-dev/sandlot/pkg/queue"
)

// upConfig is how `sandlot up` is set up: everything in one process, all its
// state in one directory.
type upConfig struct {
	DataDir   string
	Scheduler schedulerConfig
	Worker    workerConfig
	// NATS is how durable the embedded one is, and where it listens for
	// workers of other hosts; empty for nowhere.
	NATS natsConfig
	// Prepare names the catalogue images to have ready before the first job;
	// "cached" stands for all that the cache has.
	Prepare []string
	Log     logConfig

	build builderConfig
}

func defaultUp() upConfig {
	return upConfig{
		NATS:      natsConfig{Durability: string(queue.Balanced)},
		Scheduler: defaultScheduler(),
		Worker:    defaultWorker(3 * time.Second),
		Log:       logConfig{Level: "warn", Format: "text"},
		Prepare:   []string{cachedImages},
		build:     defaultBuilder(),
	}
}

// cachedImages is the word for all images that need not be made first.
const cachedImages = "cached"

func (c *upConfig) wrong() problems {
	p := append(c.Scheduler.wrong(), c.Worker.wrong()...)
	if c.NATS.Listen != "" {
		p.checkAddress("--nats-listen", c.NATS.Listen)
	}
	switch queue.Profile(c.NATS.Durability) {
	case queue.Fast, queue.Balanced, queue.Strict:
	default:
		p.addf("--durability %q: write fast, balanced or strict", c.NATS.Durability)
	}
	p = append(p, c.build.wrong()...)
	p = append(p, wrongImages("--prepare", c.named())...)
	return append(p, c.Log.wrong()...)
}

func (a *app) upCmd() *cobra.Command {
	c := defaultUp()
	cmd := &cobra.Command{
		Use:   "up",
		Short: "Start everything in one process: queue, scheduler, worker",
		Long: `Start everything in one process: a NATS server, a scheduler and a worker with a
containerd of its own. All state is in --data-dir; the address and the token for
clients are written there. A first SIGINT or SIGTERM ends it within 10 seconds,
and running jobs go back to the queue; a second one ends it at once.`,
		Example: `  sandlot up
  sandlot up --data-dir ./state --listen 127.0.0.1:0 --prepare busybox,python
  sandlot up --nats-listen 10.0.0.1:4222    # lets sandlot worker join from other hosts`,
		GroupID: groupServer,
		Args:    exactArgs(0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			c.DataDir, c.build.RuntimeDir = a.dataDir, c.Worker.RuntimeDir
			if ok, err := a.ready(cmd, &c); !ok || err != nil {
				return err
			}
			return a.up(cmd.Context(), c)
		},
	}
	f := cmd.Flags()
	c.Scheduler.flags(f)
	c.Worker.flags(f)
	f.StringVar(&c.NATS.Listen, "nats-listen", "", "address where workers of other hosts may join (default: none)")
	f.StringSliceVar(&c.Prepare, "prepare", c.Prepare, "catalogue images to have ready at the start, such as busybox,python, also in the worker's containerd; cached: all that were made before, placed at their first job")
	c.NATS.durabilityFlags(f, "what a loss of power may take: fast (2 min), balanced (1 s) or strict (nothing)")
	c.NATS.roomFlag(f)
	withEnv(f, "nats-listen", "prepare")
	c.build.flags(f)
	c.Log.flags(f)
	printConfigFlag(f)
	return cmd
}

// images are the names of what is to be prepared.
func (c *upConfig) images() []string {
	var names []string
	for _, name := range c.Prepare {
		if name != cachedImages {
			names = append(names, name)
			continue
		}
		names = append(names, image.Builder{CacheDir: c.build.CacheDir}.Cached()...)
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// named are the images that were asked for by name.
func (c *upConfig) named() []string {
	return slices.DeleteFunc(slices.Clone(c.Prepare), func(name string) bool { return name == cachedImages })
}

// up serves until it is told to stop, or a part of it breaks.
func (a *app) up(ctx context.Context, c upConfig) (err error) {
	stack, err := a.startUp(ctx, c)
	if err != nil {
		return a.startFailed(ctx, err)
	}
	defer func() { err = errors.Join(err, stack.close()) }()
	err = prepareImages(stack.ctx, stack.client(), c.build, c.images(), a.stderr)
	if err == nil {
		err = stack.placeImages(stack.ctx, c.named())
	}
	if err == nil {
		// Whoever waits for the address finds everything ready.
		err = stack.tellAddress(stack.ctx)
	}
	if err != nil && stack.ctx.Err() == nil {
		return err
	}
	if err == nil {
		a.greet(c, stack)
	}
	<-stack.ctx.Done()
	if a.interrupted(ctx) {
		return nil
	}
	return context.Cause(stack.ctx)
}

// greet says that all is ready and what to do now.
func (a *app) greet(c upConfig, s *stack) {
	p := painter(a.stdout)
	title := p.green("Sandlot is ready.")
	worker := fmt.Sprintf("%s, %d slots", s.name(), c.Worker.Slots)
	if len(s.unfit) > 0 {
		title = p.red("Sandlot is up, but its worker takes no jobs: this host cannot enforce every limit.")
		worker = s.unfit[0]
	}
	rows := [][]string{
		{"  api", s.url + "/v1"},
		{"  worker", worker},
		{"  data", c.DataDir},
	}
	if s.natsURL != "" {
		rows = append(rows, []string{"  join", fmt.Sprintf("sandlot worker --nats %s --nats-token-file %s", s.natsURL, filepath.Join(c.DataDir, "nats-token"))})
	}
	flag := ""
	if c.DataDir != defaultDataDir() {
		flag = " --data-dir " + c.DataDir
	}
	rows = append(rows, []string{"  try", "sandlot run" + flag + " --language python --code 'print(6*7)'"})
	fmt.Fprintln(a.stdout, title)
	table(a.stdout, rows)
}

// writeAddress tells clients of this host where the server is.
func writeAddress(dir, url string) error {
	path := filepath.Join(dir, "address")
	if err := os.WriteFile(path+".new", []byte(url+"\n"), 0o644); err != nil {
		return fmt.Errorf("write address: %w", err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		return fmt.Errorf("write address: %w", err)
	}
	return nil
}
