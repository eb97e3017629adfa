package resident

import (
	"flag"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"

	"github.com/BurntSushi/toml"
	task "github.com/containerd/containerd/api/runtime/task/v2"
	"github.com/containerd/errdefs"
	"gvisor.dev/gvisor/pkg/shim/v1/runtimeoptions"
	"gvisor.dev/gvisor/runsc/config"
	"gvisor.dev/gvisor/runsc/specutils"
)

// Settings are those of runsc, the same file that the stock shim takes.
type Settings struct {
	path  string
	root  string
	runsc config.Config
}

// file is the settings file.
type file struct {
	Root       string            `toml:"root"`
	BinaryName string            `toml:"binary_name"`
	Runsc      map[string]string `toml:"runsc_config"`
}

// ReadSettings reads the settings file and tells gVisor where runsc is, which
// is one place for the whole process. unified says that the host has version 2
// of cgroups only.
func ReadSettings(path string, unified bool) (Settings, error) {
	var f file
	unknown, err := toml.DecodeFile(path, &f)
	if err != nil {
		return Settings{}, fmt.Errorf("settings of runsc: %w", err)
	}
	if keys := unknown.Undecoded(); len(keys) > 0 {
		return Settings{}, fmt.Errorf("settings of runsc: %s: unknown key %s", path, keys[0])
	}
	if !filepath.IsAbs(f.Root) || !filepath.IsAbs(f.BinaryName) {
		return Settings{}, fmt.Errorf("settings of runsc: %s: root and binary_name are absolute paths", path)
	}
	if _, err := os.Stat(f.BinaryName); err != nil {
		return Settings{}, fmt.Errorf("settings of runsc: %w", err)
	}
	flags := flag.NewFlagSet("runsc", flag.ContinueOnError)
	config.RegisterFlags(flags)
	values := map[string]string{"host-settings": "ignore"} // they were the same for the sandbox before
	maps.Copy(values, f.Runsc)
	if !unified {
		// What runsc would do about cgroups of version 1, group.go does.
		values["ignore-cgroups"] = "true"
	}
	for _, name := range slices.Sorted(maps.Keys(values)) {
		if err := flags.Set(name, values[name]); err != nil {
			return Settings{}, fmt.Errorf("settings of runsc: %s: %w", name, err)
		}
	}
	conf, err := config.NewFromFlags(flags)
	if err != nil {
		return Settings{}, fmt.Errorf("settings of runsc: %w", err)
	}
	specutils.ExePath = f.BinaryName
	return Settings{path: path, root: f.Root, runsc: *conf}, nil
}

// configFor is gVisor's configuration for one sandbox. A request for what this
// runtime does not do is refused.
func (s Settings) configFor(namespace string, r *task.CreateTaskRequest) (*config.Config, error) {
	refuse := func(what string) error {
		return fmt.Errorf("create task %s: %s: %w", r.ID, what, errdefs.ErrNotImplemented)
	}
	switch {
	case r.Terminal:
		return nil, refuse("a terminal")
	case r.Checkpoint != "" || r.ParentCheckpoint != "":
		return nil, refuse("a start from a checkpoint")
	}
	if r.Options != nil && len(r.Options.Value) > 0 {
		var o runtimeoptions.Options
		if err := o.Unmarshal(r.Options.Value); err != nil {
			return nil, fmt.Errorf("create task %s: runtime options: %w: %w", r.ID, err, errdefs.ErrInvalidArgument)
		}
		if o.ConfigPath != "" && o.ConfigPath != s.path {
			return nil, refuse("options other than those of " + s.path)
		}
	}
	conf := s.runsc
	conf.RootDir = rootFor(s.root, namespace)
	return &conf, nil
}
