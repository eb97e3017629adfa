package queue_test

import (
	"context"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/sandlot-dev/sandlot/pkg/job"
	"github.com/sandlot-dev/sandlot/pkg/queue"
)

// patience is how long a test waits for what must come.
const patience = 20 * time.Second

func start(t testing.TB, cfg queue.ServerConfig) *queue.Server {
	t.Helper()
	if cfg.Dir == "" {
		cfg.Dir = t.TempDir()
	}
	if cfg.Profile == "" {
		cfg.Profile = queue.Fast
	}
	cfg.Logger = logger(t)
	s, err := queue.StartServer(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s
}

func logger(t testing.TB) *slog.Logger {
	return slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelInfo}))
}

func open(t testing.TB, cfg queue.Config) *queue.Queue {
	t.Helper()
	cfg.Logger = logger(t)
	if cfg.Name == "" {
		cfg.Name = "test"
	}
	q, err := queue.Open(within(t), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(q.Close)
	return q
}

// fresh is a queue on a server of its own.
func fresh(t testing.TB) *queue.Queue {
	return open(t, queue.Config{Server: start(t, queue.ServerConfig{})})
}

// within is a context that ends with the test, or when patience does.
func within(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	return ctx
}

// spec is a record as the gateway makes it.
func spec(id string) job.Record {
	return job.Record{
		ID: id, Tenant: "default", Queue: "default", BodyHash: "hash-of-" + id, Retention: time.Hour,
		Image:  job.Image{Name: "busybox", Digest: "sha256:1234"},
		Spec:   &job.Spec{Steps: []job.Step{{Name: "run", Command: []string{"true"}}}},
		Labels: map[string]string{"suite": " spaces and ünïcode\n"},
	}
}

func newID() string { return uuid.Must(uuid.NewV7()).String() }

func accept(t testing.TB, q *queue.Queue, rec job.Record) job.Record {
	t.Helper()
	got, created, err := q.Accept(within(t), rec)
	if err != nil || !created {
		t.Fatalf("accept: created %v, %v", created, err)
	}
	return got
}

// lead holds the release lease for the whole test.
func lead(t testing.TB, q *queue.Queue) *queue.Lease {
	t.Helper()
	return leadPool(t, q, job.DefaultPool)
}

// leadPool is lead for a pool.
func leadPool(t testing.TB, q *queue.Queue, pool string) *queue.Lease {
	t.Helper()
	leases := make(chan *queue.Lease, 1)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = q.Lead(ctx, pool, func(ctx context.Context, l *queue.Lease) error {
			leases <- l
			<-ctx.Done()
			return nil
		})
	}()
	t.Cleanup(func() { cancel(); <-ended })
	select {
	case l := <-leases:
		return l
	case <-time.After(patience):
		t.Fatal("no lease")
		return nil
	}
}

// releaseAll moves all hints to READY, best priority first.
func releaseAll(t testing.TB, q *queue.Queue, l *queue.Lease) (n queue.Released) {
	t.Helper()
	for {
		lanes, err := q.Lanes(within(t), l.Pool(), queue.EveryClass)
		if err != nil {
			t.Fatal(err)
		}
		if len(lanes) == 0 {
			return n
		}
		for _, lane := range lanes { // by subject, whose end is the priority
			got, err := q.Release(within(t), l, queue.Turn{Lane: lane, N: 64})
			if err != nil {
				t.Fatal(err)
			}
			n.Released += got[0].Released
			n.Dropped += got[0].Dropped
		}
	}
}

func register(t testing.TB, q *queue.Queue, id string) *queue.Registration {
	t.Helper()
	r, err := q.Register(within(t), queue.Worker{ID: id, Slots: 2})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = r.Close() })
	return r
}

func take(t testing.TB, q *queue.Queue, r *queue.Registration) queue.Delivery {
	t.Helper()
	d, err := q.Take(within(t), r)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func claim(t testing.TB, q *queue.Queue, r *queue.Registration) *queue.Claim {
	t.Helper()
	c, err := q.Claim(within(t), r, take(t, q, r))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// done is the record of a claim that succeeded.
func done(c *queue.Claim) job.Record {
	rec := c.Record
	rec.State = job.Succeeded
	zero := 0
	rec.Result = &job.Result{
		Verdict: job.Verdict{Blame: job.BlameNone, Reason: job.Exited},
		Steps:   []job.StepResult{{Name: "run", ExitCode: &zero}},
	}
	return rec
}

func get(t testing.TB, q *queue.Queue, id string) job.Record {
	t.Helper()
	rec, err := q.Get(within(t), "default", id)
	if err != nil {
		t.Fatal(err)
	}
	return rec
}

// eventually waits until ok is true, asking again at short intervals.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	ctx := within(t)
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-ctx.Done():
			t.Fatalf("waited in vain: %s", what)
		case <-tick.C:
		}
	}
}

// withToken is the URL of a server with the token that it asks for.
func withToken(s *queue.Server, token string) string {
	return strings.Replace(s.URL(), "nats://", "nats://"+token+"@", 1)
}
