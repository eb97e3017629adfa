package main

import (
	"fmt"
	"io"
	"log/slog"

	"github.com/spf13/pflag"

	"github.com/sandlot-dev/sandlot/pkg/telemetry"
)

// logConfig is what a server writes to stderr.
type logConfig struct{ Level, Format string }

func (c *logConfig) flags(f *pflag.FlagSet) {
	f.StringVar(&c.Level, "log-level", c.Level, "debug, info, warn or error")
	f.StringVar(&c.Format, "log-format", c.Format, "text or json")
	withEnv(f, "log-level", "log-format")
}

func (c *logConfig) wrong() problems {
	var p problems
	var level slog.Level
	p.check(level.UnmarshalText([]byte(c.Level)) == nil, "--log-level %q: write debug, info, warn or error", c.Level)
	p.check(c.Format == "text" || c.Format == "json", "--log-format %q: write text or json", c.Format)
	return p
}

// logger writes to w as configured, each line with the trace it belongs to.
func (c *logConfig) logger(w io.Writer) (*slog.Logger, error) {
	var level slog.Level
	if err := level.UnmarshalText([]byte(c.Level)); err != nil {
		return nil, fmt.Errorf("set log level: %w", err)
	}
	options := &slog.HandlerOptions{Level: level}
	var handler slog.Handler = slog.NewTextHandler(w, options)
	if c.Format == "json" {
		handler = slog.NewJSONHandler(w, options)
	}
	return slog.New(telemetry.LogHandler(handler)), nil
}
