package main

import (
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/sandlot-dev/sandlot/pkg/api"
)

func (a *app) workersCmd() *cobra.Command {
	return &cobra.Command{
		Use:     "workers",
		Short:   "List the workers and what they are doing",
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
}

func showWorkers(w io.Writer, workers []api.Worker) {
	if len(workers) == 0 {
		fmt.Fprintln(w, "No worker has registered: jobs wait until one does (sandlot worker).")
		return
	}
	rows := [][]string{{"WORKER", "POOL", "CLASSES", "STATE", "BUSY", "LARGEST JOB", "IMAGES", "UP", "SEEN"}}
	now := time.Now()
	for _, k := range workers {
		rows = append(rows, []string{
			k.ID, k.Pool, strings.Join(k.Classes, ","), k.State, fmt.Sprintf("%d of %d", k.Busy, k.Slots),
			fmt.Sprintf("%g cpu, %s", k.Largest.CPU, size(int64(k.Largest.Memory))),
			strconv.Itoa(len(k.Images)), age(k.StartedAt, now), age(k.SeenAt, now),
		})
	}
	table(w, rows)
	for _, k := range workers {
		for _, u := range k.Unfit {
			fmt.Fprintf(w, "%s takes no jobs: it cannot enforce %s: %s\n", k.ID, u.Limit, u.Why)
		}
	}
}
