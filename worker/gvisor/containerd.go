package gvisor

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"time"

	"github.com/containerd/containerd/api/types/runtimeoptions/v1"
	containerd "github.com/containerd/containerd/v2/client"
)

// Namespace is where all of an instance's containers and images are.
const Namespace = "sandlot"

// RuntimeName is gVisor's shim, as containerd finds it.
const RuntimeName = "io.containerd.runsc.v1"

// ResidentName is the front of the resident runtime, as containerd finds it.
const ResidentName = "io.containerd.sandlot.v1"

const (
	startTimeout = 30 * time.Second
	closeTimeout = 4500 * time.Millisecond
)

// ContainerdConfig says which containerd to use and how.
type ContainerdConfig struct {
	// Dir is the data directory of the instance, absolute. Required.
	Dir string
	// Address is the socket of a containerd that the host runs. Empty: one of
	// our own is started, with all it has under Dir.
	Address string
	// Binaries of the runtime. Of a host's containerd only Runsc is used.
	Binaries Binaries
	// RunscFlags are runsc's flags without dashes, such as network: none.
	RunscFlags map[string]string
	// Resident has all sandboxes made by one process beside the managed
	// containerd, instead of by a shim each. See Choice.On.
	Resident bool
	// Logger is told of deaths and restarts. Required.
	Logger *slog.Logger
}

// Containerd is the containerd that a worker uses: a process of its own, which
// it starts, watches, restarts and removes without a trace, or the host's.
//
// When the managed one dies, everything that ran through it is killed before
// it is started again: attempts see Gone closed and are the platform's fault.
type Containerd struct {
	config  ContainerdConfig
	layout  layout
	cgroups *Cgroups
	client  *containerd.Client
	lock    *os.File
	log     *logFile

	stop    context.CancelCauseFunc
	done    chan struct{}
	closing sync.Once
	closed  error

	mu   sync.Mutex
	gone chan struct{} // of the present life
	up   chan struct{} // closed while a life serves
	err  error         // why supervision ended
}

var errClosed = errors.New("containerd is closed")

// StartContainerd clears away what an earlier life of the instance left, then
// starts containerd, or connects to the host's, and returns when it serves.
func StartContainerd(ctx context.Context, config ContainerdConfig) (_ *Containerd, err error) {
	c := &Containerd{config: config, done: make(chan struct{}), gone: make(chan struct{}), up: make(chan struct{})}
	defer func() {
		if err != nil {
			err = errors.Join(err, c.release())
		}
	}()
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	if err := c.prepare(ctx); err != nil {
		return nil, err
	}
	if config.Address != "" {
		return c, c.connect(ctx, config.Address)
	}
	life, err := c.start(ctx)
	if err != nil {
		return nil, err
	}
	if err := c.connect(ctx, c.layout.socket()); err != nil {
		life.stop()
		return nil, err
	}
	// Supervision outlives the call that started it and ends with Close.
	running, stop := context.WithCancelCause(context.WithoutCancel(ctx))
	c.stop = stop
	go func() {
		defer close(c.done)
		err := c.supervise(running, life)
		c.mu.Lock()
		defer c.mu.Unlock()
		c.err = err
	}()
	return c, nil
}

// prepare takes the data directory, sweeps it and writes the configuration.
func (c *Containerd) prepare(ctx context.Context) (err error) {
	if c.layout, err = newLayout(c.config.Dir); err != nil {
		return err
	}
	if c.lock, err = c.layout.takeLock(); err != nil {
		return err
	}
	managed := c.config.Address == ""
	if c.cgroups, err = openCgroups(InstanceName(c.layout.dir), managed); err != nil {
		return err
	}
	if err := c.renew(ctx); err != nil {
		return err
	}
	if c.log, err = openLog(c.layout.log()); err != nil {
		return err
	}
	if err := c.layout.writeRunsc(c.config.Binaries.Runsc, c.config.RunscFlags); err != nil {
		return err
	}
	name, err := owner()
	if err != nil {
		return err
	}
	return c.layout.writeContainerd(name)
}

// renew leaves nothing of earlier lives but images, and makes what a new one
// needs.
func (c *Containerd) renew(ctx context.Context) error {
	if err := sweep(ctx, c.layout, c.cgroups); err != nil {
		return fmt.Errorf("sweep data directory: %w", err)
	}
	if err := c.layout.makeRunDir(); err != nil {
		return err
	}
	if err := c.cgroups.remember(c.layout.groups()); err != nil {
		return err
	}
	return c.cgroups.create()
}

