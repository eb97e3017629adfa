package scheduler

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"sync"
	"time"

	"github.com/google/uuid"
	"golang.org/x/sync/semaphore"

	"github.com/sandlot-dev/sandlot/pkg/image"
	"github.com/sandlot-dev/sandlot/pkg/job"
	"github.com/sandlot-dev/sandlot/pkg/queue"
	"github.com/sandlot-dev/sandlot/pkg/telemetry"
)

// Config is what a scheduler needs. Only what is marked so is required.
type Config struct {
	// Queue holds all state. Required; not closed by the scheduler.
	Queue *queue.Queue
	// Telemetry exports spans; nil for none.
	Telemetry *telemetry.Telemetry
	// Logger is required.
	Logger *slog.Logger
	// Listen is where HTTP is served; "127.0.0.1:7455" by default.
	Listen string
	// TLS serves HTTPS if its files are named; optional.
	TLS TLS
	// Gateway accepts and answers, and leaves it to other schedulers to
	// release.
	Gateway bool
	// Token is asked of every client. Required.
	Token string
	// Version names the build.
	Version string
	// Retention is how long results are kept; a day by default.
	Retention time.Duration
	// TempDir takes uploads of images while they are checked; the system's
	// by default.
	TempDir string
	// Listed is how many jobs lists know, the newest; 250,000 by default.
	Listed int
	// Buffer bounds the bytes of all bodies held in memory; 256 MiB by
	// default.
	Buffer int64
	// BatchItems is how many lines a batch may have; a million by default.
	BatchItems int
	// BatchSegment is how many results are stored together; 10,000 by default.
	BatchSegment int
	// Callbacks says who may be told of the end of a batch; nobody by default.
	Callbacks Callbacks
	// BodyTime is how long one submit may take to arrive, and how long a
	// stream of them may be silent; a minute by default.
	BodyTime time.Duration
	// MaxWait bounds how long an answer is held back; 5 minutes by default.
	MaxWait time.Duration
	// Drain is how long a stop waits for answers under way; 5 s by default.
	Drain time.Duration
}

// Scheduler accepts, releases and answers.
type Scheduler struct {
	Config
	log       *slog.Logger
	catalogue image.Catalogue
	index     *index
	workers   *workers
	settings  *settings
	caps      *caps
	metrics   *metrics
	buffers   *semaphore.Weighted
	lead      *Lead
	folds     *folds
	cancels   *cancels
	callbacks *callbacks
	handler   http.Handler
	listener  net.Listener
	// stopping is closed when a stop begins: who waits is answered then.
	stopping chan struct{}
}

// New checks the configuration; it does not serve yet.
func New(cfg Config) (*Scheduler, error) {
	if cfg.Queue == nil || cfg.Logger == nil || cfg.Token == "" {
		return nil, errors.New("make scheduler: Queue, Logger and Token are required")
	}
	setDefault(&cfg.Listen, "127.0.0.1:7455")
	setDefault(&cfg.Version, "dev")
	setDefault(&cfg.Retention, 24*time.Hour)
	setDefault(&cfg.TempDir, os.TempDir())
	setDefault(&cfg.Listed, 250_000)
	setDefault(&cfg.BatchItems, 1_000_000)
	setDefault(&cfg.BatchSegment, resultItems)
	setDefault(&cfg.Buffer, 256<<20)
	setDefault(&cfg.BodyTime, time.Minute)
	setDefault(&cfg.MaxWait, 5*time.Minute)
	setDefault(&cfg.Drain, 5*time.Second)
	if cfg.Retention < time.Second || cfg.Buffer < bodyCost {
		return nil, fmt.Errorf("make scheduler: Retention must be at least 1 s, Buffer at least %d bytes", bodyCost)
	}
	s := &Scheduler{
		Config: cfg, log: cfg.Logger, catalogue: image.Builtin(),
		index: newIndex(cfg.Listed, uuid.NewString()[:8]), workers: newWorkers(), settings: newSettings(),
		buffers: semaphore.NewWeighted(cfg.Buffer), lead: &Lead{Queue: cfg.Queue, Logger: cfg.Logger, Aging: defaultAging},
		stopping: make(chan struct{}),
	}
	s.lead.settings = s.settings
	s.caps = newCaps(s)
	s.folds = newFolds()
	s.cancels = newCancels()
	s.callbacks = newCallbacks(cfg.Callbacks)
	s.lead.batches = &batchLead{s: s}
	s.lead.ticks = &ticks{s: s}
	s.lead.spills = newSpills(s)
	s.metrics = newMetrics(s)
	s.handler = s.routes()
	return s, nil
}

func setDefault[T comparable](field *T, value T) {
	var zero T
	if *field == zero {
		*field = value
	}
}

