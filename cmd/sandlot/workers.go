package main

import (
	"context"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/sandlot-dev/sandlot/pkg/api"
	"github.com/sandlot-dev/sandlot/pkg/client"
)

func (a *app) workersCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "workers",
		Short:   "List the workers and what they are doing; drain and release them",
		GroupID: groupHost,
		Args:    exactArgs(0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := a.client(impatient)
			if err != nil {
				return err
			}
			workers, err := c.Workers(cmd.Context())
			if err != nil {
				return err
			}
			return a.show(api.Workers{Workers: workers}, func(w io.Writer) { showWorkers(w, workers) })
		},
	}
	cmd.AddCommand(
		a.workersDrainCmd(),
		a.workerOrderCmd("undrain ID", "Have a worker that is drained take jobs again", (*client.Client).Undrain),
		a.workerOrderCmd("release ID", "Let a worker out of quarantine", (*client.Client).ReleaseWorker),
	)
	return cmd
}

func (a *app) workersDrainCmd() *cobra.Command {
	var deadline time.Duration
	cmd := a.workerOrderCmd("drain ID", "Have a worker finish what it runs, take no more, and leave",
		func(c *client.Client, ctx context.Context, id string) (api.Worker, error) {
			return c.Drain(ctx, id, deadline)
		})
	cmd.Flags().DurationVar(&deadline, "deadline", 0, "give to others what still runs after this time (default: wait for ever)")
	return cmd
}

// workerOrderCmd has something done to a worker, and shows it.
func (a *app) workerOrderCmd(use, short string, order func(*client.Client, context.Context, string) (api.Worker, error)) *cobra.Command {
	return &cobra.Command{
		Use: use, Short: short, Args: exactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := a.client(impatient)
			if err != nil {
				return err
			}
			one, err := order(c, cmd.Context(), args[0])
			if err != nil {
				return err
			}
			return a.show(one, func(w io.Writer) { showWorkers(w, []api.Worker{one}) })
		},
	}
}

func showWorkers(w io.Writer, workers []api.Worker) {
	if len(workers) == 0 {
		fmt.Fprintln(w, "No worker has registered: jobs wait until one does (sandlot worker).")
		return
	}
	rows := [][]string{{"WORKER", "POOL", "CLASSES", "STATE", "BUSY", "MEMORY", "LARGEST JOB", "IMAGES", "UP", "SEEN"}}
	now := time.Now()
	for _, k := range workers {
		rows = append(rows, []string{
			k.ID, k.Pool, strings.Join(k.Classes, ","), k.State, fmt.Sprintf("%d of %d", k.Busy, k.Slots),
			fmt.Sprintf("%s of %s", size(int64(k.MemoryTaken)), size(int64(k.Memory))),
			fmt.Sprintf("%g cpu, %s", k.Largest.CPU, size(int64(k.Largest.Memory))),
			strconv.Itoa(len(k.Images)), age(k.StartedAt, now), age(k.SeenAt, now),
		})
	}
	table(w, rows)
	for _, k := range workers {
		if k.Why != "" {
			fmt.Fprintf(w, "%s takes no jobs: %s\n", k.ID, k.Why)
		}
		for _, u := range k.Unfit {
			fmt.Fprintf(w, "%s takes no jobs: it cannot enforce %s: %s\n", k.ID, u.Limit, u.Why)
		}
	}
}
