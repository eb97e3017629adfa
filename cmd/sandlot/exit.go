package main

import (
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"
)

// Codes that sandlot exits with. A code of `sandlot run` that is none of
// these is the program's own.
const (
	exitProblem  = 1   // something went wrong; stderr says what
	exitUsage    = 2   // the command line or a setting is wrong
	exitRejected = 3   // lines of a batch were refused, the rest ran
	exitLimit    = 124 // the job ran into one of its limits
	exitPlatform = 125 // there is no verdict on the program: our failure
)

// exitError ends the process with a code when all that there is to say has
// been said.
type exitError struct{ code int }

func (e exitError) Error() string { return fmt.Sprintf("exit %d", e.code) }

// codedError is an error that is printed and then decides the exit code.
type codedError struct {
	error
	code int
}

func (e codedError) Unwrap() error { return e.error }

// usageError is a wrong command line.
type usageError struct {
	cmd *cobra.Command
	error
}

func (e usageError) Unwrap() error { return e.error }

// report prints err, if there is something to print, and returns the code
// to exit with.
func (a *app) report(err error) int {
	if err == nil {
		return 0
	}
	if exit, ok := errors.AsType[exitError](err); ok {
		return exit.code
	}
	fmt.Fprintln(a.stderr, "sandlot: "+explainError(err))
	if usage, ok := errors.AsType[usageError](err); ok {
		fmt.Fprintf(a.stderr, "Run `%s --help` for how to use it.\n", usage.cmd.CommandPath())
		return exitUsage
	}
	if coded, ok := errors.AsType[codedError](err); ok {
		return coded.code
	}
	if _, ok := errors.AsType[problems](err); ok {
		return exitUsage
	}
	if i, ok := errors.AsType[interrupt](err); ok {
		return signalCode(i.signal)
	}
	return exitProblem
}

// problems are all that is wrong with a command's settings.
type problems []string

func (p *problems) addf(format string, args ...any) { *p = append(*p, fmt.Sprintf(format, args...)) }

// check adds a problem unless ok.
func (p *problems) check(ok bool, format string, args ...any) {
	if !ok {
		p.addf(format, args...)
	}
}

func (p problems) err() error {
	if len(p) == 0 {
		return nil
	}
	return p
}

func (p problems) Error() string {
	if len(p) == 1 {
		return p[0]
	}
	return fmt.Sprintf("%d settings are wrong:\n  - %s", len(p), strings.Join(p, "\n  - "))
}
