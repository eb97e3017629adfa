// Package testenv declares whole Sandlots for tests: a cluster inside the test
// process, or the real program as processes of their own.
//
//	c := testenv.New(t, testenv.Config{})          // queue, scheduler, one worker
//	done := c.Run(t, testenv.Sh("echo hello"))     // through HTTP, to its end
//
// In-process clusters run scripted sandboxes unless told otherwise, so that
// they need nothing of the host. What only a process can do, such as dying
// without a word, is for [Start] and its kin.
package testenv

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sandlot-dev/sandlot/pkg/api"
	"github.com/sandlot-dev/sandlot/pkg/client"
	"github.com/sandlot-dev/sandlot/pkg/job"
	"github.com/sandlot-dev/sandlot/pkg/queue"
	"github.com/sandlot-dev/sandlot/pkg/telemetry"
	"github.com/sandlot-dev/sandlot/scheduler"
	"github.com/sandlot-dev/sandlot/test/scripted"
	"github.com/sandlot-dev/sandlot/worker"
)

// Image is the name of the image that in-process clusters know.
const Image = "busybox"

// ScriptedImage is what that name stands for where sandboxes are scripted.
var ScriptedImage = job.Image{Name: Image, Digest: "sha256:" + strings.Repeat("1", 64)}

// token is that of every cluster in a test.
const token = "token-of-a-test"

// Config says what the cluster is made of. The zero value is a scheduler and
// one worker with two slots of scripted sandboxes.
type Config struct {
	// Worker changes the settings of each worker before it is made. Optional.
	Worker func(*worker.Config)
	// Listen lets workers of other processes join, at Cluster.NATS. Optional.
	Listen bool
	// Workers is how many there are at first; 1 by default, -1 for none.
	Workers int
}

// Cluster is a Sandlot within the test process.
type Cluster struct {
	Dir     string
	Server  *queue.Server
	Queue   *queue.Queue // a connection of the test's own
	NATS    string       // where other processes join; empty if they cannot
	URL     string
	Token   string
	Client  *client.Client
	Runtime *scripted.Runtime // that of all workers unless Config.Worker set another

	config  Config
	workers int
}

// New starts a cluster that ends with the test.
func New(t testing.TB, config Config) *Cluster {
	t.Helper()
	c := &Cluster{Dir: t.TempDir(), Token: token, Runtime: new(scripted.Runtime), config: config}
	server := queue.ServerConfig{Dir: filepath.Join(c.Dir, "nats"), Profile: queue.Fast, Logger: Logger(t, "nats")}
	if config.Listen {
		server.Listen, server.Token = "127.0.0.1:0", token
	}
	var err error
	if c.Server, err = queue.StartServer(server); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Server.Close)
	if config.Listen {
		c.NATS = strings.Replace(c.Server.URL(), "nats://", "nats://"+token+"@", 1)
	}
	c.Queue = c.Connect(t, "test")
	image := queue.Image{Name: Image, Digest: ScriptedImage.Digest, Source: "test", CreatedAt: time.Now().UTC()}
	if err := c.Queue.SetImage(t.Context(), image); err != nil {
		t.Fatal(err)
	}
	c.startScheduler(t)
	for range max(0, config.Workers) + map[bool]int{true: 1}[config.Workers == 0] {
		c.StartWorker(t)
	}
	return c
}