// Listen takes the address, so that it is known before Run. Listening twice
// is harmless.
func (s *Scheduler) Listen() (url string, err error) {
	if s.listener == nil {
		if s.listener, err = s.TLS.listen(s.Config.Listen); err != nil {
			return "", fmt.Errorf("listen for HTTP: %w", err)
		}
	}
	return s.TLS.scheme() + "://" + s.listener.Addr().String(), nil
}

// Handler is the HTTP side alone.
func (s *Scheduler) Handler() http.Handler { return s.handler }

// Run serves until ctx ends or something that it needs fails, and returns
// when all that it started has ended. It runs once.
func (s *Scheduler) Run(ctx context.Context) error {
	if _, err := s.Listen(); err != nil {
		return err
	}
	// Loops outlive HTTP: answers under way still need the index.
	loops, stopLoops := context.WithCancelCause(context.WithoutCancel(ctx))
	failed := make(chan error, 8)
	ended := s.start(loops, failed)

	server := s.server()
	served := make(chan error, 1)
	go func() { served <- server.Serve(s.listener) }()
	s.log.Info("scheduler serves", "address", s.listener.Addr().String())

	var err error
	select {
	case <-ctx.Done():
	case err = <-failed:
	case err = <-served:
		err = fmt.Errorf("serve HTTP: %w", err)
	}
	close(s.stopping)
	s.shutdown(ctx, server)
	stopLoops(errStopping)
	<-ended
	return err
}

func (s *Scheduler) isStopping() bool {
	select {
	case <-s.stopping:
		return true
	default:
		return false
	}
}

var errStopping = errors.New("scheduler is stopping")

// start runs the loops; ended is closed when all have returned.
func (s *Scheduler) start(ctx context.Context, failed chan<- error) (ended <-chan struct{}) {
	loops := map[string]func(context.Context) error{
		"lead":     s.lead.Run,
		"settings": func(ctx context.Context) error { return s.Queue.WatchSettings(ctx, s.settings.apply) },
		"follow":   func(ctx context.Context) error { return s.Queue.Follow(ctx, s.apply, s.index.caughtUp) },
		"batches":  func(ctx context.Context) error { return s.folds.follow(ctx, s.Queue) },
		"cancels": func(ctx context.Context) error {
			return s.Queue.FollowCancels(ctx, s.cancels.set, sync.OnceFunc(func() { close(s.cancels.ready) }))
		},
		"workers": func(ctx context.Context) error { return s.Queue.WatchWorkers(ctx, s.workers.apply) },
	}
	if s.Gateway {
		delete(loops, "lead")
		loops["pools"] = func(ctx context.Context) error { return s.Queue.WatchPools(ctx, s.lead.led.know) }
	}
	done := make(chan struct{}, len(loops))
	for name, loop := range loops {
		go func() {
			defer func() { done <- struct{}{} }()
			if err := loop(ctx); err != nil && ctx.Err() == nil {
				failed <- fmt.Errorf("%s: %w", name, err)
			}
		}()
	}
	all := make(chan struct{})
	go func() {
		defer close(all)
		for range loops {
			<-done
		}
	}()
	return all
}

func (s *Scheduler) shutdown(ctx context.Context, server *http.Server) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), s.Drain)
	defer cancel()
	if err := server.Shutdown(ctx); err != nil {
		_ = server.Close()
	}
}

// server has the time-outs that keep slow clients from holding on: what may
// take long sets its own deadlines.
func (s *Scheduler) server() *http.Server {
	return &http.Server{
		Handler:           s.handler,
		ReadHeaderTimeout: 10 * time.Second,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    64 << 10,
		ErrorLog:          slog.NewLogLogger(s.log.Handler(), slog.LevelDebug),
	}
}

// apply folds one change of a record in.
func (s *Scheduler) apply(c queue.Change) {
	if _, _, item := job.Item(c.ID); item {
		s.folds.apply(c, s.Queue.Shard(c.ID))
	}
	if !s.Gateway {
		s.lead.spills.apply(c)
	}
	s.index.apply(c)
}

// record is a shorthand: the record of a job of the caller's tenant.
func (s *Scheduler) record(ctx context.Context, id string) (job.Record, error) {
	if batch, index, item := job.Item(id); item {
		return s.itemRecord(ctx, id, batch, index)
	}
	if _, err := uuid.Parse(id); err != nil || len(id) != 36 {
		return job.Record{}, fmt.Errorf("job %q: %w", id, job.ErrNotFound)
	}
	rec, err := s.Queue.Get(ctx, tenantOf(ctx), id)
	if err != nil {
		return job.Record{}, fmt.Errorf("get job %s: %w", id, err)
	}
	return rec, nil
}
