package main

import (
	"fmt"

	"github.com/spf13/cobra"
)

// exactArgs wants n arguments, and shows the usage otherwise.
func exactArgs(n int) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		switch {
		case len(args) == n:
			return nil
		case n == 0:
			return usageError{cmd, fmt.Errorf("%s takes no arguments: leave out %q", cmd.CommandPath(), args[0])}
		}
		return usageError{cmd, fmt.Errorf("got %d arguments; write %s", len(args), cmd.UseLine())}
	}
}

// someArgs wants at least one argument.
func someArgs(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return usageError{cmd, fmt.Errorf("got no arguments; write %s", cmd.UseLine())}
	}
	return nil
}
