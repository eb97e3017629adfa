package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sandlot-dev/sandlot/pkg/client"
	"github.com/sandlot-dev/sandlot/pkg/job"
	"github.com/sandlot-dev/sandlot/pkg/queue"
	"github.com/sandlot-dev/sandlot/pkg/telemetry"
	"github.com/sandlot-dev/sandlot/scheduler"
	"github.com/sandlot-dev/sandlot/worker"
	"github.com/sandlot-dev/sandlot/worker/gvisor"
)

// stack is the roles that run in this process. Its steps start one part each,
// in the order in which the parts need each other; close goes backwards.
type stack struct {
	*parts
	// ctx ends when the process is to stop, or a part has ended by itself.
	ctx       context.Context
	dir       string
	scheduler schedulerConfig
	worker    workerConfig
	nats      natsConfig
	role      queue.Role // empty for all in one
	log       *slog.Logger

	// What the steps have made.
	token    string // of the API
	url      string // of the API
	natsURL  string // for workers of other hosts
	embedded *queue.Server
	queue    *queue.Queue
	unfit    []string
	runtime  worker.Runtime
}

// step starts a part of the stack.
type step struct {
	name  string
	start func(context.Context) error
}

// startUp starts all roles, on an embedded NATS.
func (a *app) startUp(ctx context.Context, c upConfig) (*stack, error) {
	log, err := c.Log.logger(a.stderr)
	if err != nil {
		return nil, err
	}
	s := newStack(ctx, log, c.DataDir)
	s.scheduler, s.worker, s.nats = c.Scheduler, c.Worker, c.NATS
	return s, s.start(
		step{"data directory", s.openDir},
		step{"queue server", s.startNATS},
		step{"queue", s.openQueue},
		step{"scheduler", s.startScheduler},
		step{"check of the host", s.checkHost},
		step{"runtime", s.startRuntime},
		step{"worker", s.startWorker},
		step{"readiness", s.awaitReady},
	)
}

// startSchedulerRole starts a scheduler on a NATS of the user's.
func (a *app) startSchedulerRole(ctx context.Context, c schedulerRole) (*stack, error) {
	log, err := c.Log.logger(a.stderr)
	if err != nil {
		return nil, err
	}
	s := newStack(ctx, log, c.DataDir)
	s.scheduler, s.nats, s.role = c.Scheduler, c.NATS, queue.RoleScheduler
	if c.Scheduler.Gateway {
		s.role = queue.RoleGateway
	}
	return s, s.start(
		step{"data directory", s.openDir},
		step{"queue", s.openQueue},
		step{"scheduler", s.startScheduler},
		step{"address", s.tellAddress},
	)
}

// startWorkerRole starts a worker on a NATS of the user's.
func (a *app) startWorkerRole(ctx context.Context, c workerRole) (*stack, error) {
	log, err := c.Log.logger(a.stderr)
	if err != nil {
		return nil, err
	}
	s := newStack(ctx, log, c.DataDir)
	s.worker, s.nats, s.role = c.Worker, c.NATS, queue.RoleWorker
	return s, s.start(
		step{"data directory", s.makeDir},
		step{"queue", s.openQueue},
		step{"check of the host", s.checkHost},
		step{"runtime", s.startRuntime},
		step{"worker", s.startWorker},
	)
}

func newStack(ctx context.Context, log *slog.Logger, dir string) *stack {
	s := &stack{dir: dir, log: log}
	s.parts, s.ctx = newParts(ctx, log)
	return s
}

// start takes the steps; when one fails, those before it are taken back.
func (s *stack) start(steps ...step) error {
	for _, step := range steps {
		began := time.Now()
		if err := step.start(s.ctx); err != nil {
			if s.ctx.Err() != nil {
				err = context.Cause(s.ctx)
			}
			return errors.Join(fmt.Errorf("start %s: %w", step.name, err), s.close())
		}
		s.log.Debug("started", "part", step.name, "took", time.Since(began))
	}
	return nil
}

// closeTime bounds the end of everything, beside the time to drain.
const closeTime = 6500 * time.Millisecond

// close ends all parts, the last one first. What is not over in time ends with
// the process: containerd and the sandboxes do not outlive it.
func (s *stack) close() error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(s.ctx), s.worker.Drain+closeTime)
	defer cancel()
	closed := make(chan error, 1)
	go func() { closed <- s.parts.close(ctx) }()
	select {
	case err := <-closed:
		return err
	case <-ctx.Done():
		return errors.New("not everything ended in time")
	}
}

// interrupted says whether the user has asked for the end, and tells so.
func (a *app) interrupted(ctx context.Context) bool {
	i, ok := errors.AsType[interrupt](context.Cause(ctx))
	if ok {
		fmt.Fprintf(a.stderr, "sandlot: %v, stopping\n", i)
	}
	return ok
}

