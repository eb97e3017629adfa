package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/sandlot-dev/sandlot/pkg/api"
	"github.com/sandlot-dev/sandlot/pkg/client"
	"github.com/sandlot-dev/sandlot/pkg/job"
)

func (a *app) deadCmd() *cobra.Command {
	return group(
		&cobra.Command{Use: "dead", Short: "List, read and redrive jobs that the platform failed", GroupID: groupJobs},
		a.deadListCmd(), a.deadGetCmd(), a.deadRedriveCmd(),
	)
}

// deadFlags pick dead jobs.
type deadFlags struct {
	filter       api.DeadFilter
	reason       string
	labels       []string
	since, until string
}

func (d *deadFlags) flags(f *pflag.FlagSet) {
	f.StringVar(&d.filter.Pool, "pool", "", "only jobs of this pool")
	f.StringVar(&d.filter.Queue, "queue", "", "only jobs of this queue")
	f.StringVar(&d.filter.Batch, "batch", "", "only items of this batch")
	f.StringVar(&d.reason, "reason", "", "only jobs that died for this reason, such as worker_lost")
	f.StringArrayVar(&d.labels, "label", nil, "only jobs with this label, NAME=VALUE")
	f.StringVar(&d.since, "since", "", "only jobs that died since: a time, or how long ago, such as 2h")
	f.StringVar(&d.until, "until", "", "only jobs that died before: a time, or how long ago")
}

// read is the filter as the flags say.
func (d *deadFlags) read(now time.Time) (api.DeadFilter, error) {
	var wrong problems
	f := d.filter
	f.Reason = job.Reason(d.reason)
	f.Labels = pairs("--label", d.labels, nil, &wrong)
	f.Since, f.Until = moment("--since", d.since, now, &wrong), moment("--until", d.until, now, &wrong)
	return f, wrong.err()
}

// moment is a time, or one that is so long ago; zero for none.
func moment(flag, text string, now time.Time, wrong *problems) time.Time {
	if text == "" {
		return time.Time{}
	}
	if d, err := time.ParseDuration(text); err == nil && d >= 0 {
		return now.Add(-d)
	}
	at, err := time.Parse(time.RFC3339, text)
	wrong.check(err == nil, "%s %q: write a time as 2026-03-01T08:00:00Z, or how long ago it was, such as 2h", flag, text)
	return at
}

func (a *app) deadListCmd() *cobra.Command {
	var d deadFlags
	var o client.DeadOptions
	var all bool
	cmd := &cobra.Command{
		Use: "ls", Aliases: []string{"list"}, Short: "List dead jobs, newest first", Args: exactArgs(0),
		RunE: func(cmd *cobra.Command, _ []string) (err error) {
			if o.DeadFilter, err = d.read(time.Now()); err != nil {
				return err
			}
			c, err := a.client(impatient)
			if err != nil {
				return err
			}
			list, err := listDead(cmd.Context(), c, o, all)
			if err != nil {
				return err
			}
			return a.show(list, func(w io.Writer) { a.showDead(w, list) })
		},
	}
	d.flags(cmd.Flags())
	cmd.Flags().BoolVar(&o.OldestFirst, "oldest-first", false, "list the oldest first")
	cmd.Flags().IntVar(&o.Limit, "limit", 50, "how many to list")
	cmd.Flags().BoolVar(&all, "all", false, "list all, page after page")
	return cmd
}

func listDead(ctx context.Context, c *client.Client, o client.DeadOptions, all bool) (api.DeadList, error) {
	if all {
		o.Limit = 500
	}
	list, err := c.Dead(ctx, o)
	for all && err == nil && list.Next != "" {
		o.Cursor = list.Next
		var page api.DeadList
		page, err = c.Dead(ctx, o)
		list.Jobs, list.Next = append(list.Jobs, page.Jobs...), page.Next
	}
	return list, err
}

func (a *app) showDead(w io.Writer, list api.DeadList) {
	rows := [][]string{{"ID", "REASON", "ATTEMPTS", "QUEUE", "POOL", "DIED", "REDRIVEN AS", "STATE"}}
	now := time.Now()
	for _, j := range list.Jobs {
		as, state := dash(j.RedrivenAs), dash(string(j.RedrivenState))
		if j.Expired && j.RedrivenAs == "" {
			state = "expired"
		}
		rows = append(rows, []string{j.ID, dash(string(j.Reason)), strconv.Itoa(j.Attempts), dash(j.Queue), j.Pool, age(j.DiedAt, now), as, state})
	}
	table(w, rows)
	if list.Next != "" {
		fmt.Fprintln(a.stderr, "There are more: use --all, or --limit N.")
	}
}

func (a *app) deadGetCmd() *cobra.Command {
	return &cobra.Command{
		Use: "get JOB", Short: "Show a dead job, its attempts, and what became of it", Args: exactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := a.client(impatient)
			if err != nil {
				return err
			}
			j, err := c.Get(cmd.Context(), args[0])
			if statusOf(err) == http.StatusNotFound {
				return a.deadEntry(cmd.Context(), c, args[0], err)
			}
			if err != nil {
				return err
			}
			return a.show(j, func(w io.Writer) { showJob(w, j) })
		},
	}
}

