package worker

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/semaphore"

	"github.com/sandlot-dev/sandlot/pkg/job"
	"github.com/sandlot-dev/sandlot/pkg/queue"
	"github.com/sandlot-dev/sandlot/pkg/telemetry"
)

// Config is how a worker is set up.
type Config struct {
	// ID names the worker; no two that live at one time may share it. Required.
	ID string
	// Pool is where it takes jobs from, Classes of which size; "main" and "s"
	// by default.
	Pool    string
	Classes []string
	// Labels tell it from others, for people. Optional.
	Labels map[string]string
	// Slots is how many jobs run at once; the number of processors by default.
	Slots int
	// Dir is for output that does not fit into a record; emptied at start.
	// Required, and no other worker's.
	Dir string
	// Drain is how long running jobs may go on after the worker was told to
	// stop. Then they are stopped and go back to the queue. 0: at once.
	Drain time.Duration
	// Stay has a drained worker stay among the others, idle, until it is
	// wanted again, instead of leaving: for one that shares its process.
	Stay bool
	// Memory is what all sandboxes together may use: jobs wait for room in
	// it, so that neighbours cannot bring each other down. HostMemory by default.
	Memory job.Bytes
	// Allowance is what a sandbox needs on the host beside its job's own
	// limit; 64 MiB by default.
	Allowance job.Bytes
	// Unfit says which limits this host cannot enforce. A worker with such
	// reasons shows itself and takes no jobs.
	Unfit []string
	// Images are the digests at hand at first, for others to see. Optional.
	Images []string
	// Versions are told with each result. Optional.
	Versions job.Runtime

	Runtime   Runtime              // required
	Queue     *queue.Queue         // required
	Logger    *slog.Logger         // required
	Telemetry *telemetry.Telemetry // optional
}

// Worker takes jobs and runs them.
type Worker struct {
	Config
	log    *slog.Logger
	memory *semaphore.Weighted
	held   held
	health *health
	images *warm
	// clearing has a token for every sandbox that is being removed.
	clearing chan struct{}
	cleared  sync.WaitGroup
	started  time.Time
}

const (
	// roomWait is how long a job that was taken may wait for room in memory
	// before it is given back; well below the time after which the queue
	// would deliver it to somebody else.
	roomWait = 20 * time.Second
	// reportTime is how long the reports of attempts that were stopped may
	// take when the worker ends.
	reportTime = 5 * time.Second
)

// New checks the settings and makes a worker. It does nothing yet.
func New(c Config) (*Worker, error) {
	if c.ID == "" || c.Dir == "" || c.Runtime == nil || c.Queue == nil || c.Logger == nil {
		return nil, errors.New("worker needs an id, a directory, a runtime, a queue and a logger")
	}
	if c.Pool == "" {
		c.Pool = job.DefaultPool
	}
	if len(c.Classes) == 0 {
		c.Classes = []string{job.DefaultClass}
	}
	if c.Slots <= 0 {
		c.Slots = runtime.NumCPU()
	}
	if c.Allowance <= 0 {
		c.Allowance = 64 * job.MiB
	}
	if c.Memory <= 0 {
		memory, err := HostMemory()
		if err != nil {
			return nil, err
		}
		c.Memory = memory
	}
	if c.Memory <= c.Allowance {
		return nil, fmt.Errorf("worker: %s of memory leave no room for a sandbox, which needs %s beside its job", c.Memory, c.Allowance)
	}
	return &Worker{
		Config: c, log: c.Logger.With("worker", c.ID),
		memory: semaphore.NewWeighted(int64(c.Memory)), health: newHealth(), images: &warm{digests: slices.Clone(c.Images)},
		clearing: make(chan struct{}, c.Slots), started: time.Now().UTC(),
	}, nil
}

// MaxLimits is what the largest job may ask for.
func (w *Worker) MaxLimits() job.Limits {
	memory := w.Memory - w.Allowance
	return job.Limits{CPU: float64(runtime.NumCPU()), Memory: memory, Disk: memory}
}

// Run works until ctx ends. Then it takes nothing more, lets what runs go on
// for the drain time, stops the rest and returns when all of it is reported.
// A worker that lost its place, since it could not reach the queue, stops what
// it runs and takes a new one. One that is drained returns ErrLeft when it has
// finished what it held.
func (w *Worker) Run(ctx context.Context) error {
	if err := w.emptyDir(); err != nil {
		return err
	}
	for {
		place, err := w.register(ctx)
		if err != nil {
			return err
		}
		w.log.Info("worker is ready", "pool", w.Pool, "classes", w.Classes, "slots", w.Slots, "memory", w.Memory.String(), "unfit", w.Unfit)
		left := w.serve(ctx, place)
		if err := place.Close(); err != nil {
			w.log.Warn("cannot leave the list of workers", "error", err)
		}
		switch {
		case ctx.Err() != nil:
			return nil
		case left:
			w.log.Info("the worker was drained and leaves")
			return ErrLeft
		}
	}
}

// emptyDir makes the directory and removes what an earlier life left in it.
func (w *Worker) emptyDir() error {
	dir := filepath.Join(w.Dir, "output")
	if err := os.RemoveAll(dir); err != nil {
		return fmt.Errorf("empty the worker's directory: %w", err)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("make the worker's directory: %w", err)
	}
	return nil
}

// serve takes and runs jobs until ctx has ended and all is drained, or until
// the place is lost; left: until it was drained by an operator.
func (w *Worker) serve(ctx context.Context, place *queue.Registration) (left bool) {
	taking, endTaking := context.WithCancelCause(ctx)
	defer endTaking(nil)
	running, stop := context.WithCancelCause(context.WithoutCancel(ctx))
	defer stop(nil)
	reporting, endReports := context.WithCancel(context.WithoutCancel(ctx))
	defer endReports()
	listening, endListening := context.WithCancel(context.WithoutCancel(ctx))
	defer endListening()

	gate := newGate()
	order := <-place.Orders() // known before any job is taken
	gate.turn(w.closed(&order, time.Now()) == "")
	var slots, listener sync.WaitGroup
	listener.Go(func() {
		w.listen(listening, place, func() { stop(errLost); endTaking(errLost) })
	})
	listener.Go(func() {
		w.obey(listening, place, gate, order, func() { endTaking(ErrLeft) })
	})
	listener.Go(func() { w.tellSpares(listening, place) })
	if len(w.Unfit) == 0 {
		for range w.Slots {
			slots.Go(func() { w.slot(&slotContexts{taking, running, reporting}, gate, place) })
		}
	}
	<-taking.Done()
	if ctx.Err() != nil {
		w.log.Info("worker is stopping", "drain", w.Drain)
		place.Update(func(me *queue.Worker) { me.Draining = true })
		defer time.AfterFunc(w.Drain, func() { stop(ErrDrained) }).Stop()
		defer time.AfterFunc(w.Drain+reportTime, endReports).Stop()
	}
	slots.Wait()
	w.cleared.Wait()
	endListening()
	listener.Wait()
	return errors.Is(context.Cause(taking), ErrLeft)
}
