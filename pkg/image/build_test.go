package image_test

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/sandlot-dev/sandlot/pkg/image"
	"github.com/sandlot-dev/sandlot/test/need"
	"github.com/sandlot-dev/sandlot/worker/gvisor"
)

// build builds an image in a cache of its own.
func build(t *testing.T, name string) image.Archive {
	t.Helper()
	b := image.Builder{CacheDir: t.TempDir(), Runsc: need.GVisor(t).Runsc, Install: true}
	archive, err := b.Build(t.Context(), name)
	if err != nil {
		t.Fatal(err)
	}
	return archive
}

func TestTwoBuildsHaveOneDigest(t *testing.T) {
	for _, name := range []string{"busybox", "python"} {
		t.Run(name, func(t *testing.T) {
			one, two := build(t, name), build(t, name)
			if one.Digest != two.Digest {
				t.Errorf("built %s and %s", one.Digest, two.Digest)
			}
			if !strings.Contains(one.Config.Labels[image.LabelPackages], "busybox") {
				t.Errorf("labels are %v, want a list of packages", one.Config.Labels)
			}
			opened, err := image.Open(one.Path)
			if err != nil || opened.Digest != one.Digest || opened.Source != "" {
				t.Errorf("opened as one from elsewhere: %s from %q, %v", opened.Digest, opened.Source, err)
			}
		})
	}
}

