package resident_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/containerd/containerd/api/events"
	task "github.com/containerd/containerd/api/runtime/task/v2"
	eventservice "github.com/containerd/containerd/api/services/ttrpc/events/v1"
	tasktypes "github.com/containerd/containerd/api/types/task"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"github.com/containerd/ttrpc"
	"github.com/containerd/typeurl/v2"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/emptypb"

	_ "github.com/containerd/cgroups/v3/cgroup1/stats" // types of Stats
	_ "github.com/containerd/cgroups/v3/cgroup2/stats"
)

// daemon is a sandlot-runtime as it is installed, and containerd's end of it.
type daemon struct {
	dir     string
	process *exec.Cmd
	client  task.TaskService

	mu   sync.Mutex
	told map[string][]any // events by task
	news chan struct{}
}

func start(t *testing.T) *daemon {
	t.Helper()
	dir, err := os.MkdirTemp("/tmp", "slr")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	d := &daemon{dir: dir, told: map[string][]any{}, news: make(chan struct{}, 1)}
	d.serveEvents(t)
	d.launch(t)
	return d
}

// binaries is where the runtime is installed.
func binaries(t *testing.T) string {
	t.Helper()
	dir := os.Getenv("SANDLOT_RUNTIME_DIR")
	_, err := os.Stat(filepath.Join(dir, "sandlot-runtime"))
	if dir != "" && err == nil && os.Geteuid() == 0 {
		return dir
	}
	if strings.Contains(os.Getenv("SANDLOT_REQUIRE"), "gvisor") {
		t.Fatalf("SANDLOT_REQUIRE has gvisor, but SANDLOT_RUNTIME_DIR=%q has no sandlot-runtime, or we are not root", dir)
	}
	t.Skipf("SKIPPED for want of root and sandlot-runtime in SANDLOT_RUNTIME_DIR=%q", dir)
	return ""
}

// launch starts a life of the daemon.
func (d *daemon) launch(t *testing.T) {
	t.Helper()
	bin := binaries(t)
	settings := filepath.Join(d.dir, "runsc.toml")
	text := fmt.Sprintf("root = '%s/r'\nbinary_name = '%s/runsc'\n[runsc_config]\nnetwork = 'none'\noverlay2 = 'none'\n", d.dir, bin)
	if err := os.WriteFile(settings, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	ready, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: filepath.Join(d.dir, "n"), Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	d.process = exec.Command(bin+"/sandlot-runtime", "-socket", d.dir+"/d", "-events", d.dir+"/e", "-settings", settings)
	d.process.Env = []string{"NOTIFY_SOCKET=" + d.dir + "/n", "PATH=" + os.Getenv("PATH")}
	d.process.Stderr = t.Output()
	d.process.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS}
	if err := d.process.Start(); err != nil {
		t.Fatal(err)
	}
	process := d.process
	t.Cleanup(func() {
		_ = process.Process.Signal(syscall.SIGTERM)
		_ = process.Wait()
	})
	if err := ready.SetReadDeadline(time.Now().Add(30 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if _, err := ready.Read(make([]byte, 64)); err != nil {
		t.Fatalf("it does not get ready: %v", err)
	}
	_ = ready.Close()
	_ = os.Remove(d.dir + "/n")
	conn, err := net.Dial("unix", d.dir+"/d")
	if err != nil {
		t.Fatal(err)
	}
	client := ttrpc.NewClient(conn)
	t.Cleanup(func() { _ = client.Close() })
	d.client = task.NewTaskClient(client)
}

// serveEvents takes events as containerd does.
func (d *daemon) serveEvents(t *testing.T) {
	t.Helper()
	server, err := ttrpc.NewServer()
	if err != nil {
		t.Fatal(err)
	}
	eventservice.RegisterEventsService(server, d)
	listener, err := net.Listen("unix", d.dir+"/e")
	if err != nil {
		t.Fatal(err)
	}
	go func() { _ = server.Serve(context.Background(), listener) }()
	t.Cleanup(func() { _ = server.Close() })
}

// Forward is called by the daemon.
func (d *daemon) Forward(_ context.Context, r *eventservice.ForwardRequest) (*emptypb.Empty, error) {
	body, err := typeurl.UnmarshalAny(r.Envelope.Event)
	if err != nil {
		return nil, err
	}
	id := body.(interface{ GetContainerID() string }).GetContainerID()
	d.mu.Lock()
	d.told[id] = append(d.told[id], body)
	d.mu.Unlock()
	select {
	case d.news <- struct{}{}:
	default:
	}
	return &emptypb.Empty{}, nil
}

// heard waits for so many events of a task and names them.
func (d *daemon) heard(t *testing.T, id string, count int) []string {
	t.Helper()
	for deadline := time.After(20 * time.Second); ; {
		d.mu.Lock()
		var names []string
		for _, e := range d.told[id] {
			names = append(names, strings.TrimPrefix(fmt.Sprintf("%T", e), "*events.Task"))
		}
		d.mu.Unlock()
		if len(names) >= count {
			return names
		}
		select {
		case <-d.news:
		case <-deadline:
			t.Errorf("of %s was heard only %v", id, names)
			return names
		}
	}
}

func ctx(t *testing.T) context.Context {
	return namespaces.WithNamespace(t.Context(), "test")
}

// box is one task of a test.
type box struct {
	d       *daemon
	id      string
	streams [3]*os.File // the test's ends
	paths   [3]string
	request *task.CreateTaskRequest
}

var guest = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "guest")
	if err != nil {
		return "", err
	}
	for _, place := range []string{"proc", "sys", "dev", "tmp"} {
		if err := os.Mkdir(filepath.Join(dir, place), 0o755); err != nil {
			return "", err
		}
	}
	build := exec.Command("go", "build", "-trimpath", "-o", filepath.Join(dir, "guest"), "./testdata/guest")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	out, err := build.CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("%w: %s", err, out)
	}
	return dir, nil
})

