package main

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/sandlot-dev/sandlot/pkg/api"
	"github.com/sandlot-dev/sandlot/pkg/job"
)

func (a *app) poolsCmd() *cobra.Command {
	return group(
		&cobra.Command{Use: "pools", Short: "List pools of workers, set their classes, pause and resume them", GroupID: groupHost},
		a.poolsListCmd(), a.poolsSetCmd(), a.poolsPauseCmd(), a.poolsResumeCmd(), a.poolsRemoveCmd(),
	)
}

func (a *app) poolsListCmd() *cobra.Command {
	return &cobra.Command{
		Use: "ls", Aliases: []string{"list"}, Short: "List the pools, and what waits and runs in each", Args: exactArgs(0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := a.client(impatient)
			if err != nil {
				return err
			}
			pools, err := c.Pools(cmd.Context())
			if err != nil {
				return err
			}
			return a.show(api.Pools{Pools: pools}, func(w io.Writer) { showPools(w, pools...) })
		},
	}
}

func showPools(w io.Writer, pools ...api.Pool) {
	rows := [][]string{{"POOL", "CLASS", "LARGEST JOB", "WORKERS", "BUSY", "QUEUED", "READY", "RUNNING", "PAUSED"}}
	for _, p := range pools {
		for _, c := range p.Classes {
			rows = append(rows, []string{
				p.Name, c.Name, classSize(c.Class), strconv.Itoa(c.Workers), fmt.Sprintf("%d of %d", c.Busy, c.Slots),
				strconv.Itoa(c.Queued), strconv.Itoa(c.Ready), strconv.Itoa(c.Running), map[bool]string{true: "yes", false: "-"}[p.Paused],
			})
		}
	}
	table(w, rows)
}

// classSize is what a class takes, for a reader.
func classSize(c job.Class) string {
	var parts []string
	if c.CPU > 0 {
		parts = append(parts, fmt.Sprintf("%g cpu", c.CPU))
	}
	if c.Memory > 0 {
		parts = append(parts, size(int64(c.Memory)))
	}
	return dash(strings.Join(parts, ", "))
}

func (a *app) poolsSetCmd() *cobra.Command {
	var classes []string
	cmd := &cobra.Command{
		Use: "set POOL", Short: "Make a pool, or set its classes", Args: exactArgs(1),
		Long: `Makes the pool if there is none of that name. A class is written NAME, or
NAME:CPU:MEMORY with the most that a job of it may ask for; give them smallest
first, since a job that names none runs in the first that takes it.`,
		Example: `  sandlot pools set gpu --class m:4:16Gi --class l
  sandlot pools set main --class s:1:1Gi --class m:4:8Gi`,
		RunE: func(cmd *cobra.Command, args []string) error {
			var wrong problems
			var list []job.Class
			for _, text := range classes {
				list = append(list, parseClass(text, &wrong))
			}
			wrong.check(api.BadPool(args[0]) == "", "POOL %q: %s", args[0], api.BadPool(args[0]))
			if err := wrong.err(); err != nil {
				return err
			}
			return a.changePool(cmd, args[0], true, func(s *api.PoolSettings) {
				if list != nil {
					s.Classes = list
				}
			})
		},
	}
	cmd.Flags().StringArrayVar(&classes, "class", nil, "a class, NAME or NAME:CPU:MEMORY; may repeat (default s, of any size)")
	return cmd
}

// changePool changes what is set for a pool, again if somebody else was
// faster, and shows it. make allows a pool that is not there yet.
func (a *app) changePool(cmd *cobra.Command, name string, make bool, change func(*api.PoolSettings)) error {
	c, err := a.client(impatient)
	if err != nil {
		return err
	}
	for {
		now, err := c.Pool(cmd.Context(), name)
		if err != nil && (!make || statusOf(err) != http.StatusNotFound) {
			return err
		}
		settings := api.PoolSettings{Paused: now.Paused, Revision: now.Revision}
		for _, class := range now.Classes {
			settings.Classes = append(settings.Classes, class.Class)
		}
		change(&settings)
		p, err := c.SetPool(cmd.Context(), name, settings)
		if problem, ok := errors.AsType[*api.Problem](err); ok && problem.Type == api.TypeConflict && strings.Contains(problem.Detail, "revision") {
			continue
		}
		if err != nil {
			return err
		}
		return a.show(p, func(w io.Writer) { showPools(w, p) })
	}
}

func (a *app) poolsPauseCmd() *cobra.Command {
	return &cobra.Command{
		Use: "pause POOL", Short: "Keep the jobs of a pool waiting; what runs goes on", Args: exactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.changePool(cmd, args[0], false, func(s *api.PoolSettings) { s.Paused = true })
		},
	}
}

func (a *app) poolsResumeCmd() *cobra.Command {
	return &cobra.Command{
		Use: "resume POOL", Short: "Have the jobs of a paused pool run again", Args: exactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.changePool(cmd, args[0], false, func(s *api.PoolSettings) { s.Paused = false })
		},
	}
}

// parseClass reads NAME[:CPU:MEMORY].
func parseClass(text string, wrong *problems) job.Class {
	parts := strings.Split(text, ":")
	c := job.Class{Name: parts[0]}
	wrong.check(api.BadPool(c.Name) == "", "--class %q: %s", text, api.BadPool(c.Name))
	if len(parts) == 1 {
		return c
	}
	if len(parts) != 3 {
		wrong.addf("--class %q: write NAME or NAME:CPU:MEMORY, such as m:4:8Gi", text)
		return c
	}
	var err error
	if c.CPU, err = strconv.ParseFloat(parts[1], 64); err != nil {
		wrong.addf("--class %q: %q is no number of cores", text, parts[1])
	}
	var memory bytesFlag
	if err := memory.Set(parts[2]); err != nil {
		wrong.addf("--class %q: %v", text, err)
	}
	c.Memory = job.Bytes(memory)
	return c
}

func (a *app) poolsRemoveCmd() *cobra.Command {
	return &cobra.Command{
		Use: "rm POOL", Short: "Remove a pool in which nothing waits or runs", Args: exactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := a.client(impatient)
			if err != nil {
				return err
			}
			return c.RemovePool(cmd.Context(), args[0])
		},
	}
}
