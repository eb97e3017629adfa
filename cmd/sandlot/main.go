// Command sandlot is all of Sandlot: the server with its roles, and the
// client that talks to it.
//
//	sandlot up                     NATS, scheduler and worker in one process
//	sandlot scheduler | worker     one role, against a NATS of your own
//	sandlot run, submit, batch …   the client
//
// Each command has a file of its own; stack.go wires the roles together.
package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/spf13/cobra"
)

func main() { os.Exit(execute(os.Args[1:])) }

// execute runs one command line and returns the code to exit with.
func execute(args []string) int {
	ctx, cancel := context.WithCancelCause(context.Background())
	defer cancel(nil)
	go watchSignals(cancel)
	a := &app{stdin: os.Stdin, stdout: os.Stdout, stderr: os.Stderr}
	root := a.command()
	root.SetArgs(args)
	err := root.ExecuteContext(ctx)
	return a.report(err)
}

// watchSignals asks the command to end at the first signal, and ends the
// process at the second. Programs such as timeout and npm send one signal to
// the process and to its group: what arrives at once counts as one.
func watchSignals(cancel context.CancelCauseFunc) {
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM)
	first := <-signals
	began := time.Now()
	cancel(interrupt{first})
	second := <-signals
	for time.Since(began) < 300*time.Millisecond {
		second = <-signals
	}
	fmt.Fprintln(os.Stderr, "sandlot: interrupted again, leaving at once")
	os.Exit(signalCode(second))
}

// interrupt is the cause of a context that a signal has ended.
type interrupt struct{ signal os.Signal }

func (i interrupt) Error() string { return "interrupted (" + i.signal.String() + ")" }

func signalCode(s os.Signal) int {
	if n, ok := s.(syscall.Signal); ok {
		return 128 + int(n)
	}
	return 1
}

// app is what every command shares: its streams, and how to reach a server.
type app struct {
	stdin          io.Reader
	stdout, stderr io.Writer

	dataDir, server, token, ca, tenant, output string
	// dataDirGiven says that dataDir is not the default.
	dataDirGiven bool
}

// command is the tree of commands.
func (a *app) command() *cobra.Command {
	root := &cobra.Command{
		Use:   "sandlot",
		Short: "A job queue whose workers run untrusted programs in gVisor sandboxes",
		Long: `Sandlot runs untrusted programs, each in a gVisor sandbox of its own, and says
who is to blame when one does not succeed: the program, a limit, or the platform.

Start a server:   sandlot up
Run a program:    sandlot run python -- python3 -c 'print(6*7)'
Without a server: sandlot run --local busybox -- echo hello`,
		SilenceUsage:  true,
		SilenceErrors: true,
		PersistentPreRunE: func(cmd *cobra.Command, _ []string) error {
			err := a.settle(cmd)
			a.dataDirGiven = cmd.Flags().Changed("data-dir")
			return err
		},
	}
	root.SetIn(a.stdin)
	root.SetOut(a.stdout)
	root.SetErr(a.stderr)
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return usageError{cmd, err}
	})
	a.clientFlags(root.PersistentFlags())

	root.AddGroup(
		&cobra.Group{ID: groupServer, Title: "Servers:"},
		&cobra.Group{ID: groupJobs, Title: "Jobs:"},
		&cobra.Group{ID: groupHost, Title: "Looking after it:"},
	)
	return group(root,
		a.upCmd(), a.schedulerCmd(), a.workerCmd(),
		a.runCmd(), a.submitCmd(), a.batchCmd(), a.jobsCmd(), a.schedulesCmd(), a.deadCmd(), a.logsCmd(), a.traceCmd(),
		a.workersCmd(), a.poolsCmd(), a.tenantsCmd(), a.queuesCmd(), a.imageCmd(), a.backupCmd(), a.restoreCmd(), a.doctorCmd(), a.versionCmd(),
		a.natsCmd(),
	)
}

// Groups of commands in the help text.
const (
	groupServer = "server"
	groupJobs   = "jobs"
	groupHost   = "host"
)
