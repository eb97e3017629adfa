package queue_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sandlot-dev/sandlot/pkg/job"
	"github.com/sandlot-dev/sandlot/pkg/queue"
	"github.com/sandlot-dev/sandlot/scheduler"
)

// leading runs the scheduler's leader, and what wakes it, until the test or
// stop ends it.
func leading(t testing.TB, q *queue.Queue, grace time.Duration) (l *scheduler.Lead, stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	l = &scheduler.Lead{Queue: q, Logger: logger(t), Grace: grace}
	var wg sync.WaitGroup
	wg.Go(func() { _ = l.Run(ctx) })
	wg.Go(func() { _ = q.Follow(ctx, func(queue.Change) {}, nil) })
	stop = func() { cancel(); wg.Wait() }
	t.Cleanup(stop)
	return l, stop
}

func TestLostHintsComeBack(t *testing.T) {
	for name, lose := range map[string]func(*queue.Queue, context.Context) error{
		"of INTAKE": queue.LoseHints,
		"of READY": func(q *queue.Queue, ctx context.Context) error {
			releaseAll(t, q, lead(t, q))
			return queue.LoseReady(q, ctx)
		},
	} {
		t.Run(name, func(t *testing.T) {
			q := fresh(t)
			for _, id := range []string{"a", "b", "c"} {
				accept(t, q, spec(id))
			}
			if err := lose(q, within(t)); err != nil {
				t.Fatal(err)
			}
			l, _ := leading(t, q, time.Second)
			r := register(t, q, "w1")
			seen := map[string]bool{}
			for range 3 {
				c := claim(t, q, r)
				seen[c.Record.ID] = true
				if err := q.Commit(within(t), c, done(c)); err != nil {
					t.Fatal(err)
				}
			}
			if n := l.Counters.Restored.Load(); len(seen) != 3 || n != 3 {
				t.Fatalf("saw %v, restored %d", seen, n)
			}
		})
	}
}

// TestHintThatNobodyTellsOfComesBack loses a hint under a leader that has no
// reason to look: no worker is lost, nothing reconnects.
func TestHintThatNobodyTellsOfComesBack(t *testing.T) {
	q := fresh(t)
	ctx, cancel := context.WithCancel(t.Context())
	l := &scheduler.Lead{Queue: q, Logger: logger(t), Grace: time.Second, Often: 100 * time.Millisecond}
	var loops sync.WaitGroup
	loops.Go(func() { _ = l.Run(ctx) })
	loops.Go(func() { _ = q.Follow(ctx, func(queue.Change) {}, nil) })
	t.Cleanup(func() { cancel(); loops.Wait() })
	eventually(t, "the passes of the beginning are over", func() bool { return l.Counters.Passes.Load() >= 3 })

	accept(t, q, spec("one"))
	eventually(t, "it is released", func() bool { return l.Counters.Released.Load() == 1 })
	if err := queue.LoseReady(q, within(t)); err != nil {
		t.Fatal(err)
	}
	c := claim(t, q, register(t, q, "w1"))
	if c.Record.ID != "one" || l.Counters.Restored.Load() != 1 {
		t.Fatalf("claimed %s, restored %d", c.Record.ID, l.Counters.Restored.Load())
	}
}

func TestLostTimerComesBack(t *testing.T) {
	s := stage(t)
	accept(t, s.q, spec("one"))
	releaseAll(t, s.q, s.lease)
	c := claim(t, s.q, s.worker)
	due := time.Now().Add(4 * time.Second)
	if err := s.q.Retry(within(t), c, job.Attempt{Outcome: job.Fault}, due); err != nil {
		t.Fatal(err)
	}
	if err := queue.LoseTimers(s.q, within(t)); err != nil {
		t.Fatal(err)
	}
	// Under the name that holds the lease, so that it leads at once.
	l, _ := leading(t, s.q, time.Second)
	if d := take(t, s.q, s.worker); d.TakenAt.Before(due) || l.Counters.Restored.Load() != 1 {
		t.Fatalf("taken %v before it was due, restored %d", due.Sub(d.TakenAt), l.Counters.Restored.Load())
	}
}

