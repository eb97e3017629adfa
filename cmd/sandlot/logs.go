package main

import (
	"encoding/json"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/sandlot-dev/sandlot/pkg/api"
	"github.com/sandlot-dev/sandlot/pkg/client"
	"github.com/sandlot-dev/sandlot/pkg/job"
)

func (a *app) logsCmd() *cobra.Command {
	var follow bool
	cmd := &cobra.Command{
		Use:   "logs JOB",
		Short: "Print what a job wrote",
		Long: `Print what a job wrote: its standard output to standard output, its standard
error to standard error. Of a job that has ended all is printed, step by step.`,
		GroupID: groupJobs,
		Args:    exactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := a.client(impatient)
			if err != nil {
				return err
			}
			each := (&liveOutput{stdout: a.stdout, stderr: a.stderr}).chunk
			if a.output == "json" {
				lines := json.NewEncoder(a.stdout)
				each = func(c api.LogChunk) error { return lines.Encode(c) }
			}
			return c.Logs(cmd.Context(), args[0], client.LogOptions{Follow: follow}, each)
		},
	}
	cmd.Flags().BoolVarP(&follow, "follow", "f", false, "stay until the job has ended")
	return cmd
}

func (a *app) traceCmd() *cobra.Command {
	return &cobra.Command{
		Use:     "trace JOB",
		Short:   "Draw when each step of a job happened and how long it took",
		GroupID: groupJobs,
		Args:    exactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := a.client(impatient)
			if err != nil {
				return err
			}
			t, err := c.Trace(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			return a.show(t, func(w io.Writer) {
				fmt.Fprintf(w, "job %s  %s  trace %s\n\n", t.Job, t.State, t.TraceID)
				a.waterfall(w, t.Spans)
			})
		},
	}
}

func (a *app) waterfall(w io.Writer, spans []job.Span) {
	waterfall(w, spans, terminalWidth(w), painter(w))
}
