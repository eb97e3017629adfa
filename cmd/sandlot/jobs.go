package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/sandlot-dev/sandlot/pkg/api"
	"github.com/sandlot-dev/sandlot/pkg/client"
	"github.com/sandlot-dev/sandlot/pkg/job"
)

func (a *app) jobsCmd() *cobra.Command {
	return group(
		&cobra.Command{Use: "jobs", Short: "List, read, explain, cancel and remove jobs", GroupID: groupJobs},
		a.jobsListCmd(), a.jobsGetCmd(), a.jobsExplainCmd(), a.jobsCancelCmd(), a.jobsRemoveCmd(),
	)
}

func (a *app) jobsListCmd() *cobra.Command {
	var o client.ListOptions
	var state, reason string
	var labels []string
	var all bool
	cmd := &cobra.Command{
		Use: "ls", Aliases: []string{"list"}, Short: "List jobs, newest first", Args: exactArgs(0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			var wrong problems
			o.State, o.Reason = job.State(state), job.Reason(reason)
			wrong.check(state == "" || o.State.Known(), "--state %q: write one of %v", state, job.States())
			o.Labels = pairs("--label", labels, nil, &wrong)
			if err := wrong.err(); err != nil {
				return err
			}
			c, err := a.client(impatient)
			if err != nil {
				return err
			}
			list, err := listJobs(cmd.Context(), c, o, all)
			if err != nil {
				return err
			}
			return a.show(list, func(w io.Writer) { a.showList(w, list) })
		},
	}
	f := cmd.Flags()
	f.StringVar(&state, "state", "", "only jobs in this state")
	f.StringVar(&reason, "reason", "", "only jobs that ended for this reason, such as timed_out")
	f.StringVar(&o.Queue, "queue", "", "only jobs of this queue")
	f.StringVar(&o.Batch, "batch", "", "only jobs of this batch")
	f.StringVar(&o.Schedule, "schedule", "", "only jobs of this schedule")
	f.StringArrayVar(&labels, "label", nil, "only jobs with this label, NAME=VALUE")
	f.IntVar(&o.Limit, "limit", 50, "how many to list")
	f.BoolVar(&all, "all", false, "list all, page after page")
	return cmd
}

func listJobs(ctx context.Context, c *client.Client, o client.ListOptions, all bool) (api.List, error) {
	if all {
		o.Limit = 500
	}
	list, err := c.List(ctx, o)
	for all && err == nil && list.Next != "" {
		o.Cursor = list.Next
		var page api.List
		page, err = c.List(ctx, o)
		list.Jobs, list.Next = append(list.Jobs, page.Jobs...), page.Next
	}
	return list, err
}

func (a *app) showList(w io.Writer, list api.List) {
	rows := [][]string{{"ID", "STATE", "BLAME", "REASON", "IMAGE", "QUEUE", "ATTEMPT", "AGE", "KEY"}}
	now := time.Now()
	for _, j := range list.Jobs {
		rows = append(rows, []string{
			j.ID, string(j.State), dash(string(j.Blame)), dash(string(j.Reason)), j.Image, j.Queue,
			strconv.Itoa(j.Attempt), age(j.AcceptedAt, now), dash(j.Key),
		})
	}
	table(w, rows)
	if list.Next != "" {
		fmt.Fprintln(a.stderr, "There are more: use --all, or --limit N.")
	}
}

func (a *app) jobsGetCmd() *cobra.Command {
	return &cobra.Command{
		Use: "get JOB", Short: "Show a job and its result", Args: exactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := a.client(impatient)
			if err != nil {
				return err
			}
			j, err := c.Get(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			return a.show(j, func(w io.Writer) { showJob(w, j) })
		},
	}
}