func TestClaimThatWasNeverListedRunsElsewhere(t *testing.T) {
	server := start(t, queue.ServerConfig{})
	q := open(t, queue.Config{Server: server, Name: "one"})
	lost := open(t, queue.Config{Server: server, Name: "lost"})
	leading(t, q, 0)
	accept(t, q, spec("one"))
	r := register(t, lost, "w1")
	queue.Unlist(r)
	claim(t, lost, r)
	lost.Close() // as if it was killed
	began := time.Now()
	c := claim(t, q, register(t, q, "w1"))
	t.Logf("ran again %v after the restart", time.Since(began).Round(time.Millisecond))
	if c.Record.Attempt != 2 || c.Record.Attempts[0].Outcome != job.Lost {
		t.Fatalf("%+v", c.Record)
	}
	if err := q.Commit(within(t), c, done(c)); err != nil {
		t.Fatal(err)
	}
}

// Everything is killed in the middle of many jobs and started again on the
// same files: every job ends exactly once.
func TestAllAcceptedJobsEndAfterEverythingRestarted(t *testing.T) {
	dir := t.TempDir()
	const n = 200
	first := start(t, queue.ServerConfig{Dir: dir})
	q := open(t, queue.Config{Server: first, Name: "up"})
	var recs []job.Record
	for i := range n {
		recs = append(recs, spec(fmt.Sprint("job", i)))
	}
	for _, a := range q.AcceptMany(within(t), recs) {
		if a.Err != nil {
			t.Fatal(a.Err)
		}
	}
	_, stopLead := leading(t, q, 0)
	r := register(t, q, "w1")
	for i := range 60 { // some done, some claimed, some released, some not
		c := claim(t, q, r)
		if i%2 == 0 {
			if err := q.Commit(within(t), c, done(c)); err != nil {
				t.Fatal(err)
			}
		}
	}
	q.Close() // the worker and the leader are cut off in mid-air
	stopLead()
	first.Close()

	again := open(t, queue.Config{Server: start(t, queue.ServerConfig{Dir: dir}), Name: "up"})
	x := follow(t, again)
	leading(t, again, 0)
	r2 := register(t, again, "w1")
	began := time.Now()
	ctx, cancel := context.WithCancel(within(t))
	var slots sync.WaitGroup
	for range 4 {
		slots.Go(func() {
			for {
				d, err := again.Take(ctx, r2)
				if err != nil {
					return
				}
				c, err := again.Claim(ctx, r2, d)
				if err != nil {
					continue
				}
				if err := again.Commit(ctx, c, done(c)); err != nil {
					t.Errorf("commit %s: %v", c.Record.ID, err)
				}
			}
		})
	}
	eventually(t, "all jobs end", func() bool {
		for i := range n {
			if !x.state(fmt.Sprint("job", i)).Final() {
				return false
			}
		}
		return true
	})
	t.Logf("all ended %v after the restart", time.Since(began).Round(time.Millisecond))
	cancel()
	slots.Wait()
	lost := 0
	for i := range n {
		rec := get(t, again, fmt.Sprint("job", i))
		if rec.State != job.Succeeded {
			t.Errorf("%s is %s", rec.ID, rec.State)
		}
		lost += len(rec.Attempts) - 1
	}
	if lost != 30 {
		t.Errorf("%d attempts were lost instead of the 30 that ran", lost)
	}
}

func TestHintInTheHandsOfADeadWorkerComesAgain(t *testing.T) {
	server := start(t, queue.ServerConfig{})
	q := open(t, queue.Config{Server: server, Name: "one"})
	lost := open(t, queue.Config{Server: server, Name: "lost"})
	accept(t, q, spec("one"))
	r := register(t, lost, "w1")
	releaseAll(t, q, lead(t, q))
	take(t, lost, r)
	lost.Close() // killed between take and claim
	l, _ := leading(t, q, 0)
	began := time.Now()
	c := claim(t, q, register(t, q, "w1"))
	t.Logf("came again %v after the restart", time.Since(began).Round(time.Millisecond))
	if c.Record.Attempt != 1 || l.Counters.Redelivered.Load() != 1 {
		t.Fatalf("attempt %d, redelivered %d", c.Record.Attempt, l.Counters.Redelivered.Load())
	}
}

