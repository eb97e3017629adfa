package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/sandlot-dev/sandlot/pkg/api"
	"github.com/sandlot-dev/sandlot/pkg/client"
	"github.com/sandlot-dev/sandlot/pkg/job"
	"github.com/sandlot-dev/sandlot/pkg/queue"
)

// sandlot is the product, in its processes.
type sandlot struct {
	settings *settings
	dir      string
	natsURL  string
	client   *client.Client
	url      string
	token    string

	server, scheduler, worker *process
	// schedulerPID is for who looks on while the scheduler is replaced.
	schedulerPID atomic.Int64
}

// apiToken is what the parts show each other; they listen on loopback only
// and last as long as the bench.
const apiToken = "bench-queue-token"

// startSandlot starts all processes, the worker only where it is wanted now.
func (s *settings) startSandlot(ctx context.Context, profile queue.Profile, withWorker bool) (_ *sandlot, err error) {
	b := &sandlot{settings: s}
	if b.dir, err = os.MkdirTemp("", "sandlot-bench-queue-"); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, b.close())
		}
	}()
	if err = b.startServer(ctx, profile); err != nil {
		return nil, err
	}
	if err = b.startScheduler(ctx); err != nil {
		return nil, err
	}
	if withWorker {
		err = b.startWorker(ctx)
	}
	return b, err
}

// role is the command of a role of this binary.
func (b *sandlot) role(name string, args ...string) (*exec.Cmd, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	dir := filepath.Join(b.dir, name)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	args = append([]string{name, "-name", "bench-" + name, "-dir", dir, "-token", apiToken}, args...)
	if to := b.settings.pprof; to != "" {
		if err := os.MkdirAll(to, 0o755); err != nil {
			return nil, err
		}
		args = append(args, "-pprof", filepath.Join(to, name+".pprof"))
	}
	return exec.Command(self, args...), nil
}

func (b *sandlot) startServer(ctx context.Context, profile queue.Profile) error {
	cmd, err := b.role("server", "-profile", string(profile))
	if err != nil {
		return err
	}
	if b.server, err = begin(ctx, "server", "ready ", cmd); err != nil {
		return err
	}
	address := strings.TrimPrefix(strings.Fields(b.server.word)[1], "nats://")
	b.natsURL = "nats://" + apiToken + "@" + address
	return nil
}

func (b *sandlot) startScheduler(ctx context.Context) error {
	dir := filepath.Join(b.dir, "scheduler")
	cmd := exec.Command(b.settings.sandlot, "scheduler", "--data-dir", dir, "--listen", "127.0.0.1:0",
		"--nats", b.natsURL, "--log-level", "warn")
	if b.settings.pprof != "" {
		var err error
		if cmd, err = b.role("scheduler", "-url", b.natsURL); err != nil {
			return err
		}
	}
	var err error
	if b.scheduler, err = begin(ctx, "scheduler", "is ready", cmd); err != nil {
		return err
	}
	b.schedulerPID.Store(int64(b.scheduler.cmd.Process.Pid))
	for name, to := range map[string]*string{"address": &b.url, "token": &b.token} {
		text, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			return err
		}
		*to = strings.TrimSpace(string(text))
	}
	b.client = client.New(client.Config{Server: b.url, Token: b.token, Patience: -1})
	return nil
}

func (b *sandlot) startWorker(ctx context.Context) error {
	cmd, err := b.role("worker", "-url", b.natsURL, "-slots", strconv.Itoa(b.settings.slots))
	if err != nil {
		return err
	}
	b.worker, err = begin(ctx, "worker", "ready", cmd)
	return err
}

func (b *sandlot) close() error {
	return errors.Join(b.worker.stop(), b.scheduler.stop(), b.server.stop(), os.RemoveAll(b.dir))
}

// requestLines is how many jobs one request submits, submitters how many
// requests are under way at once.
const (
	requestLines = 1000
	submitters   = 2
)

