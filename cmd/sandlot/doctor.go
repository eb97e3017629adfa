package main

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/sandlot-dev/sandlot/worker/gvisor"
)

func (a *app) doctorCmd() *cobra.Command {
	config := gvisor.CheckConfig{Runtime: gvisor.Resident}
	var containerd string
	cmd := &cobra.Command{
		Use:   "doctor",
		Short: "Check whether this host can run jobs, and whether a server answers",
		Long: `Check whether this host can run jobs: each limit is set on a cgroup, read back
and removed again. Then ask the server, if there is one. Exits with 1 when
something is wrong.`,
		GroupID: groupHost,
		Args:    exactArgs(0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			config.Absolute = containerd != ""
			if err := config.Runtime.Valid(); err != nil {
				return usageError{cmd, fmt.Errorf("--%w", err)}
			}
			r := a.examine(cmd.Context(), config)
			if err := a.show(r, func(w io.Writer) { r.show(w) }); err != nil {
				return err
			}
			if len(r.Problems) > 0 {
				return exitError{exitProblem}
			}
			return nil
		},
	}
	cmd.Flags().StringVar(&config.RuntimeDir, "runtime-dir", "", "where to find runsc, containerd and the shim (default: beside sandlot)")
	cmd.Flags().StringVar(&containerd, "containerd", "", "check for a worker that uses this containerd of the host")
	cmd.Flags().StringVar((*string)(&config.Runtime), "runtime", string(config.Runtime), runtimeUsage)
	withEnv(cmd.Flags(), "runtime-dir", "containerd", "runtime")
	return cmd
}

// report is what doctor found.
type report struct {
	Facts    []gvisor.Fact    `json:"facts"`
	Problems []gvisor.Problem `json:"problems"`
	Server   serverReport     `json:"server"`
}

type serverReport struct {
	Address string            `json:"address,omitempty"`
	Status  string            `json:"status"` // ok, failing or none
	Checks  map[string]string `json:"checks,omitempty"`
}

func (a *app) examine(ctx context.Context, config gvisor.CheckConfig) report {
	facts, found := gvisor.Check(ctx, config)
	r := report{Facts: facts, Problems: append([]gvisor.Problem{}, found...)}
	address, _, err := a.target()
	if _, none := errors.AsType[noServerError](err); none {
		r.Server.Status = "none"
		return r
	}
	r.Server = serverReport{Address: address, Status: "failing"}
	fail := func(err error) {
		r.Problems = append(r.Problems, gvisor.Problem{
			What: "server: " + explainError(err), Fix: "start it with sandlot up, or name another with --server",
		})
	}
	if err != nil {
		fail(err)
		return r
	}
	c, err := a.client(impatient)
	if err != nil {
		fail(err)
		return r
	}
	health, err := c.Health(ctx)
	r.Server.Checks = health.Checks
	if err == nil && health.Status != "ok" {
		err = fmt.Errorf("it is %s: %v", health.Status, health.Checks)
	}
	if err != nil {
		fail(err)
		return r
	}
	if _, err := c.Workers(ctx); err != nil { // asks for the token, unlike health
		fail(err)
		return r
	}
	r.Server.Status = "ok"
	return r
}

func (r report) show(w io.Writer) {
	p := painter(w)
	rows := [][]string{}
	for _, f := range r.Facts {
		rows = append(rows, []string{f.Name, f.Value})
	}
	server := r.Server.Status
	if r.Server.Address != "" {
		server += " at " + r.Server.Address
	}
	table(w, append(rows, []string{"server", server}))
	fmt.Fprintln(w)
	if len(r.Problems) == 0 {
		fmt.Fprintln(w, p.green("This host can run jobs: every limit can be enforced."))
		return
	}
	for _, problem := range r.Problems {
		what := problem.What
		if problem.Limit != "" {
			what = problem.Limit + " cannot be enforced: " + what
		}
		fmt.Fprintf(w, "%s %s\n    fix: %s\n", p.red("PROBLEM"), what, problem.Fix)
	}
}