func (a *app) jobsExplainCmd() *cobra.Command {
	return &cobra.Command{
		Use: "explain JOB", Short: "Say why a job waits, was retried, or ended as it did", Args: exactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := a.client(impatient)
			if err != nil {
				return err
			}
			e, err := c.Explain(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			return a.show(e, func(w io.Writer) { fmt.Fprintln(w, strings.Join(e.Sentences, "\n")) })
		},
	}
}

func (a *app) jobsCancelCmd() *cobra.Command {
	var in api.Cancel
	var state string
	var labels []string
	cmd := &cobra.Command{
		Use: "cancel JOB… | cancel --all | cancel --FILTER…", Short: "End jobs before their time",
		Long: `End jobs before their time: those that are named, or all that the filters pick and
that were accepted before. The order to do so is stored and carried out by the
server; the command waits until it is finished. Jobs that wait are canceled then,
and those that run are told to end, which takes them about a second.`,
		RunE: func(cmd *cobra.Command, args []string) error {
			var wrong problems
			in.State, in.Labels = job.State(state), pairs("--label", labels, nil, &wrong)
			filtered := in.All || in.Batch != "" || !in.Whole()
			wrong.check((len(args) > 0) != filtered, "name the jobs to cancel, or pick them by filters such as --batch, or by --all")
			if err := wrong.err(); err != nil {
				return err
			}
			c, err := a.client(impatient)
			if err != nil {
				return err
			}
			if filtered {
				return a.cancelMany(cmd.Context(), c, in)
			}
			return a.eachJob(args, func(id string) error {
				j, err := c.Cancel(cmd.Context(), id)
				if err != nil {
					return err
				}
				return a.show(j, func(w io.Writer) { fmt.Fprintf(w, "%s %s\n", j.ID, j.State) })
			})
		},
	}
	f := cmd.Flags()
	f.BoolVar(&in.All, "all", false, "all jobs of the tenant")
	f.StringVar(&in.Queue, "queue", "", "only jobs of this queue")
	f.StringVar(&in.Pool, "pool", "", "only jobs of this pool")
	f.StringVar(&in.Batch, "batch", "", "only jobs of this batch")
	f.StringVar(&state, "state", "", "only jobs in this state: queued, running or retrying")
	f.StringArrayVar(&labels, "label", nil, "only jobs with this label, NAME=VALUE")
	f.StringVar(&in.Reason, "reason", "", "a sentence that their results give as the reason")
	return cmd
}

// cancelMany gives an order to cancel, and waits until it is finished.
func (a *app) cancelMany(ctx context.Context, c *client.Client, in api.Cancel) error {
	o, err := c.CancelMany(ctx, in, time.Second)
	for err == nil && o.State != "finished" {
		if isTerminal(a.stderr) {
			fmt.Fprintf(a.stderr, "\r%d canceled, %d ending …", o.Canceled, o.Ending)
		}
		o, err = c.CancelOrder(ctx, o.ID, time.Second)
	}
	if err != nil {
		return err
	}
	return a.show(o, func(w io.Writer) { fmt.Fprintf(w, "%d canceled, %d that ran are ending\n", o.Canceled, o.Ending) })
}

func (a *app) jobsRemoveCmd() *cobra.Command {
	return &cobra.Command{
		Use: "rm JOB…", Short: "Remove jobs that have ended, with their outputs", Args: someArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := a.client(impatient)
			if err != nil {
				return err
			}
			return a.eachJob(args, func(id string) error { return c.Remove(cmd.Context(), id) })
		},
	}
}

// eachJob goes on with the next job when one fails, and exits with 1 then. A
// server that is not there ends it.
func (a *app) eachJob(ids []string, do func(id string) error) error {
	failed := false
	for _, id := range ids {
		err := do(id)
		if _, ok := errors.AsType[*api.Problem](err); ok {
			fmt.Fprintf(a.stderr, "sandlot: %s: %s\n", id, explainError(err))
			failed = true
		} else if err != nil {
			return err
		}
	}
	if failed {
		return exitError{exitProblem}
	}
	return nil
}
