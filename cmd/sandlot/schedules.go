package main

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/sandlot-dev/sandlot/pkg/api"
	"github.com/sandlot-dev/sandlot/pkg/job"
)

func (a *app) schedulesCmd() *cobra.Command {
	return group(
		&cobra.Command{Use: "schedules", Short: "Submit a job again and again, at set times", GroupID: groupJobs},
		a.schedulesListCmd(), a.schedulesGetCmd(), a.schedulesSetCmd(), a.schedulesPauseCmd("pause", true), a.schedulesPauseCmd("resume", false),
		a.schedulesRunCmd(), a.schedulesRemoveCmd(),
	)
}

func (a *app) schedulesListCmd() *cobra.Command {
	return &cobra.Command{
		Use: "ls", Aliases: []string{"list"}, Short: "List the schedules of the tenant", Args: exactArgs(0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := a.client(impatient)
			if err != nil {
				return err
			}
			list, err := c.Schedules(cmd.Context())
			if err != nil {
				return err
			}
			return a.show(api.Schedules{Schedules: list}, func(w io.Writer) {
				rows := [][]string{{"SCHEDULE", "CRON", "TIME ZONE", "NEXT", "LAST", "LAST JOB", "LAST ERROR", "PAUSED"}}
				for _, s := range list {
					failed := "-"
					if s.LastError != nil {
						failed = s.LastError.Reason
					}
					rows = append(rows, []string{
						s.Name, s.Cron, s.TimeZone, dash(stamp(s.NextAt)), dash(stamp(s.LastAt)), dash(s.LastJob), failed,
						map[bool]string{true: "yes", false: "-"}[s.Paused],
					})
				}
				table(w, rows)
			})
		},
	}
}

func showSchedule(w io.Writer, s api.Schedule) {
	note := func(n *job.TickNote) string {
		if n == nil {
			return "-"
		}
		return fmt.Sprintf("tick %s, %s: %s", stamp(n.Tick), n.Reason, n.Detail)
	}
	table(w, [][]string{
		{"schedule", s.Name}, {"cron", s.Cron}, {"time zone", s.TimeZone},
		{"paused", map[bool]string{true: "yes", false: "-"}[s.Paused]}, {"missed", string(s.Missed)}, {"overlap", string(s.Overlap)},
		{"next", dash(stamp(s.NextAt))}, {"last", dash(stamp(s.LastAt))}, {"last job", dash(s.LastJob)},
		{"last error", note(s.LastError)}, {"last skipped", note(s.LastSkipped)}, {"job", string(s.Job)},
	})
}

func (a *app) schedulesGetCmd() *cobra.Command {
	return &cobra.Command{
		Use: "get SCHEDULE", Short: "Show a schedule, and how its ticks went", Args: exactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := a.client(impatient)
			if err != nil {
				return err
			}
			s, err := c.Schedule(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			return a.show(s, func(w io.Writer) { showSchedule(w, s) })
		},
	}
}

func (a *app) schedulesSetCmd() *cobra.Command {
	var flags jobFlags
	var cron, zone, missed, overlap string
	cmd := &cobra.Command{
		Use:   "set SCHEDULE [JOB.json | IMAGE -- COMMAND… | --language LANGUAGE FILE]",
		Short: "Make a schedule, or change it",
		Long: `Makes the schedule if there is none of that name. What is not named stays as it
is; the job is named as a whole, as in sandlot submit.`,
		Example: `  sandlot schedules set nightly --cron '0 3 * * *' --time-zone Europe/Berlin python -- python3 -c 'print(1)'
  sandlot schedules set poll --cron '@every 10m' --overlap skip job.json`,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 || cmd.ArgsLenAtDash() == 0 {
				return usageError{cmd, fmt.Errorf("name the schedule; write %s", cmd.UseLine())}
			}
			body, err := a.scheduledJob(cmd, args, &flags)
			if err != nil {
				return err
			}
			return a.changeSchedule(cmd, args[0], true, func(s *api.ScheduleSettings) {
				if body != nil {
					s.Job = body
				}
				for name, change := range map[string]func(){
					"cron": func() { s.Cron = cron }, "time-zone": func() { s.TimeZone = zone },
					"missed": func() { s.Missed = job.MissedTicks(missed) }, "overlap": func() { s.Overlap = job.Overlap(overlap) },
				} {
					if cmd.Flags().Changed(name) {
						change()
					}
				}
			})
		},
	}
	f := cmd.Flags()
	f.StringVar(&cron, "cron", "", "when: minute, hour, day of month, month, day of week, or @hourly, @daily, @every 10m, …")
	f.StringVar(&zone, "time-zone", "", "time zone of --cron, such as Europe/Berlin (default UTC)")
	f.StringVar(&missed, "missed", "", "ticks at which no scheduler ran: once for one job in place of all (the default), or skip")
	f.StringVar(&overlap, "overlap", "", "a tick while the last job has not ended: allow another (the default), or skip")
	flags.flags(f)
	for _, name := range onceOnly {
		_ = f.MarkHidden(name) // there for one who writes it to be told
	}
	return cmd
}

