package main

import (
	"context"
	"fmt"
	"io"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/sandlot-dev/sandlot/pkg/api"
	"github.com/sandlot-dev/sandlot/pkg/client"
)

func (a *app) submitCmd() *cobra.Command {
	var flags jobFlags
	var wait bool
	cmd := &cobra.Command{
		Use:   "submit JOB.json | submit IMAGE -- COMMAND… | submit --language LANGUAGE FILE",
		Short: "Submit a job and print its id",
		Long: `Submit a job and print its id. What to run is in a file of JSON as the HTTP API
takes it (- is standard input), or in the flags of sandlot run. With --wait the
command stays until the job has ended and prints its result.`,
		GroupID: groupJobs,
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := a.client(impatient)
			if err != nil {
				return err
			}
			j, err := a.submitJob(cmd, args, c, &flags)
			if err != nil {
				return err
			}
			if !wait {
				return a.show(j, func(w io.Writer) { fmt.Fprintln(w, j.ID) })
			}
			if j, err = c.Wait(cmd.Context(), j.ID); err != nil {
				return err
			}
			return a.show(j, func(w io.Writer) { showJob(w, j) })
		},
	}
	flags.flags(cmd.Flags())
	cmd.Flags().BoolVar(&wait, "wait", false, "stay until the job has ended and print its result")
	return cmd
}

func (a *app) submitJob(cmd *cobra.Command, args []string, c *client.Client, flags *jobFlags) (api.Job, error) {
	ctx := cmd.Context()
	if len(args) == 1 && cmd.ArgsLenAtDash() < 0 && flags.language == "" {
		return a.submitBody(ctx, c, args[0], flags, cmd)
	}
	s, err := flags.submit(cmd, args, a.stdin)
	if err != nil {
		return api.Job{}, err
	}
	return c.Submit(ctx, s, 0)
}

// submitBody sends a file as it is: no flag that describes the job may stand
// beside it, or one of the two would be ignored.
func (a *app) submitBody(ctx context.Context, c *client.Client, name string, flags *jobFlags, cmd *cobra.Command) (api.Job, error) {
	if err := onlyFile(cmd, name, "idempotency-key"); err != nil {
		return api.Job{}, err
	}
	body, err := readInput(name, a.stdin)
	if err != nil {
		return api.Job{}, fmt.Errorf("read body: %w", err)
	}
	return c.SubmitJSON(ctx, body, flags.key, 0)
}

// onlyFile refuses flags that describe the job beside a file that does, but
// for one.
func onlyFile(cmd *cobra.Command, name, but string) error {
	var wrong problems
	described := pflag.NewFlagSet("", pflag.ContinueOnError)
	new(jobFlags).flags(described)
	cmd.Flags().Visit(func(f *pflag.Flag) {
		ours := described.Lookup(f.Name) != nil && f.Name != but
		wrong.check(!ours, "--%s: %s says all there is to the job; write it there", f.Name, name)
	})
	return wrong.err()
}
