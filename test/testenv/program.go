package testenv

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/sandlot-dev/sandlot/pkg/api"
	"github.com/sandlot-dev/sandlot/pkg/client"
)

// Program is the real command with all that it needs beside it.
type Program struct {
	// Dir holds the binaries, Path is that of sandlot.
	Dir, Path string
}

// Build builds the command and the agent into dir as `make build` does, and links the runtime's
// binaries, which `make runtime` made, into it.
func Build(dir string) (Program, error) {
	root, err := moduleRoot()
	if err != nil {
		return Program{}, err
	}
	for _, name := range []string{"sandlot", "sandlot-agent"} {
		build := exec.Command("go", "build", "-buildvcs=false", "-trimpath", "-o", filepath.Join(dir, name), "./cmd/"+name)
		build.Dir = root
		build.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := build.CombinedOutput(); err != nil {
			return Program{}, fmt.Errorf("build %s: %w\n%s", name, err, out)
		}
	}
	for _, name := range []string{"containerd", "ctr", "nats-server", "runsc", "containerd-shim-runsc-v1", "containerd-shim-sandlot-v1", "sandlot-runtime", "gvisor-bin"} {
		err := os.Symlink(filepath.Join(root, "bin", name), filepath.Join(dir, name))
		if err != nil && !errors.Is(err, os.ErrExist) {
			return Program{}, fmt.Errorf("link %s: %w", name, err)
		}
	}
	return Program{Dir: dir, Path: filepath.Join(dir, "sandlot")}, nil
}

// moduleRoot is the directory above this one that holds go.mod.
func moduleRoot() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for ; ; dir = filepath.Dir(dir) {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir, nil
		}
		if dir == filepath.Dir(dir) {
			return "", errors.New("no go.mod above the working directory")
		}
	}
}

// Run runs the command to its end and returns what it wrote and its exit code.
func (p Program) Run(t testing.TB, args ...string) (stdout, stderr string, code int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, p.Path, args...)
	cmd.Env = append(os.Environ(), "SANDLOT_RUNTIME_DIR="+p.Dir)
	var out, errs strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &errs
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	done := make(chan error, 1)
	go onThread(func() { done <- cmd.Run() })
	err := <-done
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatalf("run sandlot %s: %v", strings.Join(args, " "), err)
	}
	return out.String(), errs.String(), cmd.ProcessState.ExitCode()
}

// ShortDir is a data directory of the test's own with a path so short that
// sockets fit below it.
func ShortDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("/tmp", "sl-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Errorf("remove data directory: %v", err)
		}
	})
	return dir
}

// Instance is a server that runs as a process of its own.
type Instance struct {
	*Process
	DataDir string
	URL     string
	Token   string
	Client  *client.Client
}

// Role starts one role of the program on a data directory; it does not wait.
func (p Program) Role(t testing.TB, role, dataDir string, args ...string) *Process {
	t.Helper()
	return Start(t, Command{
		Name: role, Path: p.Path,
		Args: append([]string{role, "--data-dir", dataDir}, args...),
		Env:  []string{"SANDLOT_RUNTIME_DIR=" + p.Dir},
	})
}

// Up starts `sandlot up` on a data directory and waits until it says that it
// is ready: it serves, has its images, and its worker takes jobs.
func (p Program) Up(t testing.TB, dataDir string, args ...string) *Instance {
	t.Helper()
	process := p.Role(t, "up", dataDir, append([]string{"--listen", "127.0.0.1:0"}, args...)...)
	Eventually(t, 2*time.Minute, "sandlot up is ready", func() bool {
		return process.Alive(t) && strings.Contains(process.Output(), "Sandlot is ready")
	})
	return Serving(t, process, dataDir)
}

// Serving waits until the process answers at the address that it writes into
// its data directory.
func Serving(t testing.TB, process *Process, dataDir string) *Instance {
	t.Helper()
	i := &Instance{Process: process, DataDir: dataDir}
	Eventually(t, 2*time.Minute, process.Name+" serves", func() bool {
		process.Alive(t)
		address, err := os.ReadFile(filepath.Join(dataDir, "address"))
		if err != nil {
			return false
		}
		secret, err := os.ReadFile(filepath.Join(dataDir, "token"))
		if err != nil {
			return false
		}
		i.URL, i.Token = strings.TrimSpace(string(address)), strings.TrimSpace(string(secret))
		quick := client.New(client.Config{Server: i.URL, Token: i.Token, Patience: -1})
		_, err = quick.Workers(t.Context())
		return err == nil
	})
	i.Client = client.New(client.Config{Server: i.URL, Token: i.Token})
	return i
}

// WaitForWorkers waits until so many workers take jobs.
func (i *Instance) WaitForWorkers(t testing.TB, n int) {
	t.Helper()
	Eventually(t, 2*time.Minute, fmt.Sprintf("%d workers take jobs", n), func() bool {
		i.Alive(t)
		workers, err := i.Client.Workers(t.Context())
		ready := 0
		for _, w := range workers {
			if w.State == api.WorkerReady {
				ready++
			}
		}
		return err == nil && ready >= n
	})
}