func TestDrainedJobRunsSoonAfterARestart(t *testing.T) {
	dir := t.TempDir()
	first := start(t, queue.ServerConfig{Dir: dir})
	q := open(t, queue.Config{Server: first, Name: "up"})
	accept(t, q, spec("one"))
	r := register(t, q, "w1")
	_, stop := leading(t, q, 0)
	c := claim(t, q, r)
	if err := q.Retry(within(t), c, job.Attempt{Outcome: job.Drained}, time.Time{}); err != nil {
		t.Fatal(err)
	}
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	stop()
	q.Close()
	first.Close()
	again := open(t, queue.Config{Server: start(t, queue.ServerConfig{Dir: dir}), Name: "up"})
	leading(t, again, 0)
	began := time.Now()
	c = claim(t, again, register(t, again, "w1"))
	t.Logf("claimed %v after the restart", time.Since(began).Round(time.Millisecond))
	if c.Record.Attempt != 2 || job.PlatformFaults(c.Record.Attempts) != 0 {
		t.Fatalf("%+v", c.Record.Attempts)
	}
}

// killedServer is the part of TestKilledServerLosesNothingItAcknowledged that
// runs in a process of its own.
const killedServer = "SANDLOT_TEST_SERVER_DIR"

func TestMain(m *testing.M) {
	dir := os.Getenv(killedServer)
	if dir == "" {
		os.Exit(m.Run())
	}
	s, err := queue.StartServer(queue.ServerConfig{Dir: dir, Listen: "127.0.0.1:0", Token: "secret", Logger: slog.Default()})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	fmt.Println(s.URL())
	_, _ = io.Copy(io.Discard, os.Stdin) // until the test is gone
}

func TestKilledServerLosesNothingItAcknowledged(t *testing.T) {
	dir := t.TempDir()
	boot := func() (*exec.Cmd, string) {
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), killedServer+"="+dir)
		cmd.Stderr = t.Output()
		if _, err := cmd.StdinPipe(); err != nil {
			t.Fatal(err)
		}
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
		url, err := bufio.NewReader(out).ReadString('\n')
		if err != nil {
			t.Fatal(err)
		}
		return cmd, strings.Replace(strings.TrimSpace(url), "nats://", "nats://secret@", 1)
	}
	server, url := boot()
	q := open(t, queue.Config{URL: url, Name: "gateway"})
	ctx, cancel := context.WithCancel(within(t))
	defer cancel()
	var mu sync.Mutex
	var accepted []string
	var gateways sync.WaitGroup
	for g := range 4 {
		gateways.Go(func() {
			for i := 0; ; i++ {
				id := fmt.Sprintf("job-%d-%d", g, i)
				if _, _, err := q.Accept(ctx, spec(id)); err != nil {
					return
				}
				mu.Lock()
				accepted = append(accepted, id)
				if len(accepted) == 300 {
					_ = server.Process.Kill()
				}
				mu.Unlock()
			}
		})
	}
	_ = server.Wait()
	cancel()
	gateways.Wait()
	q.Close()
	_, url = boot()
	again := open(t, queue.Config{URL: url, Name: "gateway"})
	for _, id := range accepted {
		if rec := get(t, again, id); rec.State != job.Queued {
			t.Errorf("%s is %s", id, rec.State)
		}
	}
	leading(t, again, time.Second)
	r := register(t, again, "w1")
	waiting := map[string]bool{}
	for _, id := range accepted {
		waiting[id] = true
	}
	for len(waiting) > 0 { // others, accepted without an answer, may run as well
		c := claim(t, again, r)
		delete(waiting, c.Record.ID)
		if err := again.Commit(within(t), c, done(c)); err != nil {
			t.Fatal(err)
		}
	}
}