func TestASecondBuildIsFoundUnlessItsFileWasDamaged(t *testing.T) {
	var stages []image.Stage
	b := image.Builder{CacheDir: t.TempDir(), Runsc: need.GVisor(t).Runsc, Install: true, Progress: func(e image.Event) {
		stages = append(stages, e.Stage)
	}}
	built := func() bool {
		t.Helper()
		stages = nil
		if _, err := b.Build(t.Context(), "busybox"); err != nil {
			t.Fatal(err)
		}
		for _, s := range stages {
			if s == image.StagePackages {
				return true
			}
		}
		return false
	}
	if !built() {
		t.Error("the first was not built")
	}
	if built() {
		t.Error("the second was built again")
	}
	archives, err := filepath.Glob(filepath.Join(b.CacheDir, "*.tar"))
	if err != nil || len(archives) != 1 {
		t.Fatalf("archives: %q, %v", archives, err)
	}
	data, err := os.ReadFile(archives[0])
	if err == nil {
		err = os.WriteFile(archives[0], flip(data), 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	if !built() {
		t.Error("a damaged file was taken for the image")
	}
}

func TestConcurrentBuildsAreOne(t *testing.T) {
	runsc, dir := need.GVisor(t).Runsc, t.TempDir()
	var mu sync.Mutex
	made := 0
	var builders sync.WaitGroup
	for range 3 {
		builders.Go(func() {
			b := image.Builder{CacheDir: dir, Runsc: runsc, Install: true, Progress: func(e image.Event) {
				if e.Stage == image.StageFixup {
					mu.Lock()
					defer mu.Unlock()
					made++
				}
			}}
			if _, err := b.Build(t.Context(), "busybox"); err != nil {
				t.Error(err)
			}
		})
	}
	builders.Wait()
	if made != 1 {
		t.Errorf("%d builds were made", made)
	}
}

func TestACanceledBuildLeavesNothing(t *testing.T) {
	for _, stage := range []image.Stage{image.StagePackages, image.StageFixup, image.StagePack} {
		t.Run(string(stage), func(t *testing.T) {
			ctx, cancel := context.WithCancel(t.Context())
			b := image.Builder{CacheDir: t.TempDir(), Runsc: need.GVisor(t).Runsc, Install: true, Progress: func(e image.Event) {
				if e.Stage == stage {
					cancel()
				}
			}}
			if _, err := b.Build(ctx, "busybox"); !errors.Is(err, context.Canceled) {
				t.Errorf("error is %v", err)
			}
			for _, name := range names(t, b.CacheDir) {
				if !strings.HasSuffix(name, ".lock") {
					t.Errorf("left behind: %s", name)
				}
			}
			wantNoProcesses(t, b.CacheDir)
		})
	}
}

// wantNoProcesses fails if a process names dir on its command line.
func wantNoProcesses(t *testing.T, dir string) {
	t.Helper()
	lines, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range lines {
		text, err := os.ReadFile(line)
		if err == nil && bytes.Contains(text, []byte(dir)) {
			t.Errorf("still running: %q", text)
		}
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil || bytes.Contains(mounts, []byte(dir)) {
		t.Errorf("still mounted below %s (%v)", dir, err)
	}
}

// builderEnv makes a process of this test binary a builder; see TestMain.
const builderEnv = "SANDLOT_TEST_BUILDER"

// TestMain lets the test binary build busybox in the directory that the
// variable names, and say when it is in the middle of it.
func TestMain(m *testing.M) {
	dir, runsc, ok := strings.Cut(os.Getenv(builderEnv), ":")
	if !ok {
		os.Exit(m.Run())
	}
	b := image.Builder{CacheDir: dir, Runsc: runsc, Progress: func(e image.Event) { fmt.Println(e.Stage) }}
	if _, err := b.Build(context.Background(), "busybox"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func TestAKilledBuildIsSweptByTheNext(t *testing.T) {
	runsc, dir := need.GVisor(t).Runsc, t.TempDir()
	cmd := exec.CommandContext(t.Context(), os.Args[0])
	cmd.Env = append(os.Environ(), builderEnv+"="+dir+":"+runsc)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var line string
	for line != string(image.StageFixup) {
		if _, err := fmt.Fscanln(out, &line); err != nil {
			t.Fatal(err)
		}
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait() // it was killed
	left, err := filepath.Glob(filepath.Join(dir, "making-*"))
	if err != nil || len(left) == 0 {
		t.Fatalf("the test came too late: %q, %v", left, err)
	}
	b := image.Builder{CacheDir: dir, Runsc: runsc}
	if _, err := b.Build(t.Context(), "busybox"); err != nil {
		t.Fatal(err)
	}
	wantNoProcesses(t, left[0])
	if left, _ := filepath.Glob(filepath.Join(dir, "making-*")); len(left) > 0 {
		t.Errorf("left behind: %q", left)
	}
}

func TestBuildingSaysWhatIsMissing(t *testing.T) {
	need.Root(t)
	b := image.Builder{CacheDir: t.TempDir()}
	if _, err := b.Build(t.Context(), "busybox"); err == nil || !strings.Contains(err.Error(), "make build") {
		t.Errorf("without runsc: %v", err)
	}
	b.Runsc = os.Args[0]
	empty := t.TempDir()
	t.Setenv("PATH", empty)
	if _, err := b.Build(t.Context(), "busybox"); err == nil || !strings.Contains(err.Error(), "mmdebstrap") {
		t.Errorf("without mmdebstrap: %v", err)
	}
	if err := os.Symlink("/usr/bin/apt-get", filepath.Join(empty, "apt-get")); err != nil {
		t.Fatal(err)
	}
	if _, err := b.Build(t.Context(), "busybox"); err == nil || !strings.Contains(err.Error(), "apt-get install") {
		t.Errorf("without mmdebstrap on Debian: %v", err)
	}
}

// lastLayer is the tar file in the last layer of an archive.
func lastLayer(t *testing.T, a image.Archive) io.Reader {
	t.Helper()
	files := map[string][]byte{}
	reader := tar.NewReader(bytes.NewReader(stream(t, a)))
	for h, err := reader.Next(); err == nil; h, err = reader.Next() {
		data, err := io.ReadAll(reader)
		if err != nil {
			t.Fatal(err)
		}
		files[h.Name] = data
	}
	var manifest struct {
		Layers []struct{ Digest digest.Digest }
	}
	name := digest.Digest(a.Digest)
	if err := json.Unmarshal(files["blobs/sha256/"+name.Encoded()], &manifest); err != nil {
		t.Fatal(err)
	}
	last := manifest.Layers[len(manifest.Layers)-1].Digest
	layer, err := zstd.NewReader(bytes.NewReader(files["blobs/sha256/"+last.Encoded()]))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(layer.Close)
	return layer
}

// unpack writes the only layer of a built image to a directory.
func unpack(t *testing.T, a image.Archive) string {
	t.Helper()
	dir := t.TempDir()
	cmd := exec.CommandContext(t.Context(), "tar", "-C", dir, "--numeric-owner", "-xpf", "-")
	cmd.Stdin = lastLayer(t, a)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("unpack: %v: %s", err, out)
	}
	return dir
}

// sandbox runs a command in an image as jobs are run: read-only, uid 1000, no
// capabilities, no network.
func sandbox(t *testing.T, runsc, root string, config image.Config, command ...string) string {
	t.Helper()
	bundle := t.TempDir()
	writable := []string{"mode=1777", "size=64m"}
	spec := specs.Spec{
		Version: specs.Version,
		Root:    &specs.Root{Path: root, Readonly: true},
		Process: &specs.Process{
			Args: command, Env: config.Env, Cwd: "/work",
			User: specs.User{UID: 1000, GID: 1000}, Capabilities: &specs.LinuxCapabilities{}, NoNewPrivileges: true,
		},
		Mounts: []specs.Mount{
			{Destination: "/proc", Type: "proc", Source: "proc"},
			{Destination: "/work", Type: "tmpfs", Source: "tmpfs", Options: writable},
			{Destination: "/home/sandlot", Type: "tmpfs", Source: "tmpfs", Options: writable},
			{Destination: "/run/sandlot/agent", Type: "tmpfs", Source: "tmpfs", Options: writable},
			{Destination: "/run/sandlot/disk", Type: "tmpfs", Source: "tmpfs", Options: writable},
			{Destination: "/dev/shm", Type: "tmpfs", Source: "tmpfs", Options: writable},
		},
		Linux: &specs.Linux{Namespaces: []specs.LinuxNamespace{{Type: specs.PIDNamespace}, {Type: specs.MountNamespace}, {Type: specs.NetworkNamespace}}},
	}
	text, err := json.Marshal(spec)
	if err == nil {
		err = os.WriteFile(filepath.Join(bundle, "config.json"), text, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), "unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc",
		runsc, "--root="+t.TempDir(), "--rootless=false", "--network=none", "--ignore-cgroups", "--overlay2=none",
		"run", "--bundle="+bundle, "hello")
	var stdout, stderr strings.Builder
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		t.Fatalf("%q: %v\n%s%s", command, err, stdout.String(), stderr.String())
	}
	return stdout.String()
}

func TestEveryImageRunsReadOnlyAsNobodySpecial(t *testing.T) {
	runsc := need.GVisor(t).Runsc
	shell := func(script string) []string { return []string{"/bin/sh", "-ec", script} }
	python := `import pwd, os, json, ssl, sqlite3, zlib, lzma, ctypes, hashlib
print(pwd.getpwuid(os.getuid()).pw_name, json.__cached__.endswith(".pyc") and os.path.exists(json.__cached__))`
	cases := map[string][]struct {
		command []string
		want    string
	}{
		"busybox": {
			{shell("id -un; id -u; echo hello | tr a-z A-Z; ls /usr/bin/env"), "sandlot\n1000\nHELLO\n/usr/bin/env\n"},
			{shell("touch /usr/x 2>/dev/null || echo read-only; touch /work/x /home/sandlot/x /dev/shm/x /tmp/x && echo written"), "read-only\nwritten\n"},
			{shell("cat /etc/hostname /etc/resolv.conf 2>/dev/null || echo nothing of the builder"), "nothing of the builder\n"},
		},
		"python": {
			{[]string{"python3", "-c", python}, "sandlot True\n"},
			{[]string{"python", "-c", "import locale; print(locale.getpreferredencoding(), chr(233))"}, "UTF-8 é\n"},
		},
		"node": {{[]string{"node", "-e", "console.log([1,2,3].map(x => x * 2), require('os').userInfo().username)"}, "[ 2, 4, 6 ] sandlot\n"}},
		"gcc": {
			{shell(`printf '#include <math.h>\n#include <stdio.h>\nint main(int c,char**v){printf("%%g\\n",sqrt(c+15));}' >m.c; gcc -O2 -o m m.c -lm; ./m`), "4\n"},
			{shell(`printf '#include <iostream>\nint main(){std::cout << "hello" << std::endl;}' >m.cpp; c++ -O2 -o m m.cpp; ./m; cc --version | head -1 | grep -c Debian`), "hello\n1\n"},
		},
	}
	for name, runs := range cases {
		t.Run(name, func(t *testing.T) {
			archive := need.Images(t, name)[0]
			root := unpack(t, archive)
			for _, run := range runs {
				if got := sandbox(t, runsc, root, archive.Config, run.command...); got != run.want {
					t.Errorf("%q printed %q, want %q", run.command, got, run.want)
				}
			}
		})
	}
}

func TestArchivesImportIntoContainerd(t *testing.T) {
	dir, err := os.MkdirTemp("", "sl") // sockets below it need a short path
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	binaries := need.Containerd(t)
	daemon, err := gvisor.StartContainerd(t.Context(), gvisor.ContainerdConfig{Dir: dir, Binaries: binaries})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := daemon.Close(); err != nil {
			t.Error(err)
		}
	})
	ctr := func(stdin io.Reader, args ...string) string {
		t.Helper()
		cmd := exec.CommandContext(t.Context(), binaries.Ctr, append([]string{"--address", daemon.Address(), "images"}, args...)...)
		cmd.Stdin = stdin
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("ctr %q: %v\n%s", args, err, out)
		}
		return string(out)
	}
	host, _ := startRegistry(t)
	push(t, host+"/app:1", randomImage(t, "amd64"))
	pulled, err := image.Builder{}.Pull(t.Context(), host+"/app:1", filepath.Join(t.TempDir(), "app.tar"))
	if err != nil {
		t.Fatal(err)
	}
	archives := map[string]image.Archive{
		"built":  need.Images(t, "busybox")[0],
		"pulled": pulled,
		"opened": open(t, newDraft(t, layer(t, "hello"), layer(t, complete...)).link().write(nil)),
	}
	for name, archive := range archives {
		t.Run(name, func(t *testing.T) {
			// Local means by the client's Import, as the worker does it; ctr
			// then unpacks the layers into snapshots.
			ctr(bytes.NewReader(stream(t, archive)), "import", "--local", "--digests", "--base-name", "test", "-")
			if list := ctr(nil, "ls", "--quiet"); !strings.Contains(list, "test@"+archive.Digest) {
				t.Errorf("images are %q, want %s", list, archive.Digest)
			}
		})
	}
}
