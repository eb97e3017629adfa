package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/sandlot-dev/sandlot/pkg/job"
	"github.com/sandlot-dev/sandlot/pkg/queue"
	"github.com/sandlot-dev/sandlot/pkg/telemetry"
	"github.com/sandlot-dev/sandlot/test/scripted"
	"github.com/sandlot-dev/sandlot/worker"
)

// workerRole is the variable that makes this program a worker; its value is a
// workerSettings in JSON.
const workerRole = "SANDLOT_CHAOS_WORKER"

// workerSettings is how a worker with scripted sandboxes is set up.
type workerSettings struct {
	ID, Pool, Process, URL, Dir, Journal string
	Slots, Replicas                      int
	Drain                                time.Duration
}

// asWorker runs the worker if this process is to be one.
func asWorker() (is bool, code int) {
	text := os.Getenv(workerRole)
	if text == "" {
		return false, 0
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	defer stop()
	if err := runWorker(ctx, text); err != nil {
		fmt.Fprintln(os.Stderr, "worker:", err)
		return true, 1
	}
	return true, 0
}

// runWorker is the product's worker on sandboxes that keep a journal.
func runWorker(ctx context.Context, text string) error {
	var s workerSettings
	if err := json.Unmarshal([]byte(text), &s); err != nil {
		return err
	}
	file, err := os.OpenFile(s.Journal, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	defer file.Close()
	log := slog.New(telemetry.LogHandler(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelDebug})))
	q, err := queue.Open(ctx, queue.Config{URL: s.URL, Name: s.ID, Replicas: s.Replicas, Logger: log})
	if err != nil {
		return err
	}
	defer q.Close()
	tel, err := telemetry.Setup(ctx, telemetry.Config{Service: "worker", Instance: s.ID})
	if err != nil {
		return err
	}
	w, err := worker.New(worker.Config{
		ID: s.ID, Pool: s.Pool, Slots: s.Slots, Dir: s.Dir, Drain: s.Drain, Memory: 64 * job.GiB, Allowance: job.MiB,
		Runtime: &witness{Runtime: new(scripted.Runtime), journal: &journal{file: file}, worker: s.ID, process: s.Process},
		Queue:   q, Logger: log, Telemetry: tel,
	})
	if err != nil {
		return err
	}
	return w.Run(ctx)
}

// journal is a file that outlives its process: a line is with the kernel when
// write returns.
type journal struct {
	mu   sync.Mutex
	file *os.File
}

// entry is a line of it.
type entry struct {
	At       time.Time `json:"at"`
	Event    string    `json:"event"` // begin or end
	Exec     string    `json:"exec"`
	Job      string    `json:"job"`
	Attempt  int       `json:"attempt"`
	Worker   string    `json:"worker"`
	Process  string    `json:"process"`
	Complete bool      `json:"complete,omitempty"`
	Error    string    `json:"error,omitempty"`
}

func (j *journal) write(e entry) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	e.At = time.Now()
	line, err := json.Marshal(e)
	if err != nil {
		return err
	}
	_, err = j.file.Write(append(line, '\n'))
	return err
}

// witness writes down what its sandboxes do, and has them fail on demand: a
// step's environment may ask for faults of the first attempts.
type witness struct {
	worker.Runtime
	journal         *journal
	worker, process string
}

// envFault asks for faults: "prepare:2" fails the preparation of the first two
// attempts, "run:2" their runs, and with "exit:2" their programs fail.
const envFault = "CHAOS_FAULT"

// sandboxName is that of a task: job, attempt, and something random.
var sandboxName = regexp.MustCompile(`^(.+)-(\d+)-[0-9a-f]{8}$`)

// Prepare makes a sandbox that is watched.
func (w *witness) Prepare(ctx context.Context, task worker.Task) (worker.Sandbox, error) {
	parts := sandboxName.FindStringSubmatch(task.ID)
	if parts == nil {
		return nil, fmt.Errorf("sandbox name %q tells no job", task.ID)
	}
	attempt, err := strconv.Atoi(parts[2])
	if err != nil {
		return nil, err
	}
	where, times, _ := strings.Cut(task.Spec.Steps[0].Env[envFault], ":")
	n, _ := strconv.Atoi(times)
	if where == "prepare" && attempt <= n {
		return nil, errors.New("this preparation was asked to fail")
	}
	if where == "exit" && attempt <= n {
		steps := slices.Clone(task.Spec.Steps)
		steps[0].Command = []string{"sh", "-c", "exit 3"}
		task.Spec.Steps = steps
	}
	box, err := w.Runtime.Prepare(ctx, task)
	if err != nil {
		return nil, err
	}
	e := entry{Exec: task.ID, Job: parts[1], Attempt: attempt, Worker: w.worker, Process: w.process}
	return &watched{Sandbox: box, witness: w, about: e, fail: where == "run" && attempt <= n}, nil
}

// watched is a sandbox that writes down when it runs.
type watched struct {
	worker.Sandbox
	witness *witness
	about   entry
	fail    bool
}

// Run prints the execution's name, so that the result tells where it is from,
// and runs the steps.
func (b *watched) Run(ctx context.Context, sink worker.Sink) (seen job.Observation, err error) {
	e := b.about
	e.Event = "begin"
	if err := b.witness.journal.write(e); err != nil {
		return job.Observation{}, err
	}
	defer func() {
		e.Event, e.Complete = "end", err == nil && !b.fail
		if err != nil {
			e.Error = err.Error()
		}
		if writeErr := b.witness.journal.write(e); err == nil {
			err = writeErr
		}
	}()
	if err := sink.Output(0, worker.Stdout, []byte(e.Exec+"\n")); err != nil {
		return job.Observation{}, err
	}
	if b.fail {
		return job.Observation{}, errors.New("this run was asked to fail")
	}
	return b.Sandbox.Run(ctx, sink)
}
