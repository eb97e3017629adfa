package main

import (
	"context"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/sandlot-dev/sandlot/pkg/api"
	"github.com/sandlot-dev/sandlot/pkg/client"
)

func (a *app) submitCmd() *cobra.Command {
	var flags jobFlags
	var body string
	var wait bool
	cmd := &cobra.Command{
		Use:   "submit --body FILE | submit IMAGE -- COMMAND… | submit --language LANGUAGE FILE",
		Short: "Submit a job and print its id",
		Long: `Submit a job and print its id. What to run comes from a JSON body as the HTTP
API takes it (--body FILE, - for standard input), or from the flags of sandlot run.
With --wait the command stays until the job has ended and prints its result.`,
		GroupID: groupJobs,
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := a.client(impatient)
			if err != nil {
				return err
			}
			j, err := a.submitJob(cmd, args, c, &flags, body)
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
	cmd.Flags().StringVar(&body, "body", "", "file with the job as JSON; - is standard input")
	cmd.Flags().BoolVar(&wait, "wait", false, "stay until the job has ended and print its result")
	return cmd
}

func (a *app) submitJob(cmd *cobra.Command, args []string, c *client.Client, flags *jobFlags, body string) (api.Job, error) {
	ctx := cmd.Context()
	if body != "" {
		return a.submitBody(ctx, c, body, flags.key, args)
	}
	s, err := flags.submit(cmd, args, a.stdin)
	if err != nil {
		return api.Job{}, err
	}
	return c.Submit(ctx, s, 0)
}

func (a *app) submitBody(ctx context.Context, c *client.Client, name, key string, args []string) (api.Job, error) {
	if len(args) > 0 {
		return api.Job{}, problems{"--body says all there is to the job: leave out " + args[0]}
	}
	body, err := readInput(name, a.stdin)
	if err != nil {
		return api.Job{}, fmt.Errorf("read body: %w", err)
	}
	return c.SubmitJSON(ctx, body, key, 0)
}
