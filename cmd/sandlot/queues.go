package main

import (
	"io"
	"net/http"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/sandlot-dev/sandlot/pkg/api"
	"github.com/sandlot-dev/sandlot/pkg/client"
)

func (a *app) queuesCmd() *cobra.Command {
	list := a.queuesListCmd()
	cmd := group(
		&cobra.Command{Use: "queues", Short: "Count the jobs that have not ended, queue by queue; set what a queue may take", GroupID: groupHost},
		list, a.queuesSetCmd(), a.queuesPauseCmd("pause", true), a.queuesPauseCmd("resume", false), a.queuesResetCmd(),
	)
	cmd.RunE = list.RunE
	return cmd
}

func (a *app) queuesListCmd() *cobra.Command {
	return &cobra.Command{
		Use: "ls", Aliases: []string{"list"}, Short: "List the queues of the tenant", Args: exactArgs(0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := a.client(impatient)
			if err != nil {
				return err
			}
			queues, err := c.Queues(cmd.Context())
			if err != nil {
				return err
			}
			return a.show(api.Queues{Queues: queues}, func(w io.Writer) { showQueues(w, queues) })
		},
	}
}

func showQueues(w io.Writer, queues []api.Queue) {
	rows := [][]string{append([]string{"QUEUE", "QUEUED", "RUNNING", "RETRYING", "CANCELING", "OLDEST"}, shareHead()...)}
	for _, q := range queues {
		rows = append(rows, append([]string{
			q.Name, strconv.Itoa(q.Queued), strconv.Itoa(q.Running), strconv.Itoa(q.Retrying),
			strconv.Itoa(q.Canceling), age(q.Oldest, time.Now()),
		}, shareRow(q.Share)...))
	}
	table(w, rows)
}

func (a *app) queuesSetCmd() *cobra.Command {
	var s shareFlags
	cmd := &cobra.Command{
		Use: "set QUEUE", Short: "Set what a queue may take of its tenant's share", Args: exactArgs(1),
		Long: `What no flag names stays as it is. A change holds within a second, for jobs that
wait already too.`,
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.changeQueue(cmd, args[0], func(q *api.Queue) { q.Share = s.onto(cmd.Flags(), q.Share) })
		},
	}
	s.flags(cmd.Flags())
	return cmd
}

func (a *app) queuesPauseCmd(name string, paused bool) *cobra.Command {
	short := map[bool]string{true: "Keep the jobs of a queue waiting; those that run go on", false: "Let the jobs of a queue run again"}[paused]
	return &cobra.Command{
		Use: name + " QUEUE", Short: short, Args: exactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.changeQueue(cmd, args[0], func(q *api.Queue) { q.Paused = paused })
		},
	}
}

// changeQueue changes what is set for a queue, and shows it.
func (a *app) changeQueue(cmd *cobra.Command, name string, change func(*api.Queue)) error {
	c, err := a.client(impatient)
	if err != nil {
		return err
	}
	for {
		now, err := queueNamed(cmd, c, name)
		if err != nil {
			return err
		}
		change(&now)
		set, err := c.SetQueue(cmd.Context(), name, api.QueueSettings{Share: now.Share, Revision: now.Revision})
		if statusOf(err) == http.StatusConflict {
			continue // somebody else was faster
		}
		if err != nil {
			return err
		}
		return a.show(set, func(w io.Writer) { showQueues(w, []api.Queue{set}) })
	}
}

func queueNamed(cmd *cobra.Command, c *client.Client, name string) (api.Queue, error) {
	queues, err := c.Queues(cmd.Context())
	for _, q := range queues {
		if q.Name == name {
			return q, err
		}
	}
	fresh := api.Queue{Name: name}
	fresh.Weight = 1
	return fresh, err
}

func (a *app) queuesResetCmd() *cobra.Command {
	return &cobra.Command{
		Use: "reset QUEUE", Short: "Forget what is set for a queue; its jobs stay", Args: exactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := a.client(impatient)
			if err != nil {
				return err
			}
			return c.ResetQueue(cmd.Context(), args[0])
		},
	}
}
