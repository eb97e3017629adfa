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
	"github.com/containerd/containerd/v2/pkg/sys"
	gvisorshim "gvisor.dev/gvisor/pkg/shim/v1"
)

// shimOOMScore protects the shim, which is small, at the cost of the sandbox,
// which is not.
const shimOOMScore = -999

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
// socket as its fd 3.
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
	err = shim.WritePidFile("shim.pid", cmd.Process.Pid)
	if err == nil {
		err = protect(cmd.Process.Pid)
	}
	if err != nil {
		_ = cmd.Process.Kill()
	}
	return err
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

// protect lowers the shim's OOM score where the host allows it. Without
// CAP_SYS_RESOURCE it does not, and the shim is killed like anyone else.
func protect(pid int) error {
	err := sys.SetOOMScore(pid, shimOOMScore)
	if errors.Is(err, fs.ErrPermission) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("shim oom score: %w", err)
	}
	return nil
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
