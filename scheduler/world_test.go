package scheduler_test

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"log/slog"
	"os"
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
)

const (
	token  = "test-token"
	digest = "sha256:1111111111111111111111111111111111111111111111111111111111111111"
)

// world is a real queue with a scheduler on it.
type world struct {
	t      testing.TB
	ctx    context.Context
	server *queue.Server
	queue  *queue.Queue
	tel    *telemetry.Telemetry
	log    *slog.Logger
	change func(*scheduler.Config)

	url    string
	client *client.Client
	stop   func()
}

// newWorld starts one with the image "python" stored; change may alter the
// scheduler's configuration.
func newWorld(t testing.TB, change func(*scheduler.Config)) *world {
	t.Helper()
	return newWorldIn(t, t.TempDir(), change)
}

// newWorldIn starts one on a store that may have something in it.
func newWorldIn(t testing.TB, dir string, change func(*scheduler.Config)) *world {
	t.Helper()
	w := &world{t: t, change: change, log: testLogger(t)}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	t.Cleanup(cancel)
	w.ctx = ctx
	var err error
	w.server, err = queue.StartServer(queue.ServerConfig{Dir: dir, Profile: queue.Fast, Listen: "127.0.0.1:0", Token: token, Logger: w.log})
	must(t, err)
	t.Cleanup(w.server.Close)
	w.queue, err = queue.Open(ctx, queue.Config{Server: w.server, Name: "test", Logger: w.log})
	must(t, err)
	t.Cleanup(w.queue.Close)
	w.tel, err = telemetry.Setup(ctx, telemetry.Config{Service: "scheduler", Instance: "test"})
	must(t, err)
	must(t, w.queue.SetImage(ctx, queue.Image{Schema: job.Schema, Name: "python", Digest: digest, Source: "test", CreatedAt: time.Now()}))
	w.start("127.0.0.1:0")
	t.Cleanup(func() { w.stop() })
	return w
}

// start starts the scheduler; stop ends it and waits.
func (w *world) start(listen string) {
	w.t.Helper()
	cfg := scheduler.Config{Queue: w.queue, Telemetry: w.tel, Logger: w.log, Listen: listen, Token: token, Version: "test", TempDir: w.t.TempDir()}
	if w.change != nil {
		w.change(&cfg)
	}
	s, err := scheduler.New(cfg)
	must(w.t, err)
	w.url, err = s.Listen()
	must(w.t, err)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	w.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			w.t.Errorf("scheduler: %v", err)
		}
	})
	w.client = client.New(client.Config{Server: w.url, Token: token, Patience: 10 * time.Second})
}

// restart stops the scheduler and starts another one at the same address.
func (w *world) restart() {
	w.stop()
	w.start(strings.TrimPrefix(w.url, "http://"))
}

// work runs a worker that commits what run says of each job, until the test
// ends. A nil result is a success that printed nothing.
func (w *world) work(slots int, run func(job.Record) (job.State, *job.Result)) {
	w.t.Helper()
	w.workAs(queue.Worker{ID: "w1", Slots: slots, CPU: 2, Memory: 4 << 30, Started: time.Now()}, run)
}

// workAs is work as a worker of the test's choice.
func (w *world) workAs(who queue.Worker, run func(job.Record) (job.State, *job.Result)) {
	w.t.Helper()
	slots := who.Slots
	reg, err := w.queue.Register(w.ctx, who)
	must(w.t, err)
	ctx, cancel := context.WithCancel(w.ctx)
	var slotsDone sync.WaitGroup
	for range slots {
		slotsDone.Go(func() { w.slot(ctx, reg, run) })
	}
	w.t.Cleanup(func() {
		cancel()
		slotsDone.Wait()
		_ = reg.Close()
	})
}

func (w *world) slot(ctx context.Context, reg *queue.Registration, run func(job.Record) (job.State, *job.Result)) {
	for ctx.Err() == nil {
		d, err := w.queue.Take(ctx, reg)
		if err != nil {
			continue
		}
		claim, err := w.queue.Claim(ctx, reg, d)
		if err != nil {
			continue
		}
		rec := claim.Record
		state, result := run(rec)
		if result == nil {
			result = succeeded("")
		}
		rec.State, rec.Result = state, result
		now := time.Now().UTC()
		rec.Timings.Prepare, rec.Timings.Run, rec.Timings.Decide, rec.Timings.Commit = now, now, now, now
		err = w.queue.Commit(context.WithoutCancel(ctx), claim, rec)
		if errors.Is(err, queue.ErrCanceling) {
			rec.State, rec.Result = job.Canceled, &job.Result{Verdict: job.Verdict{Blame: job.BlameNone, Reason: job.WasCanceled}}
			err = w.queue.Commit(context.WithoutCancel(ctx), claim, rec)
		}
		if err != nil {
			w.log.Warn("commit", "error", err)
		}
	}
}

// succeed is a worker whose jobs all succeed.
func succeed(job.Record) (job.State, *job.Result) { return job.Succeeded, nil }

// succeeded is a result that printed text.
func succeeded(text string) *job.Result {
	code := 0
	return &job.Result{
		Verdict: job.Verdict{Blame: job.BlameNone, Reason: job.Exited, Evidence: job.Evidence{Step: "run", ExitCode: &code}},
		Steps:   []job.StepResult{{Name: "run", ExitCode: &code, Stdout: outputOf(text), Stderr: outputOf("")}},
	}
}

func outputOf(text string) job.Output {
	sum := sha256.Sum256([]byte(text))
	return job.Output{Text: text, Bytes: int64(len(text)), SHA256: hex.EncodeToString(sum[:])}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func testLogger(t testing.TB) *slog.Logger {
	if os.Getenv("SANDLOT_TEST_LOG") != "" {
		return slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelDebug}))
	}
	return slog.New(slog.NewTextHandler(t.Output(), nil))
}

// problem is err as a problem.
func problem(t *testing.T, err error) *api.Problem {
	t.Helper()
	var p *api.Problem
	if !errors.As(err, &p) {
		t.Fatalf("want a problem, got %v", err)
	}
	return p
}

func echo(text string) api.Submit {
	return api.Submit{Image: "python", Command: []string{"echo", text}}
}