// turn submits n jobs as one batch and waits until the result of each stands
// in the record.
func (b *sandlot) turn(ctx context.Context, n int) (measured, error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Minute)
	defer cancel()
	batch := client.NewBatch()
	before, err := b.used()
	if err != nil {
		return measured{}, err
	}
	began := time.Now()
	if err := b.submit(ctx, batch, n); err != nil {
		return measured{}, err
	}
	if err := b.ended(ctx, batch, n); err != nil {
		return measured{}, err
	}
	took := time.Since(began)
	after, err := b.used()
	if err != nil {
		return measured{}, err
	}
	return costs(n, took, before, after), nil
}

// costs is what n jobs took.
func costs(n int, took time.Duration, before, after []spent) measured {
	m := measured{rate: float64(n) / took.Seconds()}
	var parts []string
	for i := range after {
		each := float64((after[i].time - before[i].time).Microseconds()) / float64(n)
		m.cpu += each
		parts = append(parts, fmt.Sprintf("%s %.0f", after[i].name, each))
	}
	m.parts = "(" + strings.Join(parts, ", ") + ")"
	return m
}

// spent is the processor time that a process has had.
type spent struct {
	name string
	time time.Duration
}

func (b *sandlot) used() ([]spent, error) {
	var all []spent
	for _, p := range []*process{b.server, b.scheduler, b.worker} {
		if p == nil {
			continue
		}
		d, err := p.used()
		if err != nil {
			return nil, err
		}
		all = append(all, spent{p.name, d})
	}
	return all, nil
}

// submit submits n jobs in requests of requestLines; batch names them.
func (b *sandlot) submit(ctx context.Context, batch string, n int) error {
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(submitters)
	for first := 0; first < n && ctx.Err() == nil; first += requestLines {
		group.Go(func() error { return b.request(ctx, batch, first, min(requestLines, n-first)) })
	}
	return group.Wait()
}

// request submits some jobs and reads what became of each.
func (b *sandlot) request(ctx context.Context, batch string, first, n int) error {
	var body bytes.Buffer
	for i := range n {
		// Of several queues none holds more than a million.
		fmt.Fprintf(&body, `{"key":"%d","image":"%s","command":["true"],"queue":"q%d"}`+"\n", first+i, image, (first+i)%4)
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, b.url+"/v1/jobs?batch="+batch, &body)
	if err != nil {
		return err
	}
	r.Header.Set("Authorization", "Bearer "+b.token)
	r.Header.Set("Content-Type", "application/x-ndjson")
	answer, err := http.DefaultClient.Do(r)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(io.LimitReader(answer.Body, 1000))
		return fmt.Errorf("submit: %s: %s", answer.Status, text)
	}
	accepted := 0
	for in := bufio.NewScanner(answer.Body); in.Scan(); {
		var line api.LineAnswer
		if err := json.Unmarshal(in.Bytes(), &line); err != nil {
			return fmt.Errorf("answer to a line: %w", err)
		}
		if line.Error != nil {
			return fmt.Errorf("line %d was refused: %w", line.Line, line.Error)
		}
		accepted++
	}
	if accepted != n {
		return fmt.Errorf("%d of %d lines were answered", accepted, n)
	}
	return nil
}

// ended waits until all n jobs of a batch have succeeded, each once.
func (b *sandlot) ended(ctx context.Context, batch string, n int) error {
	for {
		counts, err := b.client.Batch(ctx, batch)
		if err != nil {
			return err
		}
		if counts.Final == n {
			if counts.States[job.Succeeded] != n {
				return fmt.Errorf("of %d jobs only %d succeeded: %v", n, counts.States[job.Succeeded], counts.States)
			}
			return nil
		}
		if err := sleep(ctx, 20*time.Millisecond); err != nil {
			return fmt.Errorf("%d of %d jobs have ended: %w", counts.Final, n, err)
		}
	}
}

func sleep(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
