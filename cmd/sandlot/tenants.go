package main

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/sandlot-dev/sandlot/pkg/api"
	"github.com/sandlot-dev/sandlot/pkg/job"
)

func (a *app) tenantsCmd() *cobra.Command {
	return group(
		&cobra.Command{Use: "tenants", Short: "List tenants, set what each may take, and make their tokens", GroupID: groupHost},
		a.tenantsListCmd(), a.tenantsGetCmd(), a.tenantsSetCmd(), a.tenantsRemoveCmd(), a.tenantsTokenCmd(),
	)
}

func (a *app) tenantsListCmd() *cobra.Command {
	return &cobra.Command{
		Use: "ls", Aliases: []string{"list"}, Short: "List the tenants", Args: exactArgs(0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := a.client(impatient)
			if err != nil {
				return err
			}
			tenants, err := c.Tenants(cmd.Context())
			if err != nil {
				return err
			}
			return a.show(api.Tenants{Tenants: tenants}, func(w io.Writer) {
				rows := [][]string{append([]string{"TENANT"}, append(shareHead(), "TOKENS", "QUEUED", "RUNNING")...)}
				for _, t := range tenants {
					row := append([]string{t.ID}, shareRow(t.Share)...)
					rows = append(rows, append(row, strconv.Itoa(len(t.Tokens)), strconv.Itoa(t.Queued), strconv.Itoa(t.Running)))
				}
				table(w, rows)
			})
		},
	}
}

// shareHead and shareRow are what a table says of a share.
func shareHead() []string { return []string{"WEIGHT", "MAX RUNNING", "MAX QUEUED", "RATE", "PAUSED"} }

func shareRow(s job.Share) []string {
	most := func(n int) string {
		if n == 0 {
			return "-"
		}
		return strconv.Itoa(n)
	}
	return []string{strconv.Itoa(s.Parts()), most(s.MaxRunning), most(s.MaxQueued), rateText(s.Rate), map[bool]string{true: "yes", false: "-"}[s.Paused]}
}

func rateText(r job.Rate) string {
	if !r.Limited() {
		return "-"
	}
	return fmt.Sprintf("%g/s, burst %g", r.PerSecond, r.Room())
}

func (a *app) tenantsGetCmd() *cobra.Command {
	return &cobra.Command{
		Use: "get TENANT", Short: "Show a tenant", Args: exactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := a.client(impatient)
			if err != nil {
				return err
			}
			t, err := c.Tenant(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			return a.show(t, func(w io.Writer) { showTenant(w, t) })
		},
	}
}

func showTenant(w io.Writer, t api.Tenant) {
	rows := [][]string{{"tenant", t.ID}}
	head, row := []string{"weight", "max running", "max queued", "rate", "paused"}, shareRow(t.Share)
	for i := range head {
		rows = append(rows, []string{head[i], row[i]})
	}
	keep := "-"
	if t.Retention > 0 {
		keep = t.Retention.String()
	}
	rows = append(rows, []string{"retention", keep}, []string{"queued", strconv.Itoa(t.Queued)}, []string{"running", strconv.Itoa(t.Running)})
	for _, token := range t.Tokens {
		rows = append(rows, []string{"token " + token.ID, fmt.Sprintf("%s, made %s ago", dash(token.Name), age(token.CreatedAt, time.Now()))})
	}
	table(w, rows)
}

// shareFlags are the flags of a share; given are those that the command line
// names.
type shareFlags struct {
	share job.Share
	rate  float64
	burst int
}

func (s *shareFlags) flags(f *pflag.FlagSet) {
	f.IntVar(&s.share.Weight, "weight", 1, "part among those beside it that wait, 1 to 1000")
	f.IntVar(&s.share.MaxRunning, "max-running", 0, "most jobs that run at once; 0 for no cap")
	f.IntVar(&s.share.MaxQueued, "max-queued", 0, "most jobs that wait, more are refused; 0 for no cap")
	f.Float64Var(&s.rate, "rate", 0, "most jobs that start in a second; 0 for no bound")
	f.IntVar(&s.burst, "burst", 0, "how many may start at once within the rate; 0 for those of a second")
	f.BoolVar(&s.share.Paused, "paused", false, "keep jobs waiting; those that run go on")
}