// client talks to the scheduler of this process.
func (s *stack) client() *client.Client {
	config := client.Config{Server: s.url, Token: s.token, UserAgent: "sandlot/" + version}
	if s.scheduler.TLSCert != "" {
		t := http.DefaultTransport.(*http.Transport).Clone()
		t.TLSClientConfig = ownCertificate(s.scheduler.TLSCert)
		config.HTTP = &http.Client{Transport: t}
	}
	return client.New(config)
}

// ownCertificate trusts the certificate of this process and no other. Its
// names do not matter, it is asked at a loopback address.
func ownCertificate(file string) *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS12, InsecureSkipVerify: true,
		VerifyConnection: func(c tls.ConnectionState) error {
			text, err := os.ReadFile(file)
			if err != nil {
				return err
			}
			block, _ := pem.Decode(text)
			if block == nil || !bytes.Equal(block.Bytes, c.PeerCertificates[0].Raw) {
				return errors.New("somebody else answers at the address of this process")
			}
			return nil
		},
	}
}

func (s *stack) makeDir(context.Context) error {
	dir, err := filepath.Abs(s.dir)
	if err != nil {
		return err
	}
	s.dir = dir
	return os.MkdirAll(dir, 0o700)
}

// openDir makes the data directory, locks it and finds its token.
func (s *stack) openDir(ctx context.Context) error {
	if err := s.makeDir(ctx); err != nil {
		return err
	}
	held, err := lockDir(s.dir)
	if err != nil {
		return err
	}
	s.add("data directory", func(context.Context) error { return held.Close() })
	s.token, err = ensureToken(filepath.Join(s.dir, "token"))
	return err
}

func (s *stack) startNATS(context.Context) (err error) {
	config := queue.ServerConfig{
		Dir: filepath.Join(s.dir, "nats"), Listen: s.nats.Listen,
		Profile: queue.Profile(s.nats.Durability), MinFree: int64(s.nats.MinFree), Logger: s.log,
	}
	if config.Listen != "" {
		if config.Token, err = ensureToken(filepath.Join(s.dir, "nats-token")); err != nil {
			return err
		}
	}
	if s.embedded, err = queue.StartServer(config); err != nil {
		return err
	}
	s.natsURL = s.embedded.URL()
	s.add("queue server", func(context.Context) error { s.embedded.Close(); return nil })
	return nil
}

func (s *stack) openQueue(ctx context.Context) (err error) {
	waiting := time.AfterFunc(2*time.Second, func() {
		s.log.Warn("the queue does not answer yet, still trying", "nats", s.nats.String())
	})
	defer waiting.Stop()
	config := s.nats.queue(s.role)
	config.Server, config.Name, config.Logger = s.embedded, s.name(), s.log
	s.queue, err = queue.Open(ctx, config)
	if err == nil {
		s.add("queue", func(context.Context) error { s.queue.Close(); return nil })
	}
	return err
}

// name is this process's among all that share the queue.
func (s *stack) name() string {
	if s.worker.ID != "" {
		return s.worker.ID
	}
	return hostID() + "-" + strings.TrimPrefix(gvisor.InstanceName(s.dir), "sandlot-")
}

func (s *stack) startScheduler(ctx context.Context) error {
	tel, err := s.telemetry(ctx, "scheduler")
	if err != nil {
		return err
	}
	uploads := filepath.Join(s.dir, "tmp")
	if err := errors.Join(os.RemoveAll(uploads), os.MkdirAll(uploads, 0o700)); err != nil {
		return err
	}
	calls, err := s.scheduler.callbacks()
	if err != nil {
		return err
	}
	sched, err := scheduler.New(scheduler.Config{
		Queue: s.queue, Telemetry: tel, Logger: s.log, Version: version,
		Listen: s.scheduler.Listen, Token: s.token, Retention: s.scheduler.Retention,
		BatchItems: s.scheduler.BatchItems, BatchSegment: s.scheduler.BatchSegment, Callbacks: calls,
		TempDir: uploads, Drain: 2 * time.Second, Gateway: s.scheduler.Gateway,
		TLS: scheduler.TLS{Cert: s.scheduler.TLSCert, Key: s.scheduler.TLSKey},
	})
	if err != nil {
		return err
	}
	if s.url, err = sched.Listen(); errors.Is(err, unix.EADDRINUSE) {
		return fmt.Errorf("%w; name another address by --listen, port 0 takes a free one", err)
	}
	if err != nil {
		return err
	}
	s.run(ctx, "scheduler", sched.Run)
	s.url = reachable(s.url)
	return nil
}

// tellAddress writes down where clients find the API.
func (s *stack) tellAddress(context.Context) error {
	if err := writeAddress(s.dir, s.url); err != nil {
		return err
	}
	s.add("address", func(context.Context) error { return os.Remove(filepath.Join(s.dir, "address")) })
	return nil
}

// reachable is the URL for a client on this host: one that listens on every
// address is at home on the loopback one.
func reachable(server string) string {
	u, err := url.Parse(server)
	if err != nil {
		return server
	}
	if ip := net.ParseIP(u.Hostname()); ip != nil && ip.IsUnspecified() {
		u.Host = net.JoinHostPort("127.0.0.1", u.Port())
	}
	return u.String()
}

