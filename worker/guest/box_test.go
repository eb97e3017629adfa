package guest_test

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/sandlot-dev/sandlot/test/need"
	"github.com/sandlot-dev/sandlot/worker/guest"
)

// diskSize is limits.disk of every box.
const diskSize = 8 << 20

// tools are what the boxes are made of; built once for all tests.
type tools struct {
	agent string // directory with the agent
	root  string // root file system with busybox
	bare  string // the same without the directories that our own images have
}

// scratch holds the tools, if they were built.
var scratch string

var build = sync.OnceValues(func() (tools, error) {
	var tl tools
	dir, err := os.MkdirTemp("", "sandlot-guest-")
	if err != nil {
		return tl, err
	}
	scratch = dir
	module, err := filepath.Abs("../..")
	if err != nil {
		return tl, err
	}
	tl.agent, tl.root, tl.bare = filepath.Join(dir, "agent"), filepath.Join(dir, "root"), filepath.Join(dir, "bare")
	cmd := exec.Command("go", "build", "-o", filepath.Join(tl.agent, "sandlot-agent"), "./cmd/sandlot-agent")
	cmd.Dir, cmd.Env = module, append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return tl, fmt.Errorf("build agent: %w\n%s", err, out)
	}
	victim := exec.Command("go", "build", "-o", filepath.Join(tl.agent, "victim"), "./worker/guest/testdata/victim")
	victim.Dir, victim.Env = module, cmd.Env
	if out, err := victim.CombinedOutput(); err != nil {
		return tl, fmt.Errorf("build victim: %w\n%s", err, out)
	}
	if err := makeRoot(tl.bare); err != nil {
		return tl, err
	}
	if err := makeRoot(tl.root); err != nil {
		return tl, err
	}
	for _, d := range []string{"work", "tmp", "home/sandlot", "run/sandlot/disk", "run/sandlot/agent", "dev/shm", "sys"} {
		if err := os.MkdirAll(filepath.Join(tl.root, d), 0o755); err != nil {
			return tl, err
		}
	}
	return tl, nil
})

// makeRoot lays out busybox and its libraries, and an /etc.
func makeRoot(root string) error {
	script := `set -e
root=$1
mkdir -p $root/bin $root/etc $root/proc $root/dev
bb=$(command -v busybox)
cp $bb $root/bin/busybox
for lib in $(ldd $bb 2>/dev/null | grep -o '/[^ ]*'); do mkdir -p $root$(dirname $lib); cp $lib $root$lib; done
for a in $($bb --list); do [ $a = busybox ] || ln -s busybox $root/bin/$a; done
echo 'root:x:0:0::/root:/bin/sh
sandlot:x:1000:1000::/home/sandlot:/bin/sh' >$root/etc/passwd`
	out, err := exec.Command("sh", "-c", script, "sh", root).CombinedOutput()
	if err != nil {
		return fmt.Errorf("make root: %w\n%s", err, out)
	}
	return nil
}

func TestMain(m *testing.M) {
	code := m.Run()
	if scratch != "" {
		os.RemoveAll(scratch)
	}
	os.Exit(code)
}

// box is a place where the agent runs as process 1.
type box struct {
	name    string
	command func(t testing.TB, tl tools) *exec.Cmd
}

// native runs the agent on the host's kernel, in namespaces of its own.
var native = box{"native", func(t testing.TB, tl tools) *exec.Cmd {
	script := `set -e
mount --make-rprivate /
mount --bind $ROOT $ROOT
mount -t proc proc $ROOT/proc
mount -t tmpfs -o size=1m,mode=755 tmpfs $ROOT/dev
mkdir $ROOT/dev/shm
for d in null zero; do : >$ROOT/dev/$d; mount --bind /dev/$d $ROOT/dev/$d; done
mount -t tmpfs -o size=$SIZE tmpfs $ROOT/run/sandlot/disk
mount --bind -o ro $AGENT $ROOT/run/sandlot/agent
exec chroot $ROOT /run/sandlot/agent/sandlot-agent -size $SIZE`
	cmd := exec.Command("sh", "-c", script)
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "ROOT=" + tl.root, "AGENT=" + tl.agent, fmt.Sprint("SIZE=", diskSize)}
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWPID | syscall.CLONE_NEWNS | syscall.CLONE_NEWIPC, Pdeathsig: syscall.SIGKILL}
	return cmd
}}