// box prepares a bundle whose root is a directory with one program.
func (d *daemon) box(t *testing.T, id string, args ...string) *box {
	t.Helper()
	root, err := guest()
	if err != nil {
		t.Fatal(err)
	}
	b := &box{d: d, id: id}
	bundle := filepath.Join(d.dir, id)
	for _, dir := range []string{bundle, filepath.Join(bundle, "rootfs")} {
		if err := os.Mkdir(dir, 0o711); err != nil {
			t.Fatal(err)
		}
	}
	memory, quota, period := int64(96<<20), int64(200_000), uint64(100_000)
	spec := specs.Spec{
		Version: "1.2.0", Root: &specs.Root{Path: root, Readonly: true},
		Process: &specs.Process{Args: append([]string{"/guest"}, args...), Cwd: "/"},
		Linux: &specs.Linux{CgroupsPath: b.group(), Resources: &specs.LinuxResources{
			Memory: &specs.LinuxMemory{Limit: &memory, Swap: &memory},
			Pids:   &specs.LinuxPids{Limit: 200},
			CPU:    &specs.LinuxCPU{Quota: &quota, Period: &period},
		}},
	}
	text, err := json.Marshal(spec)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(bundle, "config.json"), text, 0o600); err != nil {
		t.Fatal(err)
	}
	b.open(t, bundle)
	b.request = &task.CreateTaskRequest{ID: id, Bundle: bundle, Stdin: b.paths[0], Stdout: b.paths[1], Stderr: b.paths[2]}
	return b
}

func (b *box) group() string { return "/" + filepath.Base(b.d.dir) + "-" + b.id }

// open makes FIFOs and opens the client's ends.
func (b *box) open(t *testing.T, dir string) {
	t.Helper()
	for i, name := range []string{"in", "out", "err"} {
		b.paths[i] = filepath.Join(dir, name)
		if err := syscall.Mkfifo(b.paths[i], 0o600); err != nil {
			t.Fatal(err)
		}
		flag := os.O_RDONLY | syscall.O_NONBLOCK
		if i == 0 {
			flag = os.O_RDWR // until the sandbox has its end
		}
		f, err := os.OpenFile(b.paths[i], flag, 0)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = f.Close() })
		b.streams[i] = f
	}
}