// telemetry exports spans where the usual variables of OpenTelemetry say.
func (s *stack) telemetry(ctx context.Context, service string) (*telemetry.Telemetry, error) {
	tel, err := telemetry.Setup(ctx, telemetry.Config{
		Service: service, Instance: s.name(), Version: version,
		Endpoint:       os.Getenv("OTEL_EXPORTER_OTLP_ENDPOINT"),
		TracesEndpoint: os.Getenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"),
	})
	if err != nil {
		return nil, err
	}
	s.add("telemetry", tel.Shutdown)
	return tel, nil
}

// checkHost finds out which limits this host cannot enforce.
func (s *stack) checkHost(ctx context.Context) error {
	_, found := gvisor.Check(ctx, gvisor.CheckConfig{RuntimeDir: s.worker.RuntimeDir, Absolute: s.worker.Containerd != ""})
	for _, problem := range found {
		if problem.Limit == "" {
			s.log.Warn("host", "problem", problem.What, "fix", problem.Fix)
			continue
		}
		s.log.Error("worker takes no jobs", "cannot_enforce", problem.Limit, "problem", problem.What, "fix", problem.Fix)
		s.unfit = append(s.unfit, problem.Limit+": "+problem.What+"; "+problem.Fix)
	}
	return nil
}

// startRuntime starts containerd, unless no job could be run with it.
func (s *stack) startRuntime(ctx context.Context) error {
	if len(s.unfit) > 0 {
		s.runtime = unfitRuntime{}
		return nil
	}
	programs, err := gvisor.FindBinaries(s.worker.RuntimeDir)
	if err != nil {
		return err
	}
	address := strings.TrimPrefix(s.worker.Containerd, "unix://")
	chosen, why := gvisor.Choice(s.worker.Runtime).On(programs, address)
	if why != nil {
		s.log.Info("sandboxes are made by the stock runtime", "reason", why)
	}
	containerd, err := gvisor.StartContainerd(ctx, gvisor.ContainerdConfig{
		Dir: s.dir, Address: address, Binaries: programs,
		RunscFlags: gvisor.RunscFlags(),
		Resident:   chosen == gvisor.Resident,
		Logger:     s.log,
	})
	if err != nil {
		return err
	}
	s.run(ctx, "containerd", containerd.Run)
	made, err := gvisor.New(ctx, gvisor.Config{
		Containerd: containerd, Binaries: programs, FetchArchive: s.fetchArchive, Logger: s.log, Spares: s.worker.Spares,
	})
	if err != nil {
		return err
	}
	if err := made.Reap(ctx); err != nil {
		return err
	}
	s.runtime = made
	s.run(ctx, "sandboxes", made.Run)
	return nil
}

// fetchArchive opens an image where the scheduler has put it.
func (s *stack) fetchArchive(ctx context.Context, digest string) (io.ReadCloser, error) {
	body, _, err := s.queue.Open(ctx, queue.Images, digest)
	return body, err
}

// placeImages has the worker of this process import images before their first
// job would.
func (s *stack) placeImages(ctx context.Context, names []string) error {
	runtime, ok := s.runtime.(*gvisor.Runtime)
	if !ok {
		return nil
	}
	for _, name := range names {
		img, err := s.queue.Image(ctx, name)
		if err == nil {
			err = runtime.Place(ctx, job.Image{Name: img.Name, Digest: img.Digest})
		}
		if err != nil {
			return fmt.Errorf("prepare: %w", err)
		}
	}
	return nil
}

// unfitRuntime is that of a worker that takes no jobs.
type unfitRuntime struct{}

// Prepare refuses.
func (unfitRuntime) Prepare(context.Context, worker.Task) (worker.Sandbox, error) {
	return nil, errors.New("this host cannot enforce every limit")
}

func (s *stack) startWorker(ctx context.Context) error {
	tel, err := s.telemetry(ctx, "worker")
	if err != nil {
		return err
	}
	config := worker.Config{
		ID: s.name(), Pool: s.worker.Pool, Classes: s.worker.Classes, Slots: s.worker.Slots, Dir: filepath.Join(s.dir, "worker", "jobs"),
		Drain: s.worker.Drain, Allowance: gvisor.HostAllowance, Unfit: s.unfit,
		Runtime: s.runtime, Queue: s.queue, Logger: s.log, Telemetry: tel,
	}
	config.Stay = s.embedded != nil // the scheduler lives in this process
	config.Labels = pairs("--worker-label", s.worker.Labels, nil, new(problems))
	if versioned, ok := s.runtime.(*gvisor.Runtime); ok {
		config.Versions = versioned.Versions()
	}
	config.Versions.Sandlot = version
	w, err := worker.New(config)
	if err != nil {
		return err
	}
	s.run(ctx, "worker", w.Run)
	return nil
}

// awaitReady waits until the scheduler serves and knows the worker.
func (s *stack) awaitReady(ctx context.Context) error {
	c := s.client()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		workers, err := c.Workers(ctx)
		if err != nil || len(workers) > 0 {
			return err
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-tick.C:
		}
	}
}
