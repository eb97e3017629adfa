package gvisor

import (
	"bytes"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"text/template"
)

// containerdTOML switches off whatever Sandlot has no use for, above all what
// reaches outside the data directory: opt makes /opt/containerd, nri and the
// image verifier read global directories, the task monitor and the restarter
// act on containers on their own.
const containerdTOML = `version = 4
root = '{{.Root}}'
state = '{{.State}}'
temp = '{{.Tmp}}'
imports = []
disabled_plugins = [
{{- range .Disabled}}
  '{{.}}',
{{- end}}
]
required_plugins = ['io.containerd.snapshotter.v1.overlayfs', 'io.containerd.runtime.v2.task']

[debug]
  level = 'warn'

[plugins.'io.containerd.server.v1.grpc']
  address = '{{.Socket}}'

[plugins.'io.containerd.server.v1.ttrpc']
  address = '{{.Events}}'

[plugins.'io.containerd.shim.v1.manager']
  socket_dir = '{{.Shims}}'
  env = ['SANDLOT_RUNSC_CONFIG={{.Runsc}}', 'SANDLOT_OWNER={{.Owner}}', 'SANDLOT_RUNTIME_SOCKET={{.Resident}}']
`

func disabledPlugins() []string {
	return []string{
		"io.containerd.cri.v1.images",
		"io.containerd.cri.v1.runtime",
		"io.containerd.grpc.v1.cri",
		"io.containerd.podsandbox.controller.v1.podsandbox",
		"io.containerd.differ.v1.erofs",
		"io.containerd.image-verifier.v1.bindir",
		"io.containerd.internal.v1.opt",
		"io.containerd.internal.v1.tracing",
		"io.containerd.monitor.container.v1.restart",
		"io.containerd.monitor.task.v1.cgroups",
		"io.containerd.nri.v1.nri",
		"io.containerd.snapshotter.v1.blockfile",
		"io.containerd.snapshotter.v1.devmapper",
		"io.containerd.snapshotter.v1.erofs",
		"io.containerd.snapshotter.v1.zfs",
		"io.containerd.tracing.processor.v1.otlp",
	}
}

// writeContainerd writes containerd's own configuration.
func (l layout) writeContainerd(owner string) error {
	var text bytes.Buffer
	err := template.Must(template.New("containerd").Parse(containerdTOML)).Execute(&text, map[string]any{
		"Root": l.root(), "State": l.state(), "Tmp": l.tmp(), "Socket": l.socket(), "Events": l.events(),
		"Shims": l.shims(), "Runsc": l.runsc(), "Owner": owner, "Resident": l.resident(), "Disabled": disabledPlugins(),
	})
	if err != nil {
		return fmt.Errorf("write containerd's configuration: %w", err)
	}
	if err := os.WriteFile(l.config(), text.Bytes(), 0o600); err != nil {
		return fmt.Errorf("write containerd's configuration: %w", err)
	}
	return nil
}

// writeRunsc writes the shim's options: where runsc is, where its state goes,
// and its flags.
func (l layout) writeRunsc(binary string, flags map[string]string) error {
	var text strings.Builder
	fmt.Fprintf(&text, "root = '%s'\nbinary_name = '%s'\n\n[runsc_config]\n", l.runscRoot(), binary)
	for _, name := range slices.Sorted(maps.Keys(flags)) {
		fmt.Fprintf(&text, "%s = '%s'\n", name, flags[name])
	}
	if err := os.WriteFile(l.runsc(), []byte(text.String()), 0o600); err != nil {
		return fmt.Errorf("write runsc's options: %w", err)
	}
	return nil
}
