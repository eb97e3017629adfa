package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// Settings come from a flag, else from the environment, else from the
// default in the literal of the role's struct. The variable of --data-dir is
// SANDLOT_DATA_DIR, and so on.

// envName is the variable that stands in for a flag.
func envName(flag string) string {
	return "SANDLOT_" + strings.ToUpper(strings.ReplaceAll(flag, "-", "_"))
}

// withEnv marks flags as settings: their help names the variable, and settle
// reads it.
func withEnv(flags *pflag.FlagSet, names ...string) {
	for _, name := range names {
		f := flags.Lookup(name)
		f.Usage += " [$" + envName(name) + "]"
		if err := flags.SetAnnotation(name, annotationEnv, []string{envName(name)}); err != nil {
			panic(err) // the flag exists: Lookup found it
		}
	}
}

const annotationEnv = "sandlot/env"

// settle gives every setting that the command line leaves out the value of
// its variable, and reports all variables that do not parse.
func (a *app) settle(cmd *cobra.Command) error {
	var wrong problems
	cmd.Flags().VisitAll(func(f *pflag.Flag) {
		name := f.Annotations[annotationEnv]
		if f.Changed || name == nil {
			return
		}
		value, ok := os.LookupEnv(name[0])
		if !ok || value == "" {
			return
		}
		if err := f.Value.Set(value); err != nil {
			wrong.addf("$%s=%q: %v", name[0], value, err)
			return
		}
		f.Changed = true
		f.Annotations[annotationSource] = []string{"environment"}
	})
	wrong.check(slices.Contains([]string{"text", "json"}, a.output),
		"--output %q: write text or json", a.output)
	return wrong.err()
}

const annotationSource = "sandlot/source"

// role is the settings of a long-running command.
type role interface {
	// wrong lists everything that is wrong with the settings.
	wrong() problems
}

// ready says whether the command should go on: not when the settings are
// wrong, nor when they were only to be printed.
func (a *app) ready(cmd *cobra.Command, r role) (bool, error) {
	if printConfig, _ := cmd.Flags().GetBool("print-config"); printConfig {
		a.printConfig(cmd)
		return false, r.wrong().err()
	}
	return true, r.wrong().err()
}

func printConfigFlag(f *pflag.FlagSet) {
	f.Bool("print-config", false, "print every setting and where it comes from, and exit")
}

// printConfig prints every setting, its value and where that came from.
func (a *app) printConfig(cmd *cobra.Command) {
	values := map[string]string{}
	table := tabwriter.NewWriter(a.stdout, 0, 0, 2, ' ', 0)
	cmd.Flags().VisitAll(func(f *pflag.Flag) {
		switch f.Name {
		case "print-config", "help", "server", "token", "tenant", "output":
			return // not settings of a role
		}
		source := "default"
		if s := f.Annotations[annotationSource]; s != nil {
			source = s[0]
		} else if f.Changed {
			source = "flag"
		}
		values[f.Name] = f.Value.String()
		fmt.Fprintf(table, "%s\t%s\t%s\n", f.Name, f.Value, source)
	})
	if a.output == "json" {
		encoder := json.NewEncoder(a.stdout)
		encoder.SetIndent("", "  ")
		_ = encoder.Encode(values) // a map of strings
		return
	}
	_ = table.Flush() // a broken pipe has nobody to be told
}

// defaultDataDir is where a server keeps its state when nothing is said.
func defaultDataDir() string {
	if os.Geteuid() == 0 {
		return "/var/lib/sandlot"
	}
	state := os.Getenv("XDG_STATE_HOME")
	if state == "" {
		home, err := os.UserHomeDir()
		if err != nil {
			return filepath.Join(os.TempDir(), fmt.Sprintf("sandlot-%d", os.Geteuid()))
		}
		state = filepath.Join(home, ".local", "state")
	}
	return filepath.Join(state, "sandlot")
}
