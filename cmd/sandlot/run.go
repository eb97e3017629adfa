package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"github.com/sandlot-dev/sandlot/pkg/api"
	"github.com/sandlot-dev/sandlot/pkg/client"
	"github.com/sandlot-dev/sandlot/pkg/job"
)

func (a *app) runCmd() *cobra.Command {
	var flags jobFlags
	local := localConfig{once: true}
	var verbose bool
	cmd := &cobra.Command{
		Use:   "run IMAGE -- COMMAND… | run --language LANGUAGE FILE",
		Short: "Run a program in a sandbox, show its output, exit with its code",
		Long: `Run a program in a sandbox, show its output as it comes, and exit with the
program's own code; with 128+n when signal n ended it, 124 when it ran into a
limit, and 125 when there is no verdict on the program: the platform failed, or
the job was refused. Ctrl-C cancels the job, a second Ctrl-C leaves at once.`,
		Example: `  sandlot run busybox -- echo hello
  sandlot run python --file solve.py --memory 256Mi --wall 5s -- python3 solve.py
  sandlot run --language python solve.py
  sandlot run --local --language c --code 'int main(){return 42;}'`,
		GroupID: groupJobs,
		RunE: func(cmd *cobra.Command, args []string) error {
			err := a.runJob(cmd, args, &flags, local, verbose)
			_, said := errors.AsType[exitError](err)
			_, signaled := errors.AsType[interrupt](err)
			if err == nil || said || signaled {
				return err
			}
			return codedError{err, exitPlatform}
		},
	}
	flags.flags(cmd.Flags())
	local.flags(cmd.Flags())
	cmd.Flags().BoolVarP(&verbose, "verbose", "v", false, "say on stderr which job it is and how it ended")
	return cmd
}

func (a *app) runJob(cmd *cobra.Command, args []string, flags *jobFlags, local localConfig, verbose bool) error {
	submit, err := flags.submit(cmd, args, a.stdin)
	if err != nil {
		return err
	}
	ctx, server, err := a.connect(cmd.Context(), local, []wanted{wantedBy(submit)}, impatient)
	if err != nil {
		return err
	}
	j, err := a.runOn(ctx, server.Client, submit, verbose)
	if closeErr := server.close(); err == nil {
		err = closeErr
	}
	if err != nil {
		return err
	}
	return a.ended(ctx, j, verbose)
}

// runOn submits the job, shows its output and waits for its end.
func (a *app) runOn(ctx context.Context, c *client.Client, submit api.Submit, verbose bool) (api.Job, error) {
	j, err := c.Submit(ctx, submit, 0)
	if err != nil {
		return j, err
	}
	if verbose {
		fmt.Fprintf(a.stderr, "sandlot: job %s\n", j.ID)
	}
	live := &liveOutput{stdout: a.stdout, stderr: a.stderr}
	if a.output == "json" {
		live.stdout, live.stderr = io.Discard, io.Discard
	}
	if err = c.FollowLogs(ctx, j.ID, live.chunk); err == nil {
		j, err = c.Wait(ctx, j.ID)
	}
	if _, ok := errors.AsType[interrupt](context.Cause(ctx)); ok {
		return a.cancelAndWait(ctx, c, j.ID)
	}
	if ctx.Err() != nil {
		return j, context.Cause(ctx)
	}
	return j, err
}

// cancelAndWait ends a job whose user does not want it any more.
func (a *app) cancelAndWait(ctx context.Context, c *client.Client, id string) (api.Job, error) {
	fmt.Fprintf(a.stderr, "sandlot: %v: canceling job %s\n", context.Cause(ctx), id)
	ctx = context.WithoutCancel(ctx)
	if _, err := c.Cancel(ctx, id); err != nil {
		return api.Job{}, err
	}
	return c.Wait(ctx, id)
}

// ended says how the job ended, by words where there is more to say than the
// exit code does.
func (a *app) ended(ctx context.Context, j api.Job, verbose bool) error {
	plain := j.State == job.Succeeded || j.Verdict != nil && j.Verdict.Reason == job.Exited
	if a.output == "json" {
		if err := a.show(j, nil); err != nil {
			return err
		}
	} else if verbose || !plain {
		fmt.Fprintf(a.stderr, "sandlot: job %s %s\n", j.ID, sentence(j))
	}
	code := exitCode(j)
	if i, ok := errors.AsType[interrupt](context.Cause(ctx)); ok && j.State == job.Canceled {
		code = signalCode(i.signal)
	}
	if code == 0 {
		return nil
	}
	return exitError{code}
}

// liveOutput writes the log of a job to this process's streams as it comes.
type liveOutput struct {
	stdout, stderr io.Writer
	attempt        int
}

func (l *liveOutput) chunk(c api.LogChunk) error {
	if l.attempt != 0 && c.Attempt != l.attempt {
		fmt.Fprintf(l.stderr, "sandlot: attempt %d begins, its output starts over\n", c.Attempt)
	}
	l.attempt = c.Attempt
	w := l.stdout
	if c.Stream == "stderr" {
		w = l.stderr
	}
	_, err := w.Write(c.Bytes())
	return err
}

// patient is the patience of a command that outlives a restart of its server.
const patient = 10 * time.Minute
