package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"sync"
	"time"

	"github.com/sandlot-dev/sandlot/pkg/api"
)

// outcome is what became of one seed.
type outcome struct {
	Seed     uint64        `json:"seed"`
	Profile  string        `json:"profile"`
	Server   string        `json:"server"`
	Mount    string        `json:"mount"`
	Flushes  int64         `json:"flushes"`
	Settled  time.Duration `json:"settled_ns"` // from the last boot until all had ended
	Took     time.Duration `json:"took_ns"`
	Stats    stats         `json:"stats"`
	Findings []string      `json:"findings"`
}

// quiet is how long all may take to end after the last loss: the hint of a job
// that nobody speaks of comes again after 60 s.
const quiet = 4 * time.Minute

// run has a machine lose its power so many times under load, at moments that
// the seed chooses, and what is left judged by a claim. An error is one of the
// harness.
func run(ctx context.Context, s setup, seed uint64, losses int, c claim) (o outcome, err error) {
	began := time.Now()
	o = outcome{Seed: seed, Profile: string(s.Profile), Server: "nats-server"}
	if s.Embedded {
		o.Server = "embedded"
	}
	if err := os.MkdirAll(s.Out, 0o755); err != nil {
		return o, err
	}
	m, err := newMachine(s, seed)
	if err != nil {
		return o, err
	}
	defer func() { err = errors.Join(err, m.close()) }()
	o.Mount = m.disks[0].options
	l := newLedger()
	defer func() {
		o.Stats, o.Findings, o.Took = l.stats, l.findings, time.Since(began)
		for _, d := range m.disks {
			o.Flushes += d.flushes
		}
	}()
	if err := m.switchOn(ctx); err != nil {
		return o, err
	}
	r := rand.New(rand.NewPCG(seed, 4))
	for range losses {
		cut, err := m.lifeUntilCut(ctx, l, r)
		if err != nil {
			return o, err
		}
		l.stats.Pages, l.stats.Gone = l.stats.Pages+cut.pages, l.stats.Gone+cut.lost
		if err := m.switchOn(ctx); err != nil {
			return o, err
		}
		records, err := m.records(ctx)
		if err != nil {
			return o, fmt.Errorf("read records after the loss: %w", err)
		}
		l.judge(records, cut.at, c)
	}
	if len(l.findings) > 0 {
		return o, nil // what is lost does not end
	}
	booted := time.Now()
	err = m.settle(ctx, l)
	o.Settled = time.Since(booted)
	return o, err
}

// lifeUntilCut works for a while and loses its power.
func (m *machine) lifeUntilCut(ctx context.Context, l *ledger, r *rand.Rand) (loss, error) {
	ear, err := m.listen(l)
	if err != nil {
		return loss{}, err
	}
	defer ear.Close()
	c, err := m.startRest(ctx)
	if err != nil {
		return loss{}, err
	}
	working, rest := context.WithCancel(ctx)
	defer rest()
	var all sync.WaitGroup
	theirs := rand.New(rand.NewPCG(r.Uint64(), 5)) // r goes on to be ours
	all.Go(func() { c.work(working, l, theirs) })
	err = sleep(ctx, time.Duration(1500+r.IntN(2500))*time.Millisecond)
	var cut loss
	if err == nil {
		err = m.alive()
	}
	if err == nil {
		cut, err = m.cut()
	}
	rest()
	all.Wait()
	return cut, err
}

// settle starts everything for the last time, and wants every job that is
// there to end with one result, the one that was answered if one was.
func (m *machine) settle(ctx context.Context, l *ledger) error {
	c, err := m.startRest(ctx)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, quiet)
	defer cancel()
	var all sync.WaitGroup
	next := make(chan string)
	for range 16 {
		all.Go(func() {
			for id := range next {
				c.await(ctx, l, id)
			}
		})
	}
	for _, id := range l.waiting() {
		next <- id
	}
	close(next)
	all.Wait()
	return m.alive()
}

// await waits for the end of a job, and looks at it once more.
func (c *clients) await(ctx context.Context, l *ledger, id string) {
	found := func(format string, args ...any) {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.found(format, args...)
	}
	for ended := 0; ended < 2; {
		var j api.Job
		status, err := c.ask(ctx, http.MethodGet, "/v1/jobs/"+id+"?wait=5s", nil, &j)
		switch {
		case status == http.StatusNotFound:
			found("job %s is answered 404 in the end: %v", id, err)
			return
		case ctx.Err() != nil:
			found("job %s has not ended within %s: %s, %v", id, quiet, j.State, err)
			return
		case err == nil && j.State.Final():
			ended++
			l.told(j)
		case err != nil:
			_ = sleep(ctx, 100*time.Millisecond)
		}
	}
}