// onto is a share with what the command line names changed.
func (s *shareFlags) onto(f *pflag.FlagSet, share job.Share) job.Share {
	for name, change := range map[string]func(){
		"weight":      func() { share.Weight = s.share.Weight },
		"max-running": func() { share.MaxRunning = s.share.MaxRunning },
		"max-queued":  func() { share.MaxQueued = s.share.MaxQueued },
		"paused":      func() { share.Paused = s.share.Paused },
		"rate":        func() { share.Rate.PerSecond = s.rate },
		"burst":       func() { share.Rate.Burst = s.burst },
	} {
		if f.Changed(name) {
			change()
		}
	}
	if share.Rate.PerSecond == 0 {
		share.Rate = job.Rate{}
	}
	return share
}

func (a *app) tenantsSetCmd() *cobra.Command {
	var s shareFlags
	var retention time.Duration
	cmd := &cobra.Command{
		Use: "set TENANT", Short: "Make a tenant, or change what it may take", Args: exactArgs(1),
		Long: `Makes the tenant if there is none of that name. What no flag names stays as it is.
A change holds within a second, for jobs that wait already too.`,
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := a.client(impatient)
			if err != nil {
				return err
			}
			for {
				now, err := c.Tenant(cmd.Context(), args[0])
				if err != nil && statusOf(err) != http.StatusNotFound {
					return err
				}
				settings := api.TenantSettings{Share: s.onto(cmd.Flags(), now.Share), Retention: now.Retention, Revision: now.Revision}
				settings.Weight = settings.Parts()
				if cmd.Flags().Changed("retention") {
					settings.Retention = job.MillisOf(retention)
				}
				t, err := c.SetTenant(cmd.Context(), args[0], settings)
				if statusOf(err) == http.StatusConflict {
					continue // somebody else was faster
				}
				if err != nil {
					return err
				}
				return a.show(t, func(w io.Writer) { showTenant(w, t) })
			}
		},
	}
	s.flags(cmd.Flags())
	cmd.Flags().DurationVar(&retention, "retention", 0, "how long results are kept; 0 as the scheduler says")
	return cmd
}

// statusOf is the status of a problem, 0 of anything else.
func statusOf(err error) int {
	if p, ok := errors.AsType[*api.Problem](err); ok {
		return p.Status
	}
	return 0
}

func (a *app) tenantsRemoveCmd() *cobra.Command {
	return &cobra.Command{
		Use: "rm TENANT", Short: "Remove a tenant whose jobs have all ended", Args: exactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := a.client(impatient)
			if err != nil {
				return err
			}
			return c.RemoveTenant(cmd.Context(), args[0])
		},
	}
}

func (a *app) tenantsTokenCmd() *cobra.Command {
	var name, revoke string
	cmd := &cobra.Command{
		Use: "token TENANT", Short: "Make a token that speaks for a tenant, or revoke one", Args: exactArgs(1),
		Long: `Prints a new token. It is stored as a digest only, so this is the one time that
it can be read. Clients give it as --token or $SANDLOT_TOKEN.`,
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := a.client(impatient)
			if err != nil {
				return err
			}
			if revoke != "" {
				return c.RemoveToken(cmd.Context(), args[0], revoke)
			}
			t, err := c.NewToken(cmd.Context(), args[0], name)
			if err != nil {
				return err
			}
			return a.show(t, func(w io.Writer) { fmt.Fprintln(w, t.Token) })
		},
	}
	cmd.Flags().StringVar(&name, "name", "", "what the token is for")
	cmd.Flags().StringVar(&revoke, "revoke", "", "have the token with this id end to be valid, instead of making one")
	return cmd
}
