package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/spf13/pflag"

	"github.com/sandlot-dev/sandlot/pkg/api"
	"github.com/sandlot-dev/sandlot/pkg/client"
	"github.com/sandlot-dev/sandlot/pkg/image"
	"github.com/sandlot-dev/sandlot/worker/gvisor"
)

// localConfig asks for a stack that lives as long as one command.
type localConfig struct {
	Local   bool
	Slots   int
	Runtime string
	// once: for one job, after which there is nothing to boot ahead for.
	once  bool
	build builderConfig
}

func (c *localConfig) flags(f *pflag.FlagSet) {
	c.build = defaultBuilder()
	f.BoolVar(&c.Local, "local", false, "use no server: start everything for this command, and remove it afterwards")
	f.IntVar(&c.Slots, "slots", 0, "with --local: how many jobs to run at once (default: one per processor)")
	f.StringVar(&c.Runtime, "runtime", string(gvisor.Resident), "with --local: "+runtimeUsage)
	withEnv(f, "runtime")
	c.build.flags(f)
}

// wanted is an image that a job wants, by its name or by a language.
type wanted struct{ image, language string }

func wantedBy(s api.Submit) wanted { return wanted{s.Image, s.Language} }

// catalogueImages are the names in the catalogue of what is needed. What is
// not there is left to the server to refuse.
func catalogueImages(needs []wanted) []string {
	catalogue := image.Builtin()
	var names []string
	for _, n := range needs {
		name := n.image
		if l, ok := catalogue.Language(n.language); ok && name == "" {
			name = l.Image
		}
		if _, ok := catalogue.Recipe(name); ok && !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	return names
}

// server is the server a command talks to, and what to close afterwards.
type server struct {
	*client.Client
	// temporary says that it is gone for good after close.
	temporary bool
	closing   []func() error
}

// close ends a local stack; it is harmless the second time.
func (s *server) close() error {
	var all error
	for len(s.closing) > 0 {
		last := s.closing[len(s.closing)-1]
		s.closing = s.closing[:len(s.closing)-1]
		all = errors.Join(all, last())
	}
	return all
}

// connect finds the server that the flags name, or starts a local one with
// the catalogue images that are needed. The context that it returns ends with
// the given one, or when the local server breaks.
func (a *app) connect(ctx context.Context, local localConfig, needs []wanted, patience time.Duration) (context.Context, *server, error) {
	if !local.Local {
		c, err := a.client(patience)
		return ctx, &server{Client: c}, err
	}
	s := &server{}
	running, err := a.startLocal(ctx, s, local, catalogueImages(needs), patience)
	if err != nil {
		if ctx.Err() != nil {
			err = context.Cause(ctx) // what broke, broke of the signal
		}
		return ctx, nil, errors.Join(err, s.close())
	}
	return running, s, nil
}

func (a *app) startLocal(ctx context.Context, s *server, local localConfig, images []string, patience time.Duration) (context.Context, error) {
	if err := gvisor.Choice(local.Runtime).Valid(); err != nil {
		return nil, fmt.Errorf("--%w", err)
	}
	config := defaultUp()
	config.DataDir, config.build, config.Log.Level = a.dataDir, local.build, "error"
	config.Scheduler.Listen, config.Worker.Runtime = "127.0.0.1:0", local.Runtime
	if local.Slots > 0 {
		config.Worker.Slots = local.Slots
	}
	if local.once {
		config.Worker.Spares = 0
	}
	if !a.dataDirGiven {
		dir, err := localDir()
		if err != nil {
			return nil, err
		}
		s.temporary = true
		s.closing = append(s.closing, func() error { return os.RemoveAll(dir) })
		config.DataDir = dir
	}
	stack, err := a.startUp(ctx, config)
	if err != nil {
		return nil, err
	}
	s.closing = append(s.closing, stack.close)
	token, err := readLine(filepath.Join(config.DataDir, "token"))
	if err != nil {
		return nil, fmt.Errorf("read token: %w", err)
	}
	s.Client = client.New(client.Config{Server: stack.url, Token: token, Patience: patience})
	return stack.ctx, prepareImages(stack.ctx, s.Client, local.build, images, a.stderr)
}