// begin creates and starts it.
func (b *box) begin(t *testing.T) *box {
	t.Helper()
	created, err := b.d.client.Create(ctx(t), b.request)
	if err != nil {
		t.Fatal(err)
	}
	if created.Pid == 0 {
		t.Error("it has no process")
	}
	writer, err := os.OpenFile(b.paths[0], os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	_ = b.streams[0].Close()
	b.streams[0] = writer
	t.Cleanup(func() { _ = writer.Close() })
	if _, err := b.d.client.Start(ctx(t), &task.StartRequest{ID: b.id}); err != nil {
		t.Fatal(err)
	}
	return b
}

// finish waits for the end and removes it.
func (b *box) finish(t *testing.T) uint32 {
	t.Helper()
	end, err := b.d.client.Wait(ctx(t), &task.WaitRequest{ID: b.id})
	if err != nil {
		t.Fatal(err)
	}
	deleted, err := b.d.client.Delete(ctx(t), &task.DeleteRequest{ID: b.id})
	if err != nil {
		t.Fatal(err)
	}
	if deleted.ExitStatus != end.ExitStatus || deleted.ExitedAt.AsTime() != end.ExitedAt.AsTime() {
		t.Errorf("wait says %v, delete %v", end, deleted)
	}
	return end.ExitStatus
}

// mustBeGone fails the test if the daemon's tasks have left anything.
func (d *daemon) mustBeGone(t *testing.T) {
	t.Helper()
	for _, pattern := range []string{d.dir + "/r/test/*", "/sys/fs/cgroup/" + filepath.Base(d.dir) + "-*", "/sys/fs/cgroup/*/" + filepath.Base(d.dir) + "-*"} {
		left, _ := filepath.Glob(pattern)
		left = slices.DeleteFunc(left, func(p string) bool { return filepath.Base(p) == "null-netns" })
		if len(left) > 0 {
			t.Errorf("left are %q", left)
		}
	}
}

func TestATaskFromCreateToDelete(t *testing.T) {
	d := start(t)
	b := d.box(t, "a", "copy").begin(t)
	state, err := d.client.State(ctx(t), &task.StateRequest{ID: "a"})
	if err != nil || state.Status != tasktypes.Status_RUNNING || state.Stdout != b.paths[1] || state.ExitedAt != nil {
		t.Errorf("state %v, error %v", state, err)
	}
	connected, err := d.client.Connect(ctx(t), &task.ConnectRequest{ID: "a"})
	if err != nil || int(connected.ShimPid) != d.process.Process.Pid || connected.TaskPid != state.Pid {
		t.Errorf("connect %v, error %v", connected, err)
	}
	input := strings.Repeat("all of it\n", 50_000)
	go func() {
		_, _ = io.WriteString(b.streams[0], input)
		_ = b.streams[0].Close()
	}()
	out, err := io.ReadAll(b.streams[1])
	if err != nil || string(out) != input {
		t.Errorf("%d bytes came back, error %v", len(out), err)
	}
	errs, _ := io.ReadAll(b.streams[2])
	if want := fmt.Sprintf("%d bytes, 2 processors, 96 MiB", len(input)); string(errs) != want {
		t.Errorf("it says %q, want %q", errs, want)
	}
	if status := b.finish(t); status != 0 {
		t.Errorf("exit status %d", status)
	}
	if got := d.heard(t, "a", 4); !slices.Equal(got, []string{"Create", "Start", "Exit", "Delete"}) {
		t.Errorf("events %v", got)
	}
	if _, err := d.client.State(ctx(t), &task.StateRequest{ID: "a"}); !errdefs.IsNotFound(errgrpc.ToNative(err)) {
		t.Errorf("after the end: %v", err)
	}
	d.mustBeGone(t)
}

// TestNoExitStatusIsLost runs programs that are over before their start has
// returned, many at once.
func TestNoExitStatusIsLost(t *testing.T) {
	d := start(t)
	t.Run("at once", func(t *testing.T) {
		for code := range 12 {
			t.Run(fmt.Sprint(code), func(t *testing.T) {
				t.Parallel()
				if got := d.box(t, fmt.Sprint("c", code), "exit", fmt.Sprint(code)).begin(t).finish(t); got != uint32(code) {
					t.Errorf("exit status %d, want %d", got, code)
				}
			})
		}
	})
	d.mustBeGone(t)
}

func TestSignals(t *testing.T) {
	d := start(t)
	for name, c := range map[string]struct {
		signal syscall.Signal
		want   uint32
	}{"term": {syscall.SIGTERM, 3}, "kill": {syscall.SIGKILL, 137}} {
		t.Run(name, func(t *testing.T) {
			b := d.box(t, name, "stay").begin(t)
			if _, err := io.ReadFull(b.streams[1], make([]byte, 6)); err != nil {
				t.Fatal(err)
			}
			if _, err := d.client.Delete(ctx(t), &task.DeleteRequest{ID: name}); !errdefs.IsFailedPrecondition(errgrpc.ToNative(err)) {
				t.Errorf("delete while it runs: %v", err)
			}
			if _, err := d.client.Kill(ctx(t), &task.KillRequest{ID: name, Signal: uint32(c.signal)}); err != nil {
				t.Fatal(err)
			}
			if got := b.finish(t); got != c.want {
				t.Errorf("exit status %d, want %d", got, c.want)
			}
		})
	}
	t.Run("kill before the start", func(t *testing.T) {
		b := d.box(t, "early", "stay")
		if _, err := d.client.Create(ctx(t), b.request); err != nil {
			t.Fatal(err)
		}
		if _, err := d.client.Kill(ctx(t), &task.KillRequest{ID: "early", Signal: uint32(syscall.SIGKILL)}); err != nil {
			t.Fatal(err)
		}
		if got := b.finish(t); got != 137 {
			t.Errorf("exit status %d", got)
		}
	})
	d.mustBeGone(t)
}

func TestProcessesThatAreExecuted(t *testing.T) {
	d := start(t)
	b := d.box(t, "a", "stay").begin(t)
	if _, err := io.ReadFull(b.streams[1], make([]byte, 6)); err != nil {
		t.Fatal(err)
	}
	run := func(id string, args ...string) {
		t.Helper()
		text, err := json.Marshal(specs.Process{Args: append([]string{"/guest"}, args...), Cwd: "/"})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := d.client.Exec(ctx(t), &task.ExecProcessRequest{ID: "a", ExecID: id, Spec: &anypb.Any{TypeUrl: "process", Value: text}}); err != nil {
			t.Fatal(err)
		}
		if _, err := d.client.Start(ctx(t), &task.StartRequest{ID: "a", ExecID: id}); err != nil {
			t.Fatal(err)
		}
	}
	ended := func(id string) uint32 {
		t.Helper()
		end, err := d.client.Wait(ctx(t), &task.WaitRequest{ID: "a", ExecID: id})
		if err != nil {
			t.Fatal(err)
		}
		return end.ExitStatus
	}
	run("quick", "exit", "5")
	if got := ended("quick"); got != 5 {
		t.Errorf("exit status %d", got)
	}
	if _, err := d.client.Delete(ctx(t), &task.DeleteRequest{ID: "a", ExecID: "quick"}); err != nil {
		t.Error(err)
	}
	run("slow", "stay")
	inside, err := d.client.Pids(ctx(t), &task.PidsRequest{ID: "a"})
	if err != nil || len(inside.Processes) != 2 {
		t.Errorf("processes %v, error %v", inside, err)
	}
	if _, err := d.client.Kill(ctx(t), &task.KillRequest{ID: "a", ExecID: "slow", Signal: uint32(syscall.SIGKILL)}); err != nil {
		t.Error(err)
	}
	if got := ended("slow"); got != 137 {
		t.Errorf("exit status %d", got)
	}
	run("left", "stay") // ends with its sandbox
	if _, err := d.client.Kill(ctx(t), &task.KillRequest{ID: "a", Signal: uint32(syscall.SIGKILL)}); err != nil {
		t.Error(err)
	}
	if got := ended("left"); got != 137 {
		t.Errorf("exit status %d", got)
	}
	b.finish(t)
	d.mustBeGone(t)
}

func TestMemoryLimitIsEnforcedCountedAndTold(t *testing.T) {
	d := start(t)
	b := d.box(t, "a", "stay").begin(t)
	stats, err := d.client.Stats(ctx(t), &task.StatsRequest{ID: "a"})
	if err != nil {
		t.Fatal(err)
	}
	counted, err := typeurl.UnmarshalAny(stats.Stats)
	if text := fmt.Sprint(counted); err != nil || !strings.Contains(text, "100663296") || !strings.Contains(text, "200") {
		t.Errorf("limits of 100663296 bytes and 200 tasks are not in %s, error %v", text, err)
	}
	if _, err := d.client.Kill(ctx(t), &task.KillRequest{ID: "a", Signal: 9}); err != nil {
		t.Error(err)
	}
	b.finish(t)
	if got := d.heard(t, "a", 4); slices.Contains(got, "OOM") {
		t.Errorf("a mere kill is told as %v", got)
	}
	if got := d.box(t, "b", "eat").begin(t).finish(t); got != 137 {
		t.Errorf("exit status %d", got)
	}
	if got := d.heard(t, "b", 5); !slices.Equal(got, []string{"Create", "Start", "OOM", "Exit", "Delete"}) {
		t.Errorf("events %v", got)
	}
	d.mustBeGone(t)
}

// TestKilledDaemon kills the daemon under a running task and starts another.
func TestKilledDaemon(t *testing.T) {
	d := start(t)
	d.box(t, "a", "stay").begin(t)
	state, err := d.client.State(ctx(t), &task.StateRequest{ID: "a"})
	if err != nil {
		t.Fatal(err)
	}
	if err := d.process.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = d.process.Wait()
	for deadline := time.Now().Add(10 * time.Second); ; {
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", state.Pid))
		if err != nil || !strings.Contains(string(text), "runsc") {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("its sandbox lives on")
		}
	}
	if left, _ := filepath.Glob(d.dir + "/r/test/*"); len(left) == 0 {
		t.Error("it has left nothing: the test proves nothing")
	}
	d.launch(t)
	d.mustBeGone(t)
	if _, err := d.client.State(ctx(t), &task.StateRequest{ID: "a"}); !errdefs.IsNotFound(errgrpc.ToNative(err)) {
		t.Errorf("the lost task: %v", err)
	}
	if got := d.box(t, "b", "exit", "4").begin(t).finish(t); got != 4 {
		t.Errorf("exit status %d", got)
	}
	events, _ := d.told["b"][0].(*events.TaskCreate)
	if events.GetPid() == 0 {
		t.Errorf("the new one tells %v", d.told["b"])
	}
}

func TestWhatIsRefused(t *testing.T) {
	d := start(t)
	refused := func(what string, change func(b *box)) {
		t.Helper()
		id := "r" + fmt.Sprint(len(what))
		b := d.box(t, id, "exit", "0")
		change(b)
		_, err := d.client.Create(ctx(t), b.request)
		if err == nil {
			t.Errorf("%s is accepted", what)
			return
		}
		if !strings.Contains(err.Error(), what) {
			t.Errorf("%s: %v", what, err)
		}
		_, err = d.client.State(ctx(t), &task.StateRequest{ID: id})
		if !errdefs.IsNotFound(errgrpc.ToNative(err)) {
			t.Errorf("%s: state after it: %v", what, err)
		}
	}
	refused("terminal", func(b *box) { b.request.Terminal = true })
	refused("checkpoint", func(b *box) { b.request.Checkpoint = "/c" })
	refused("no such file", func(b *box) { b.request.Stdout = "/nowhere" })
	refused("no FIFO", func(b *box) { b.request.Stdout = "/etc/passwd" })
	refused("names no cgroup", func(b *box) { b.edit(t, func(s *specs.Spec) { s.Linux.CgroupsPath = "" }) })
	t.Run("a cgroup that exists", func(t *testing.T) {
		dir := "/sys/fs/cgroup/pids/" + filepath.Base(d.dir) + "-there"
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Skipf("SKIPPED for want of cgroup version 1: %v", err)
		}
		defer os.Remove(dir)
		_, err := d.client.Create(ctx(t), d.box(t, "there", "exit", "0").request)
		if err == nil || !strings.Contains(err.Error(), "file exists") {
			t.Errorf("error %v", err)
		}
	})
	d.mustBeGone(t)
}

func (b *box) edit(t *testing.T, change func(*specs.Spec)) {
	t.Helper()
	path := filepath.Join(b.request.Bundle, "config.json")
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var spec specs.Spec
	if err := json.Unmarshal(text, &spec); err != nil {
		t.Fatal(err)
	}
	change(&spec)
	if text, err = json.Marshal(spec); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, text, 0o600); err != nil {
		t.Fatal(err)
	}
}