// deadEntry shows what the index knows of a dead job whose record is gone;
// missing is the error if it knows nothing either.
func (a *app) deadEntry(ctx context.Context, c *client.Client, id string, missing error) error {
	list, err := c.Dead(ctx, client.DeadOptions{DeadFilter: api.DeadFilter{Job: id}, Limit: 1})
	if err != nil {
		return err
	}
	if len(list.Jobs) == 0 {
		return missing
	}
	fmt.Fprintf(a.stderr, "The record of %s has expired or was removed; this is what the index of dead jobs knows.\n", id)
	return a.show(list.Jobs[0], func(w io.Writer) { a.showDead(w, list) })
}

func (a *app) deadRedriveCmd() *cobra.Command {
	var d deadFlags
	var limit int
	var all, dry bool
	cmd := &cobra.Command{
		Use: "redrive JOB… | redrive --all | redrive --FILTER…", Short: "Run dead jobs again, each as a new job",
		Long: `Run dead jobs again, each as a new job. The dead ones stay as they are. A job that
was redriven before is not redriven twice, unless the job that was made of it has
died as well. At a cap of the tenant the command ends and says so; run again it
goes on. It exits with 1 if something was refused, or if it was stopped.`,
		RunE: func(cmd *cobra.Command, args []string) error {
			filter, err := d.read(time.Now())
			if err != nil {
				return err
			}
			filtered := all
			for _, name := range []string{"pool", "queue", "batch", "reason", "label", "since", "until"} {
				filtered = filtered || cmd.Flags().Changed(name)
			}
			if (len(args) > 0) == filtered || len(args) > 0 && dry {
				return problems{"name the jobs to redrive, or pick them by filters such as --queue, or by --all; --dry-run is for filters"}
			}
			c, err := a.client(impatient)
			if err != nil {
				return err
			}
			if len(args) > 0 {
				return a.eachJob(args, func(id string) error {
					j, err := c.Redrive(cmd.Context(), id)
					if err != nil {
						return err
					}
					return a.show(j, func(w io.Writer) { fmt.Fprintf(w, "%s is run again as %s, which is %s\n", id, j.ID, j.State) })
				})
			}
			return a.redriveMany(cmd.Context(), c, api.Redrive{DeadFilter: filter, DryRun: dry}, limit)
		},
	}
	d.flags(cmd.Flags())
	f := cmd.Flags()
	f.BoolVar(&all, "all", false, "all dead jobs of the tenant")
	f.IntVar(&limit, "limit", 0, "look at no more than so many dead jobs")
	f.BoolVar(&dry, "dry-run", false, "say what would be done, and do nothing")
	return cmd
}

// redriveMany redrives page by page, and tells of each.
func (a *app) redriveMany(ctx context.Context, c *client.Client, in api.Redrive, limit int) error {
	total := api.Redriven{Skipped: map[string]int{}, Jobs: []api.RedriveAnswer{}, DryRun: in.DryRun}
	for {
		in.Limit = 200
		if limit > 0 {
			in.Limit = min(in.Limit, limit-len(total.Jobs))
		}
		page, err := c.RedriveDead(ctx, in)
		if err != nil {
			return errors.Join(err, a.showRedriven(total))
		}
		total.Redriven += page.Redriven
		for outcome, n := range page.Skipped {
			total.Skipped[outcome] += n
		}
		total.Jobs = append(total.Jobs, page.Jobs...)
		total.Next, total.Stopped = page.Next, page.Stopped
		if page.Next == "" || page.Stopped != nil || limit > 0 && len(total.Jobs) >= limit {
			break
		}
		if in.Cursor = page.Next; isTerminal(a.stderr) {
			fmt.Fprintf(a.stderr, "\r%d redriven, %d skipped …", total.Redriven, len(total.Jobs)-total.Redriven)
		}
	}
	if err := a.showRedriven(total); err != nil {
		return err
	}
	if total.Stopped != nil || total.Skipped[api.RedriveRefused] > 0 {
		return exitError{exitProblem}
	}
	return nil
}

func (a *app) showRedriven(r api.Redriven) error {
	return a.show(r, func(w io.Writer) {
		for _, j := range r.Jobs {
			text := j.Outcome
			if j.RedrivenAs != "" {
				text += " as " + j.RedrivenAs
			}
			if j.Error != nil {
				text += ": " + j.Error.Error()
			}
			fmt.Fprintln(w, j.ID, text)
		}
		did := "redriven"
		if r.DryRun {
			did = "would be redriven"
		}
		fmt.Fprintf(w, "%d %s", r.Redriven, did)
		for _, outcome := range []string{api.RedriveKnown, api.RedriveExpired, api.RedriveRefused} {
			if n := r.Skipped[outcome]; n > 0 {
				fmt.Fprintf(w, ", %d %s", n, outcome)
			}
		}
		fmt.Fprintln(w)
		if r.Stopped != nil {
			fmt.Fprintf(a.stderr, "sandlot: stopped there; run it again to go on: %s\n", explainError(r.Stopped))
		}
	})
}