// onceOnly are flags that mean nothing for a job that is submitted again.
var onceOnly = []string{"not-before", "in", "idempotency-key"}

// scheduledJob is the job that a command line names; nil if it names none.
func (a *app) scheduledJob(cmd *cobra.Command, args []string, flags *jobFlags) (json.RawMessage, error) {
	var wrong problems
	described := pflag.NewFlagSet("", pflag.ContinueOnError)
	new(jobFlags).flags(described)
	given := len(args) > 1
	cmd.Flags().Visit(func(f *pflag.Flag) {
		for _, name := range onceOnly {
			wrong.check(f.Name != name, "--%s: is for a job that is submitted once", name)
		}
		given = given || described.Lookup(f.Name) != nil
	})
	if err := wrong.err(); err != nil || !given {
		return nil, err
	}
	dashed := cmd.ArgsLenAtDash()
	if len(args) == 2 && dashed < 0 && flags.language == "" {
		if err := onlyFile(cmd, args[1], "cron"); err != nil {
			return nil, err
		}
		return readInput(args[1], a.stdin)
	}
	s, err := flags.submitAt(cmd, args[1:], dashed-1, a.stdin)
	if err != nil {
		return nil, err
	}
	return json.Marshal(s)
}

// changeSchedule changes what is set for a schedule, again if somebody else
// was faster, and shows it. make allows one that is not there yet.
func (a *app) changeSchedule(cmd *cobra.Command, name string, make bool, change func(*api.ScheduleSettings)) error {
	c, err := a.client(impatient)
	if err != nil {
		return err
	}
	for {
		now, err := c.Schedule(cmd.Context(), name)
		if err != nil && (!make || statusOf(err) != http.StatusNotFound) {
			return err
		}
		settings := api.ScheduleSettings{
			Cron: now.Cron, TimeZone: now.TimeZone, Job: now.Job, Missed: now.Missed, Overlap: now.Overlap, Paused: now.Paused, Revision: now.Revision,
		}
		change(&settings)
		var wrong problems
		wrong.check(settings.Cron != "", "--cron: say when, such as --cron '0 3 * * *'")
		wrong.check(settings.Job != nil, "say what to run: sandlot schedules set %s … IMAGE -- COMMAND…, or a file of JSON", name)
		if err := wrong.err(); err != nil {
			return err
		}
		s, err := c.SetSchedule(cmd.Context(), name, settings)
		if statusOf(err) == http.StatusConflict {
			continue // it was changed, or it ticked
		}
		if err != nil {
			return err
		}
		return a.show(s, func(w io.Writer) { showSchedule(w, s) })
	}
}

func (a *app) schedulesPauseCmd(name string, paused bool) *cobra.Command {
	short := map[bool]string{true: "Have a schedule not tick; jobs that it has submitted go on", false: "Have a schedule tick again, from now on"}[paused]
	return &cobra.Command{
		Use: name + " SCHEDULE", Short: short, Args: exactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.changeSchedule(cmd, args[0], false, func(s *api.ScheduleSettings) { s.Paused = paused })
		},
	}
}

func (a *app) schedulesRunCmd() *cobra.Command {
	var wait time.Duration
	cmd := &cobra.Command{
		Use: "run SCHEDULE", Short: "Submit the job of a schedule now, beside its ticks", Args: exactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := a.client(impatient)
			if err != nil {
				return err
			}
			j, err := c.RunSchedule(cmd.Context(), args[0], wait)
			if err != nil {
				return err
			}
			return a.show(j, func(w io.Writer) { fmt.Fprintln(w, j.ID) })
		},
	}
	cmd.Flags().DurationVar(&wait, "wait", 0, "stay until the job has ended, at most this long")
	return cmd
}

func (a *app) schedulesRemoveCmd() *cobra.Command {
	return &cobra.Command{
		Use: "rm SCHEDULE", Short: "Remove a schedule; its jobs stay", Args: exactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := a.client(impatient)
			if err != nil {
				return err
			}
			return c.RemoveSchedule(cmd.Context(), args[0])
		},
	}
}
