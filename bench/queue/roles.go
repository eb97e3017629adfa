package main

import (
	"context"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"runtime/pprof"
	"time"

	"github.com/sandlot-dev/sandlot/pkg/job"
	"github.com/sandlot-dev/sandlot/pkg/queue"
	"github.com/sandlot-dev/sandlot/pkg/telemetry"
	"github.com/sandlot-dev/sandlot/scheduler"
	"github.com/sandlot-dev/sandlot/worker"
)

// roles are the processes that this binary can be.
var roles = map[string]func(context.Context, roleConfig) error{
	"server": serverRole, "worker": workerRole, "scheduler": schedulerRole,
}

type roleConfig struct {
	name, dir, url, token string
	profile               string
	slots                 int
	log                   *slog.Logger
}

// runRole is one of the roles, with a profile of its processor time where one
// is asked for.
func runRole(ctx context.Context, role func(context.Context, roleConfig) error, args []string) error {
	c := roleConfig{log: slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn}))}
	f := flag.NewFlagSet("role", flag.ContinueOnError)
	f.StringVar(&c.name, "name", "", "")
	f.StringVar(&c.dir, "dir", "", "")
	f.StringVar(&c.url, "url", "", "")
	f.StringVar(&c.token, "token", "", "")
	f.StringVar(&c.profile, "profile", "", "")
	f.IntVar(&c.slots, "slots", 0, "")
	to := f.String("pprof", "", "")
	if err := f.Parse(args); err != nil {
		return err
	}
	if *to != "" {
		out, err := os.Create(*to)
		if err != nil {
			return err
		}
		defer out.Close()
		if err := pprof.StartCPUProfile(out); err != nil {
			return err
		}
		defer pprof.StopCPUProfile()
	}
	return role(ctx, c)
}

// image is what the jobs name; nobody looks into it.
const image = "noop"

// sizes are large enough for a million jobs that wait.
var sizes = queue.Sizes{Records: 12 << 30, Intake: 4 << 30}

// serverRole is the embedded server with the layout of the queue in it.
func serverRole(ctx context.Context, c roleConfig) error {
	s, err := queue.StartServer(queue.ServerConfig{
		Dir: c.dir, Listen: "127.0.0.1:0", Token: c.token, Profile: queue.Profile(c.profile), Logger: c.log,
	})
	if err != nil {
		return err
	}
	defer s.Close()
	q, err := queue.Open(ctx, queue.Config{Server: s, Name: c.name, Sizes: &sizes, Logger: c.log})
	if err != nil {
		return err
	}
	err = q.SetImage(ctx, queue.Image{
		Schema: job.Schema, Name: image, Source: "bench", CreatedAt: time.Now(),
		Digest: "sha256:0000000000000000000000000000000000000000000000000000000000000001",
	})
	q.Close()
	if err != nil {
		return err
	}
	fmt.Println("ready", s.URL())
	<-ctx.Done()
	return nil
}

// schedulerRole stands in for the product's binary where a profile is wanted.
func schedulerRole(ctx context.Context, c roleConfig) error {
	q, err := queue.Open(ctx, queue.Config{URL: c.url, Name: c.name, Logger: c.log})
	if err != nil {
		return err
	}
	defer q.Close()
	tel, err := telemetry.Setup(ctx, telemetry.Config{Service: "scheduler", Instance: c.name})
	if err != nil {
		return err
	}
	s, err := scheduler.New(scheduler.Config{
		Queue: q, Telemetry: tel, Logger: c.log, Listen: "127.0.0.1:0", Token: c.token, TempDir: c.dir,
	})
	if err != nil {
		return err
	}
	url, err := s.Listen()
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(c.dir, "token"), []byte(c.token), 0o600); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(c.dir, "address"), []byte(url), 0o600); err != nil {
		return err
	}
	fmt.Println("scheduler is ready at", url)
	return s.Run(ctx)
}

// workerRole is a worker whose sandboxes do nothing.
func workerRole(ctx context.Context, c roleConfig) error {
	q, err := queue.Open(ctx, queue.Config{URL: c.url, Name: c.name, Logger: c.log})
	if err != nil {
		return err
	}
	defer q.Close()
	tel, err := telemetry.Setup(ctx, telemetry.Config{Service: "worker", Instance: c.name})
	if err != nil {
		return err
	}
	w, err := worker.New(worker.Config{
		ID: c.name, Slots: c.slots, Dir: c.dir, Memory: 4 * job.GiB * job.Bytes(c.slots),
		Runtime: noop{}, Queue: q, Logger: c.log, Telemetry: tel,
	})
	if err != nil {
		return err
	}
	fmt.Println("ready")
	return w.Run(ctx)
}

// noop is a runtime whose programs have ended before they begin.
type noop struct{}

func (noop) Prepare(_ context.Context, task worker.Task) (worker.Sandbox, error) {
	return nothing{task.Spec}, nil
}

type nothing struct{ spec job.Spec }

func (n nothing) Run(context.Context, worker.Sink) (job.Observation, error) {
	seen := job.Observation{Applied: job.Applied{
		Limits: n.spec.Limits, SandboxMemory: n.spec.Limits.Memory, SandboxPIDs: int64(n.spec.Limits.PIDs),
	}}
	for _, s := range n.spec.Steps {
		seen.Steps = append(seen.Steps, job.StepResult{Name: s.Name, ExitCode: new(int)})
	}
	return seen, nil
}

func (nothing) Close(context.Context) error { return nil }