func (c *Containerd) connect(ctx context.Context, address string) (err error) {
	c.client, err = containerd.New(address,
		containerd.WithDefaultNamespace(Namespace), containerd.WithDefaultRuntime(c.RuntimeName()))
	if err != nil {
		return fmt.Errorf("connect to containerd: %w", err)
	}
	serving, err := c.client.IsServing(ctx)
	if err != nil {
		return fmt.Errorf("connect to containerd: %w", err)
	}
	if !serving {
		return fmt.Errorf("connect to containerd: %s does not serve", address)
	}
	c.setUp()
	return nil
}

// start starts what a life consists of.
func (c *Containerd) start(ctx context.Context) (*life, error) {
	daemon := []string{c.config.Binaries.Containerd, "--config", c.layout.config()}
	if !c.config.Resident {
		return startLife(ctx, daemon, c.layout, c.cgroups, c.log)
	}
	resident, err := startLife(ctx, []string{
		c.config.Binaries.Resident, "-socket", c.layout.resident(), "-events", c.layout.events(), "-settings", c.layout.runsc(),
	}, c.layout, c.cgroups, c.log)
	if err != nil {
		return nil, err
	}
	life, err := startLife(ctx, daemon, c.layout, c.cgroups, c.log)
	if err != nil {
		resident.stop()
		return nil, err
	}
	life.share(resident, c.config.Logger)
	return life, nil
}

// RuntimeName is what containers are made with.
func (c *Containerd) RuntimeName() string {
	if c.config.Resident {
		return ResidentName
	}
	return RuntimeName
}

// Client speaks to containerd, in namespace Namespace. It is the same one
// through every restart.
func (c *Containerd) Client() *containerd.Client { return c.client }

// Address is the socket of containerd's API.
func (c *Containerd) Address() string {
	if c.config.Address != "" {
		return c.config.Address
	}
	return c.layout.socket()
}

// Cgroups is the instance's tree.
func (c *Containerd) Cgroups() *Cgroups { return c.cgroups }

// FIFODir is where tasks' stdio belongs (cio.WithFIFODir); the client's own
// choice is a global directory.
func (c *Containerd) FIFODir() string { return c.layout.fifos() }

// RuntimeOptions go with the runtime's name into every container.
func (c *Containerd) RuntimeOptions() *runtimeoptions.Options {
	return &runtimeoptions.Options{TypeUrl: RuntimeName + ".options", ConfigPath: c.layout.runsc()}
}

// Gone is closed when the containerd that serves now is dead, and with it all
// that ran. Each life has a channel of its own: take it before using Client.
// That of a host's containerd never closes.
func (c *Containerd) Gone() <-chan struct{} {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.gone
}

// Ready waits, after a death, for the next life. It fails once there will be
// none.
func (c *Containerd) Ready(ctx context.Context) error {
	c.mu.Lock()
	up := c.up
	c.mu.Unlock()
	select {
	case <-up:
		return nil
	case <-c.done:
		return c.Err()
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// Done is closed when supervision has ended: Close was called, or containerd
// would not stay up. Err tells which.
func (c *Containerd) Done() <-chan struct{} { return c.done }

// Err is why supervision ended, nil after Close and while it goes on.
func (c *Containerd) Err() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.err
}

// Run holds containerd until ctx ends or supervision gives up, and closes it.
func (c *Containerd) Run(ctx context.Context) error {
	select {
	case <-ctx.Done():
	case <-c.done:
	}
	return errors.Join(c.Err(), c.Close())
}

// Close ends everything that runs through the managed containerd, containerd
// itself, and removes cgroups, sockets and state: within 5 seconds and with
// nothing left but images. A second call does nothing.
func (c *Containerd) Close() error {
	c.closing.Do(func() {
		if c.stop != nil {
			c.stop(errClosed)
			<-c.done
		} else {
			close(c.done)
		}
		c.closed = c.release()
	})
	return c.closed
}

// release gives back what prepare and start took.
func (c *Containerd) release() error {
	ctx, cancel := context.WithTimeout(context.Background(), closeTimeout)
	defer cancel()
	var failed []error
	if c.client != nil {
		failed = append(failed, c.client.Close())
	}
	if c.cgroups != nil {
		failed = append(failed, sweep(ctx, c.layout, c.cgroups))
	}
	if c.log != nil {
		failed = append(failed, c.log.Close())
	}
	if c.lock != nil {
		failed = append(failed, c.lock.Close())
	}
	return errors.Join(failed...)
}
