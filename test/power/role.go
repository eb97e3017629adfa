package main

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/sandlot-dev/sandlot/pkg/job"
	"github.com/sandlot-dev/sandlot/pkg/queue"
	"github.com/sandlot-dev/sandlot/pkg/telemetry"
	"github.com/sandlot-dev/sandlot/test/scripted"
	"github.com/sandlot-dev/sandlot/worker"
)

// roleVariable makes this program a part of the machine; its value is a role
// in JSON.
const roleVariable = "SANDLOT_POWER_ROLE"

// role is what this program is to be; one of the two is set.
type role struct {
	Server *queue.ServerConfig
	Worker *workerRole
}

// workerRole is how a worker with scripted sandboxes is set up.
type workerRole struct {
	ID, URL, Dir string
	Profile      queue.Profile
}

// asRole plays the role if this process is to have one.
func asRole() (is bool, code int) {
	text := os.Getenv(roleVariable)
	if text == "" {
		return false, 0
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	defer stop()
	var r role
	err := json.Unmarshal([]byte(text), &r)
	log := slog.New(telemetry.LogHandler(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelDebug})))
	switch {
	case err != nil:
	case r.Server != nil:
		r.Server.Logger = log
		var s *queue.Server
		if s, err = queue.StartServer(*r.Server); err == nil {
			<-ctx.Done()
			s.Close()
		}
	default:
		err = r.Worker.run(ctx, log)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return true, 1
	}
	return true, 0
}

func (w workerRole) run(ctx context.Context, log *slog.Logger) error {
	q, err := queue.Open(ctx, queue.Config{URL: w.URL, Name: w.ID, Role: queue.RoleWorker, Logger: log})
	if err != nil {
		return err
	}
	defer q.Close()
	tel, err := telemetry.Setup(ctx, telemetry.Config{Service: "worker", Instance: w.ID})
	if err != nil {
		return err
	}
	one, err := worker.New(worker.Config{
		ID: w.ID, Slots: 6, Dir: w.Dir, Runtime: new(scripted.Runtime), Memory: 64 * job.GiB, Allowance: job.MiB,
		Queue: q, Logger: log, Telemetry: tel,
	})
	if err != nil {
		return err
	}
	return one.Run(ctx)
}

// image is what all jobs run; scripted sandboxes only want a name.
var image = queue.Image{Name: "busybox", Digest: "sha256:" + strings.Repeat("1", 64), Source: "power"}