// Connect opens another connection to the cluster's queue.
func (c *Cluster) Connect(t testing.TB, name string) *queue.Queue {
	t.Helper()
	q, err := queue.Open(t.Context(), queue.Config{Server: c.Server, Name: name, Logger: Logger(t, name)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(q.Close)
	return q
}

func (c *Cluster) startScheduler(t testing.TB) {
	t.Helper()
	tel, err := telemetry.Setup(t.Context(), telemetry.Config{Service: "scheduler"})
	if err != nil {
		t.Fatal(err)
	}
	s, err := scheduler.New(scheduler.Config{
		Queue: c.Connect(t, "scheduler"), Telemetry: tel, Logger: Logger(t, "scheduler"),
		Listen: "127.0.0.1:0", Token: c.Token, TempDir: filepath.Join(c.Dir, "scheduler"),
	})
	if err != nil {
		t.Fatal(err)
	}
	if c.URL, err = s.Listen(); err != nil {
		t.Fatal(err)
	}
	stop := Background(t, "scheduler", s.Run)
	t.Cleanup(stop)
	c.Client = client.New(client.Config{Server: c.URL, Token: c.Token})
}

// StartWorker starts one more worker. It ends with the test, or when stop is
// called, as if by a signal; stop waits for it.
func (c *Cluster) StartWorker(t testing.TB) (stop func()) {
	t.Helper()
	c.workers++
	id := fmt.Sprintf("w%d", c.workers)
	tel, err := telemetry.Setup(t.Context(), telemetry.Config{Service: "worker", Instance: id})
	if err != nil {
		t.Fatal(err)
	}
	settings := worker.Config{
		ID: id, Slots: 2, Dir: filepath.Join(c.Dir, id), Runtime: c.Runtime, Queue: c.Connect(t, id),
		Logger: Logger(t, id), Telemetry: tel, Versions: job.Runtime{Sandlot: "test"},
	}
	if c.config.Worker != nil {
		c.config.Worker(&settings)
	}
	w, err := worker.New(settings)
	if err != nil {
		t.Fatal(err)
	}
	stop = Background(t, id, func(ctx context.Context) error {
		err := w.Run(ctx)
		if errors.Is(err, worker.ErrLeft) {
			return nil // as it was told
		}
		return err
	})
	t.Cleanup(stop)
	return stop
}

// Background runs f until stop is called, which waits for its end. An error
// of f fails the test.
func Background(t testing.TB, name string, f func(context.Context) error) (stop func()) {
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := f(ctx); err != nil && ctx.Err() == nil {
			t.Errorf("%s ended: %v", name, err)
		}
	}()
	return sync.OnceFunc(func() {
		cancel()
		select {
		case <-done:
		case <-time.After(30 * time.Second):
			t.Errorf("%s did not end within 30 s", name)
		}
	})
}

// Sh is a job of one step that runs a shell script.
func Sh(script string) api.Submit {
	return api.Submit{Image: Image, Command: []string{"sh", "-c", script}}
}

// Submit submits a job and returns at once.
func (c *Cluster) Submit(t testing.TB, submit api.Submit) api.Job {
	t.Helper()
	answer, err := c.Client.Submit(t.Context(), submit, 0)
	if err != nil {
		t.Fatalf("submit: %v", err)
	}
	return answer
}

// Run submits a job and waits for its end.
func (c *Cluster) Run(t testing.TB, submit api.Submit) api.Job {
	t.Helper()
	return c.Wait(t, c.Submit(t, submit).ID)
}

// Wait waits for the end of a job.
func (c *Cluster) Wait(t testing.TB, id string) api.Job {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	answer, err := c.Client.Wait(ctx, id)
	if err != nil {
		t.Fatalf("wait for %s: %v", id, err)
	}
	return answer
}

// Verdict is how a job ended, as "state blame reason".
func Verdict(j api.Job) string {
	if j.Verdict == nil {
		return string(j.State)
	}
	return fmt.Sprintf("%s %s %s", j.State, j.Verdict.Blame, j.Verdict.Reason)
}

// Logger writes to the test's log, which is shown when the test fails.
func Logger(t testing.TB, name string) *slog.Logger {
	w := &testWriter{t: t}
	t.Cleanup(w.close)
	return slog.New(telemetry.LogHandler(slog.NewTextHandler(w, nil))).With("part", name)
}

// testWriter is a test's log as a writer. Lines after the test's end, such as
// those of a server that closes, are dropped.
type testWriter struct {
	mu   sync.Mutex
	t    testing.TB
	over bool
}

func (w *testWriter) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.over {
		w.t.Log(strings.TrimRight(string(p), "\n"))
	}
	return len(p), nil
}

func (w *testWriter) close() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.over = true
}
