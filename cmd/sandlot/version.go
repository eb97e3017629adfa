package main

import (
	"fmt"
	"io"
	"runtime"
	"runtime/debug"

	"github.com/spf13/cobra"
)

// version is set by the linker when a release is built.
var version = "dev"

func (a *app) versionCmd() *cobra.Command {
	return &cobra.Command{
		Use:     "version",
		Short:   "Print the version of sandlot and of what it is built from",
		GroupID: groupHost,
		Args:    exactArgs(0),
		RunE: func(*cobra.Command, []string) error {
			v := versions()
			return a.show(v, func(w io.Writer) {
				fmt.Fprintf(w, "sandlot %s (%s, %s)\n", v.Sandlot, v.Go, v.Platform)
				rows := [][]string{}
				for _, name := range builtFrom {
					rows = append(rows, []string{"  " + name, v.Modules[name]})
				}
				table(w, rows)
			})
		},
	}
}

type versionInfo struct {
	Sandlot  string            `json:"sandlot"`
	Commit   string            `json:"commit,omitempty"`
	Go       string            `json:"go"`
	Platform string            `json:"platform"`
	Modules  map[string]string `json:"modules"`
}

// builtFrom are the modules whose version a bug report needs.
var builtFrom = []string{
	"github.com/nats-io/nats-server/v2",
	"github.com/nats-io/nats.go",
	"github.com/containerd/containerd/v2",
	"go.opentelemetry.io/otel",
}

func versions() versionInfo {
	v := versionInfo{
		Sandlot: version, Go: runtime.Version(),
		Platform: runtime.GOOS + "/" + runtime.GOARCH, Modules: map[string]string{},
	}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return v
	}
	for _, s := range info.Settings {
		if s.Key == "vcs.revision" {
			v.Commit = s.Value
		}
	}
	for _, m := range info.Deps {
		for _, name := range builtFrom {
			if m.Path == name {
				v.Modules[name] = m.Version
			}
		}
	}
	return v
}
