package main

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"github.com/containerd/containerd/api/types"
	"github.com/containerd/containerd/v2/defaults"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/containerd/v2/pkg/shim"
	gvisorshim "gvisor.dev/gvisor/pkg/shim/v1"
)

// manager starts and clears away one shim process per task. containerd runs it
// as "start" and "delete"; a shim never serves two tasks.
type manager struct {
	name  string
	stdin io.Reader
}

func (m *manager) Name() string { return m.name }

// Start leaves a shim process behind that serves the socket it answers with.
func (m *manager) Start(ctx context.Context, id string, opts shim.StartOpts) (_ shim.BootstrapParams, err error) {
	address, err := m.address(ctx, id, opts.Address)
	if err != nil {
		return shim.BootstrapParams{}, err
	}
	listener, err := listen(address)
	if err != nil {
		return shim.BootstrapParams{}, err
	}
	// The file outlives the listener: the shim holds a copy and removes it.
	listener.SetUnlinkOnClose(false)
	defer listener.Close()
	defer func() {
		if err != nil {
			_ = shim.RemoveSocket(address)
		}
	}()
	if err := writeFile("address", address); err != nil {
		return shim.BootstrapParams{}, err
	}
	socket, err := listener.File()
	if err != nil {
		return shim.BootstrapParams{}, fmt.Errorf("shim socket: %w", err)
	}
	defer socket.Close()
	if err := startServer(ctx, id, opts, socket); err != nil {
		return shim.BootstrapParams{}, err
	}
	return shim.BootstrapParams{Version: 2, Address: address, Protocol: "ttrpc"}, nil
}

// address names the task's socket: short, and unlike that of any other task of
// any containerd that uses the same directory.
func (m *manager) address(ctx context.Context, id, containerd string) (string, error) {
	ns, err := namespaces.NamespaceRequired(ctx)
	if err != nil {
		return "", err
	}
	dir, err := socketDir(m.stdin, ns, id)
	if err != nil {
		return "", fmt.Errorf("bootstrap message: %w", err)
	}
	if dir == "" {
		dir = filepath.Join(defaults.DefaultStateDir, "s")
	}
	sum := sha256.Sum256([]byte(filepath.Join(containerd, ns, id)))
	return fmt.Sprintf("unix://%s/%x", dir, sum[:16]), nil
}

// startServer starts this binary again as the task's server, with the listening
// socket as its fd 3. Unlike the stock shim's, its oom_score_adj stays as it is:
// a lower one needs CAP_SYS_RESOURCE, and every process of the sandbox would
// inherit it, which should be the first to go.
func startServer(ctx context.Context, id string, opts shim.StartOpts, socket *os.File) error {
	cmd, err := serverCommand(ctx, id, opts)
	if err != nil {
		return err
	}
	cmd.ExtraFiles = []*os.File{socket}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start shim: %w", err)
	}
	go func() { _ = cmd.Wait() }()
	if err := shim.WritePidFile("shim.pid", cmd.Process.Pid); err != nil {
		_ = cmd.Process.Kill()
		return fmt.Errorf("write shim.pid: %w", err)
	}
	return nil
}

func serverCommand(ctx context.Context, id string, opts shim.StartOpts) (*exec.Cmd, error) {
	ns, err := namespaces.NamespaceRequired(ctx)
	if err != nil {
		return nil, err
	}
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	args := []string{"-namespace", ns, "-address", opts.Address, "-id", id}
	if opts.Debug {
		args = append(args, "-debug")
	}
	cmd := exec.Command(self, args...)
	cmd.Env = append(os.Environ(), "GOMAXPROCS=2")
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	return cmd, nil
}

// Stop clears away what a dead shim left. A shim that died before it created
// anything left nothing.
func (m *manager) Stop(ctx context.Context, id string) (shim.StopStatus, error) {
	if _, err := os.Stat("state.json"); errors.Is(err, fs.ErrNotExist) {
		return shim.StopStatus{ExitedAt: time.Now(), ExitStatus: 128 + int(syscall.SIGKILL)}, nil
	}
	return gvisorshim.NewShimManager(m.name).Stop(ctx, id)
}

func (m *manager) Info(ctx context.Context, options io.Reader) (*types.RuntimeInfo, error) {
	return gvisorshim.NewShimManager(m.name).Info(ctx, options)
}
