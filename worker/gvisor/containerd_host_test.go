package gvisor_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	containerd "github.com/containerd/containerd/v2/client"

	"github.com/sandlot-dev/sandlot/test/need"
	"github.com/sandlot-dev/sandlot/worker/gvisor"
)

// hostContainerd stands for one that the host's service manager runs: nothing
// in its configuration knows of Sandlot. It returns its socket.
func hostContainerd(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("/tmp", "host") // short, for sockets
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	config := fmt.Sprintf(`version = 4
root = '%[1]s/root'
state = '%[1]s/state'
imports = []
disabled_plugins = ['io.containerd.grpc.v1.cri', 'io.containerd.cri.v1.images', 'io.containerd.cri.v1.runtime',
  'io.containerd.podsandbox.controller.v1.podsandbox', 'io.containerd.internal.v1.opt', 'io.containerd.nri.v1.nri']
[plugins.'io.containerd.server.v1.grpc']
  address = '%[1]s/c'
[plugins.'io.containerd.server.v1.ttrpc']
  address = '%[1]s/t'
[plugins.'io.containerd.shim.v1.manager']
  socket_dir = '%[1]s/s'
`, dir)
	if err := os.WriteFile(filepath.Join(dir, "config"), []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	binary := need.GVisor(t).Containerd
	cmd := exec.Command(binary, "--config", filepath.Join(dir, "config"))
	cmd.Env = append(os.Environ(), "PATH="+filepath.Dir(binary)+":"+os.Getenv("PATH"))
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Signal(os.Interrupt)
		_ = cmd.Wait()
	})
	address := filepath.Join(dir, "c")
	client, err := containerd.New(address)
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	if ok, err := client.IsServing(t.Context()); !ok || err != nil {
		t.Fatalf("the host's containerd does not come up: %v", err)
	}
	return address
}

func TestHostsContainerdIsUsedAndLeftAlone(t *testing.T) {
	need.GVisor(t)
	address := hostContainerd(t)
	dir, root := t.TempDir(), rootfs(t)
	before := traces(t, dir)
	settings := config(t, dir)
	settings.Address = address
	c, err := gvisor.StartContainerd(t.Context(), settings)
	if err != nil {
		t.Fatal(err)
	}
	if c.Address() != address {
		t.Errorf("address is %s", c.Address())
	}
	if path := c.Cgroups().SpecPath("id"); path != "/"+gvisor.InstanceName(dir)+"/id" {
		t.Errorf("sandboxes' group is %s, which depends on where the host's shims are", path)
	}
	if out, _ := run(t, c, strings.Repeat("h", 64), root, 5, "on the host's"); out != "on the host's" {
		t.Errorf("got %q", out)
	}
	if err := c.Close(); err != nil {
		t.Error(err)
	}
	if after := traces(t, dir); !slices.Equal(before, after) {
		t.Errorf("left behind:\n%s", strings.Join(after, "\n"))
	}
	client, err := containerd.New(address)
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	if ok, err := client.IsServing(t.Context()); !ok || err != nil {
		t.Errorf("the host's containerd was stopped: %v", err)
	}
}
