package gvisor_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/pkg/cio"
	"github.com/containerd/containerd/v2/pkg/oci"

	"github.com/sandlot-dev/sandlot/test/need"
	"github.com/sandlot-dev/sandlot/worker/gvisor"
)

// start runs a managed containerd in dir until the test ends.
func start(t *testing.T, dir string) *gvisor.Containerd {
	t.Helper()
	c, err := gvisor.StartContainerd(t.Context(), config(t, dir))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	return c
}

func config(t *testing.T, dir string) gvisor.ContainerdConfig {
	return gvisor.ContainerdConfig{
		Dir:        dir,
		Binaries:   need.GVisor(t),
		RunscFlags: map[string]string{"network": "none"},
		Logger:     slog.New(slog.NewTextHandler(t.Output(), nil)),
	}
}

// rootfs is a root with one program, /echo.
func rootfs(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	for _, d := range []string{"proc", "dev", "sys", "tmp"} {
		if err := os.Mkdir(filepath.Join(dir, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	build := exec.Command("go", "build", "-o", filepath.Join(dir, "echo"), "./testdata/echo")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build echo: %v\n%s", err, out)
	}
	return dir
}

// newTask makes a container and its task, not started yet.
func newTask(ctx context.Context, c *gvisor.Containerd, id, root string, code int, streams cio.Opt) (containerd.Task, error) {
	container, err := c.Client().NewContainer(ctx, id,
		containerd.WithRuntime(gvisor.RuntimeName, c.RuntimeOptions()),
		containerd.WithNewSpec(
			oci.WithRootFSPath(root),
			oci.WithProcessArgs("/echo", fmt.Sprint(code)),
			oci.WithCgroup(c.Cgroups().SpecPath(id)),
			oci.WithAnnotations(map[string]string{"io.kubernetes.cri.container-type": "sandbox"}),
		))
	if err != nil {
		return nil, err
	}
	return container.NewTask(ctx, cio.NewCreator(streams, cio.WithFIFODir(c.FIFODir())))
}

// run runs one container to its end.
func run(t *testing.T, c *gvisor.Containerd, id, root string, code int, input string) (stdout, stderr string) {
	t.Helper()
	ctx := t.Context()
	stdin, feed := io.Pipe()
	var out, errs bytes.Buffer
	task, err := newTask(ctx, c, id, root, code, cio.WithStreams(stdin, &out, &errs))
	if err != nil {
		t.Fatal(err)
	}
	exit, err := task.Wait(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if err := task.Start(ctx); err != nil {
		t.Fatal(err)
	}
	if got := dirOf(t, c, id); got == "" {
		t.Errorf("no cgroup of %s in the instance's tree", id)
	}
	if _, err := io.WriteString(feed, input); err != nil {
		t.Fatal(err)
	}
	feed.Close()
	// The shim holds the FIFO open as well, until it is told.
	if err := task.CloseIO(ctx, containerd.WithStdinCloser); err != nil {
		t.Fatal(err)
	}
	// The shim asks runsc for the exit code only after the start: that of a
	// program which is quicker is lost, and 128 stands for it.
	status := <-exit
	if status.Error() != nil || int(status.ExitCode()) != code && status.ExitCode() != 128 {
		t.Errorf("exit code %d, %v, want %d", status.ExitCode(), status.Error(), code)
	}
	if _, err := task.Delete(ctx); err != nil {
		t.Errorf("delete task: %v", err)
	}
	container, err := c.Client().LoadContainer(ctx, id)
	if err == nil {
		err = container.Delete(ctx)
	}
	if err != nil {
		t.Errorf("delete container: %v", err)
	}
	return out.String(), errs.String()
}

func dirOf(t *testing.T, c *gvisor.Containerd, id string) string {
	t.Helper()
	dir := c.Cgroups().Dir("memory", id)
	if dir == "" {
		return ""
	}
	if _, err := os.Stat(dir); err != nil {
		return ""
	}
	return dir
}

// traces lists what an instance could leave on the host: its processes, groups,
// directories and mounts, and anything at containerd's usual places.
func traces(t *testing.T, dir string) []string {
	t.Helper()
	name := gvisor.InstanceName(dir)
	var found []string
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(mounts)) {
		if strings.Contains(line, dir) || strings.Contains(line, name) {
			found = append(found, "mount "+line)
		}
	}
	commands, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, path := range commands {
		line, _ := os.ReadFile(path)
		if bytes.Contains(line, []byte(dir)) || bytes.Contains(line, []byte(name)) {
			found = append(found, "process "+path+" "+string(line))
		}
	}
	for _, pattern := range []string{"/run/" + name, "/tmp/" + name, dir + "/run", dir + "/worker/state/*",
		"/run/containerd", "/run/containerd/*", "/opt/containerd", "/run/runsc*.sock", "/tmp/runsc*.sock"} {
		paths, _ := filepath.Glob(pattern)
		found = append(found, paths...)
	}
	_ = filepath.WalkDir("/sys/fs/cgroup", func(path string, entry fs.DirEntry, err error) error {
		if err == nil && entry.IsDir() && strings.Contains(path, name) {
			found = append(found, path)
		}
		return nil
	})
	return found
}

func TestContainerRunsAndLeavesNoTrace(t *testing.T) {
	need.GVisor(t)
	dir, root := t.TempDir(), rootfs(t)
	before := traces(t, dir)
	c := start(t, dir)
	// The longest id allowed: its control socket must fit beside the others.
	id := strings.Repeat("i", 64)
	input := strings.Repeat("all of it\n", 50_000)
	out, errs := run(t, c, id, root, 7, input)
	if out != input || errs != fmt.Sprintf("%d bytes", len(input)) {
		t.Errorf("%d bytes came back, stderr %q", len(out), errs)
	}
	if err := c.Close(); err != nil {
		t.Error(err)
	}
	if after := traces(t, dir); !slices.Equal(before, after) {
		t.Errorf("left behind:\n%s\nbefore:\n%s", strings.Join(after, "\n"), strings.Join(before, "\n"))
	}
}

func TestDeadContainerdComesBackAndAttemptsAreTold(t *testing.T) {
	need.GVisor(t)
	dir, root := t.TempDir(), rootfs(t)
	c := start(t, dir)
	ctx := t.Context()
	task, err := newTask(ctx, c, "attempt", root, 0, cio.WithStreams(blocked(t), io.Discard, io.Discard))
	if err != nil {
		t.Fatal(err)
	}
	if err := task.Start(ctx); err != nil {
		t.Fatal(err)
	}
	gone := c.Gone()
	ended := watch(t, int(task.Pid()))
	if err := syscall.Kill(containerdPid(t, dir), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	wait(t, gone, "gone")
	if err := c.Ready(ctx); err != nil {
		t.Fatal(err)
	}
	ended(0)
	select {
	case <-c.Gone():
		t.Error("the new life is gone already")
	default:
	}
	if out, _ := run(t, c, "next", root, 3, "again"); out != "again" {
		t.Errorf("after the restart: %q", out)
	}
}

func TestCloseEndsARunningSandboxWithinFiveSeconds(t *testing.T) {
	need.GVisor(t)
	dir, root := t.TempDir(), rootfs(t)
	before := traces(t, dir)
	c := start(t, dir)
	for i := range 3 {
		task, err := newTask(t.Context(), c, fmt.Sprintf("running-%d", i), root, 0, cio.WithStreams(blocked(t), io.Discard, io.Discard))
		if err != nil {
			t.Fatal(err)
		}
		if err := task.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	begin := time.Now()
	if err := c.Close(); err != nil {
		t.Error(err)
	}
	if took := time.Since(begin); took > 5*time.Second {
		t.Errorf("close took %v", took)
	}
	if after := traces(t, dir); !slices.Equal(before, after) {
		t.Errorf("left behind:\n%s", strings.Join(after, "\n"))
	}
	if err := c.Close(); err != nil {
		t.Errorf("second close: %v", err)
	}
}

func TestTwoInstancesDoNotMeet(t *testing.T) {
	need.GVisor(t)
	root := rootfs(t)
	a, b := start(t, t.TempDir()), start(t, t.TempDir())
	if a.Address() == b.Address() {
		t.Fatal("one address for both")
	}
	// The same id in both, and the first one's end leaves the second alone.
	for _, c := range []*gvisor.Containerd{a, b} {
		if out, _ := run(t, c, "same", root, 0, "x"); out != "x" {
			t.Errorf("got %q", out)
		}
	}
	if err := a.Close(); err != nil {
		t.Error(err)
	}
	if out, _ := run(t, b, "after", root, 1, "y"); out != "y" {
		t.Errorf("got %q", out)
	}
}

func TestOneDataDirectoryTakesOneWorker(t *testing.T) {
	need.GVisor(t)
	dir := t.TempDir()
	c := start(t, dir)
	if _, err := gvisor.StartContainerd(t.Context(), config(t, dir)); !errors.Is(err, gvisor.ErrInUse) {
		t.Fatalf("second worker: %v, want ErrInUse", err)
	}
	if ok, err := c.Client().IsServing(t.Context()); !ok || err != nil {
		t.Fatalf("the first was disturbed: %v", err)
	}
}

func TestDataDirectoryMustBeUsable(t *testing.T) {
	need.GVisor(t)
	for name, dir := range map[string]string{
		"a relative path":                       "data",
		"a colon, which ends a path in overlay": filepath.Join(t.TempDir(), "a:b"),
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := gvisor.StartContainerd(t.Context(), config(t, dir)); err == nil {
				t.Fatal("accepted")
			}
		})
	}
}

// The worker to be killed is this test again, in a process of its own.
func TestKilledWorkerLeavesNothingRunningAndTheNextSweepsUp(t *testing.T) {
	need.GVisor(t)
	if dir := os.Getenv("KILLED_WORKER_DIR"); dir != "" {
		beKilled(t, dir, os.Getenv("KILLED_WORKER_ROOT"))
		return
	}
	dir, root := t.TempDir(), rootfs(t)
	before := traces(t, dir)
	child := exec.Command(os.Args[0], "-test.run=^"+t.Name()+"$", "-test.v")
	child.Env = append(os.Environ(), "KILLED_WORKER_DIR="+dir, "KILLED_WORKER_ROOT="+root)
	child.Stderr = t.Output()
	out, err := child.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	var sandbox int
	for sandbox == 0 {
		var line string
		if _, err := fmt.Fscanln(out, &line, &sandbox); errors.Is(err, io.EOF) {
			t.Fatal("the worker ended before it ran anything")
		}
	}
	ended := watch(t, sandbox)
	if err := child.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = child.Wait()
	ended(5 * time.Second)

	c := start(t, dir)
	if out, _ := run(t, c, "next", root, 0, "z"); out != "z" {
		t.Errorf("after the sweep: %q", out)
	}
	if err := c.Close(); err != nil {
		t.Error(err)
	}
	if after := traces(t, dir); !slices.Equal(before, after) {
		t.Errorf("left behind:\n%s", strings.Join(after, "\n"))
	}
}

func beKilled(t *testing.T, dir, root string) {
	c, err := gvisor.StartContainerd(t.Context(), config(t, dir))
	if err != nil {
		t.Fatal(err)
	}
	task, err := newTask(t.Context(), c, "orphan", root, 0, cio.WithStreams(blocked(t), io.Discard, io.Discard))
	if err != nil {
		t.Fatal(err)
	}
	if err := task.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	fmt.Println("sandbox", task.Pid())
	select {}
}

// blocked is an input that never comes, until the test ends.
func blocked(t *testing.T) io.Reader {
	r, w := io.Pipe()
	t.Cleanup(func() { w.Close() })
	return r
}

func wait(t *testing.T, signal <-chan struct{}, name string) {
	t.Helper()
	select {
	case <-signal:
	case <-time.After(20 * time.Second):
		t.Fatalf("no %s after 20 s", name)
	}
}
