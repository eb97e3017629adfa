// Package ha tests that Sandlot goes on when a part of it dies: schedulers and
// NATS servers are processes that are killed, sandboxes are scripted.
package ha

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/sandlot-dev/sandlot/pkg/api"
	"github.com/sandlot-dev/sandlot/pkg/client"
	"github.com/sandlot-dev/sandlot/pkg/job"
	"github.com/sandlot-dev/sandlot/pkg/queue"
	"github.com/sandlot-dev/sandlot/pkg/telemetry"
	"github.com/sandlot-dev/sandlot/test/need"
	"github.com/sandlot-dev/sandlot/test/scripted"
	"github.com/sandlot-dev/sandlot/test/testenv"
	"github.com/sandlot-dev/sandlot/worker"
)

// token is that of all schedulers: a client may ask any of them.
const token = "token-of-all-schedulers"

var (
	binDir string
	build  = sync.OnceValues(func() (testenv.Program, error) { return testenv.Build(binDir) })
)

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "sandlot-ha-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	binDir = dir
	code := m.Run()
	_ = os.RemoveAll(dir)
	os.Exit(code)
}

func program(t *testing.T) testenv.Program {
	t.Helper()
	p, err := build()
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// scheduler starts one more scheduler and waits until it answers.
func scheduler(t *testing.T, nats string, args ...string) *testenv.Instance {
	t.Helper()
	dir := testenv.ShortDir(t)
	if err := os.WriteFile(filepath.Join(dir, "token"), []byte(token+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	args = append([]string{"--listen", "127.0.0.1:0", "--nats", nats}, args...)
	return testenv.Serving(t, program(t).Role(t, "scheduler", dir, args...), dir)
}

// connect opens a queue of the test's own.
func connect(t *testing.T, config queue.Config) *queue.Queue {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	config.Logger = testenv.Logger(t, config.Name)
	q, err := queue.Open(ctx, config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(q.Close)
	return q
}

// startWorker runs a worker with scripted sandboxes in the test's process.
func startWorker(t *testing.T, config queue.Config, slots int) {
	t.Helper()
	q := connect(t, config)
	tel, err := telemetry.Setup(t.Context(), telemetry.Config{Service: "worker", Instance: config.Name})
	if err != nil {
		t.Fatal(err)
	}
	w, err := worker.New(worker.Config{
		ID: config.Name, Slots: slots, Dir: t.TempDir(), Runtime: new(scripted.Runtime), Queue: q,
		Logger: testenv.Logger(t, config.Name), Telemetry: tel, Versions: job.Runtime{Sandlot: "test"},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(testenv.Background(t, config.Name, w.Run))
}

// setImage makes the image of scripted jobs known.
func setImage(t *testing.T, q *queue.Queue) {
	t.Helper()
	image := queue.Image{Name: testenv.Image, Digest: testenv.ScriptedImage.Digest, Source: "test", CreatedAt: time.Now().UTC()}
	testenv.Eventually(t, time.Minute, "the image is known", func() bool { return q.SetImage(t.Context(), image) == nil })
}

// Two schedulers, of which the one that leads is killed: the other accepts all
// the while, answers for what the first was asked, keeps those waiting that
// wait, and releases within 10 s.
func TestOneOfTwoSchedulersIsKilled(t *testing.T) {
	nats := testenv.NATS(t, need.NATSServer(t))
	first := scheduler(t, nats) // alone at first, so it leads
	setImage(t, connect(t, queue.Config{URL: nats, Name: "test"}))
	startWorker(t, queue.Config{URL: nats, Name: "w1"}, 4)
	first.WaitForWorkers(t, 1)
	if done, err := first.Client.Submit(t.Context(), testenv.Sh("echo hello"), 20*time.Second); err != nil || done.State != job.Succeeded {
		t.Fatalf("%s, %v", testenv.Verdict(done), err)
	}
	second := scheduler(t, nats)
	second.WaitForWorkers(t, 1)

	// Asked of the first, waited for at the second.
	long, err := first.Client.Submit(t.Context(), testenv.Sh("sleep 3; echo answered by the other"), 0)
	if err != nil {
		t.Fatal(err)
	}
	quick := client.New(client.Config{Server: second.URL, Token: token, Patience: -1})
	waited := make(chan api.Job, 1)
	go func() {
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		done, err := quick.Wait(ctx, long.ID)
		if err != nil {
			t.Errorf("wait at the other scheduler: %v", err)
		}
		waited <- done
	}()

	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	accepted := make(chan api.Job, 1000)
	stop := make(chan struct{})
	submitted := make(chan struct{})
	go func() {
		defer close(submitted)
		tick := time.NewTicker(50 * time.Millisecond)
		defer tick.Stop()
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			case <-tick.C:
			}
			// No patience: a refusal would be an error.
			got, err := quick.Submit(ctx, testenv.Sh(fmt.Sprintf("echo %d", i)), 0)
			if err != nil {
				t.Errorf("submit %d: %v", i, err)
				return
			}
			accepted <- got
		}
	}()
	for range 10 { // some before, under load
		<-accepted
	}
	first.Kill(t)
	killed := time.Now()
	late, err := quick.Submit(ctx, testenv.Sh("echo after the fall"), 0)
	if err != nil {
		t.Fatal(err)
	}
	done, err := quick.Wait(ctx, late.ID)
	if err != nil || done.State != job.Succeeded {
		t.Fatalf("%s, %v", testenv.Verdict(done), err)
	}
	took := time.Since(killed)
	t.Logf("the first result came %v after the kill", took.Round(10*time.Millisecond))
	if took > 10*time.Second {
		t.Errorf("the first result came %v after the kill, promised are 10 s", took)
	}
	close(stop)
	<-submitted
	close(accepted)
	for one := range accepted {
		if done, err := quick.Wait(ctx, one.ID); err != nil || done.State != job.Succeeded {
			t.Errorf("%s: %s, %v", one.ID, testenv.Verdict(done), err)
		}
	}
	if done := <-waited; len(done.Steps) != 1 || done.Steps[0].Stdout.Text != "answered by the other\n" {
		t.Errorf("who waited got %s %+v", testenv.Verdict(done), done.Steps)
	}
}