// gvisor runs it in runsc, as the product does.
func gvisor(name string, spec func(tl tools) map[string]any) box {
	return box{name, func(t testing.TB, tl tools) *exec.Cmd {
		runsc := need.GVisor(t).Runsc
		dir, err := os.MkdirTemp("", "sandlot-box-")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { os.RemoveAll(dir) })
		raw, err := json.Marshal(spec(tl))
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, "config.json"), raw, 0o600); err != nil {
			t.Fatal(err)
		}
		// One process group, so that all of runsc ends with it; a mount namespace, so that its mounts do.
		cmd := exec.Command(runsc, "--root="+filepath.Join(dir, "state"), "--rootless=false", "--network=none",
			"--ignore-cgroups", "--overlay2=root:memory", "run", "--bundle="+dir, "box")
		cmd.Env = []string{"PATH=" + os.Getenv("PATH")}
		cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS, Pdeathsig: syscall.SIGKILL, Setpgid: true}
		t.Cleanup(func() {
			del := exec.Command(runsc, "--root="+filepath.Join(dir, "state"), "--rootless=false", "delete", "--force", "box")
			_ = del.Run() // it is gone already, as a rule
		})
		return cmd
	}}
}

var agentCaps = []string{
	"CAP_SYS_ADMIN", "CAP_SYS_RESOURCE", "CAP_SETPCAP", "CAP_SETUID", "CAP_SETGID",
	"CAP_KILL", "CAP_CHOWN", "CAP_FOWNER", "CAP_DAC_OVERRIDE",
}

func ociSpec(tl tools, root string, readonly bool) map[string]any {
	return map[string]any{
		"ociVersion": "1.0.2",
		"process": map[string]any{
			"args": []string{"/run/sandlot/agent/sandlot-agent", "-size", fmt.Sprint(diskSize)},
			"cwd":  "/",
			"env":  []string{},
			"user": map[string]any{"uid": 0, "gid": 0},
			"capabilities": map[string]any{
				"bounding": agentCaps, "effective": agentCaps, "permitted": agentCaps,
			},
		},
		"root": map[string]any{"path": root, "readonly": readonly},
		"mounts": []map[string]any{
			{"destination": "/proc", "type": "proc", "source": "proc"},
			{"destination": "/run/sandlot/disk", "type": "tmpfs", "source": "tmpfs",
				"options": []string{"nosuid", "nodev", "mode=0700", fmt.Sprint("size=", diskSize)}},
			{"destination": "/run/sandlot/agent", "type": "bind", "source": tl.agent, "options": []string{"ro", "bind"}},
		},
		"linux": map[string]any{"namespaces": []map[string]any{
			{"type": "pid"}, {"type": "network"}, {"type": "ipc"}, {"type": "uts"}, {"type": "mount"},
		}},
	}
}

var (
	runsc       = gvisor("runsc", func(tl tools) map[string]any { return ociSpec(tl, tl.root, true) })
	runscNoDisk = gvisor("runsc without a disk", func(tl tools) map[string]any {
		spec := ociSpec(tl, tl.root, true)
		process := spec["process"].(map[string]any)
		process["args"] = append(process["args"].([]string), "-disk", "/nosuch")
		return spec
	})
	runscBare = gvisor("runsc with a bare image", func(tl tools) map[string]any { return ociSpec(tl, tl.bare, false) })
)

// running is a started box.
type running struct {
	*guest.Session
	cmd    *exec.Cmd
	ended  chan struct{}
	w      *os.File // the agent's input
	stderr *strings.Builder
}

// start runs the box and opens a session.
func (b box) start(t testing.TB, settings guest.Settings) *running {
	t.Helper()
	need.Root(t)
	tl, err := build()
	if err != nil {
		t.Fatal(err)
	}
	cmd := b.command(t, tl)
	rIn, wIn, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	rOut, wOut, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	r := &running{cmd: cmd, ended: make(chan struct{}), w: wIn, stderr: &strings.Builder{}}
	cmd.Stdin, cmd.Stdout, cmd.Stderr = rIn, wOut, r.stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	rIn.Close()
	wOut.Close()
	go func() {
		defer close(r.ended)
		_ = cmd.Wait() // its state is looked at
	}()
	t.Cleanup(func() {
		if r.Session != nil {
			_ = r.Close()
		}
		_ = cmd.Process.Kill()
		<-r.ended
		if t.Failed() {
			t.Logf("agent's stderr: %s", r.stderr)
		}
	})
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	r.Session, err = guest.Open(ctx, rOut, wIn, settings)
	if err != nil {
		_ = cmd.Process.Kill()
		<-r.ended
		t.Fatalf("%v; stderr: %s", err, r.stderr)
	}
	return r
}

// each runs a test in every kind of box.
func each(t *testing.T, test func(t *testing.T, b box)) {
	for _, b := range []box{native, runsc} {
		t.Run(b.name, func(t *testing.T) { test(t, b) })
	}
}
